"""Values: immutable data that the rest of forge is built on. No module here touches files, clock or environment.

Read `digest` and `canonical` (identifiers and the bytes that they hash), then `tree` (a store object), `derivation`
(one build step) and `trace` (the outputs of a build step). `lockfile` parses and writes forge.lock and forge.outputs.
The other modules stand alone.
"""
