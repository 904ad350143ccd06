"""Caches: build outputs and signed traces as plain files, on any file server, bucket or folder.

Read README.md first (layout, order of writing, invariants), then `format` (the files), `read` and `write`.
`transport` stores the files, `gc` removes old ones, and `server` implements `forge cache serve`. `failure` has the
errors of a cache; most callers treat one as a miss.
"""
