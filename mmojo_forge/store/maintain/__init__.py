"""Maintenance of a whole local store: recovery, garbage collection, verification, repair.

Read `recovery` first: it cleans up after killed processes and power cuts. Then read `maintenance`, which starts the
rest: `usage` counts, `gc` collects (with `roots` and `stale_files`), `verify` compares, and `repair` restores (with
`copy_recovery`).
"""
