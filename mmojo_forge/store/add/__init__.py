"""How trees come into a local store. Each addition is one batch, which the store takes in whole or not at all.

Read `scan` (lists the files of an untrusted build), `import_files` (reads each once and hashes it twice) and `batch`
(stages, then publishes). Then read `add`, which has the ways in: a path, one file, another store, pieces from a cache.
"""
