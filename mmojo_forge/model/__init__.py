"""Values: immutable data that the rest of forge is built on. No module here touches files, clock or environment.

Read `digest` and `canonical` (identifiers and the bytes that they hash), then `tree` (a store object), `derivation`
(one build step) and `trace` (the outputs of a build step). `lockfile` parses and writes forge.lock and forge.outputs.
`trace_entry` writes traces as JSON; `signature` and `minisign` sign them and files; `node_modules` is the npm part of
the lock.
"""
