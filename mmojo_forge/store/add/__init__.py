"""How trees come into a local store: each addition is one batch, which is all of it or nothing.

Read `scan` (what an untrusted build left), `import_files` (read once, hashed twice), `batch` (staged, then published),
then `add`, the ways in: a path, one file, another store, a cache piece by piece.
"""
