"""Bills of materials: what a result contains and what it was built with.

Read `contents` (what recipes declare), `bom` (makes a bill), then `documents` (the bills of targets and packages).
`cyclonedx` and `spdx` encode a bill. `notices` collects licence texts, `redistribution` finds restricted nodes, and
`provenance` makes signed statements. `purl` and `licence` spell names and licences as other tools expect them.
"""
