"""Caches as the engine uses them. Read `settings`, `open`, then `substituter` (asked before building).

`push` uploads, `background_push` does so after each build, `status` and `challenge` ask without believing, `export`
writes bundles.
"""
