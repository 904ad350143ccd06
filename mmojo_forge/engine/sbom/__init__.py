"""What is in a result. Read `contents` (as recipes declare it), `bom` (the list), then `documents`.

`cyclonedx` and `spdx` encode a list, `notices` collects licence texts, `redistribution` says what may not be passed
on, `provenance` what was made of what. `purl` and `licence` are the names that other tools know.
"""
