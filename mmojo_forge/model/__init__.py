"""Values: no files, no clock, no environment. Everything else is built on these.

Read `digest` and `canonical` (identifiers and the bytes they are made of), then `tree` (what a store object is),
`derivation` (one build step) and `trace` (what it was built to). `lockfile` is forge.lock and forge.outputs; the others
stand alone.
"""
