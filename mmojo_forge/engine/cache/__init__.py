"""Caches as the engine uses them. Read `settings`, `open`, then `substituter` (asked before forge builds).

`push` uploads results; `background_push` does so during a run. `status` and `challenge` compare what caches claim.
`export` writes bundles, `gc` collects a cache, `serve` runs a cache server.
"""
