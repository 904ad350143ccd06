"""Looking after a local store as a whole.

Read `recovery` first (what a kill leaves and how it is put right), then `maintenance`, which starts the rest: `usage`
counts, `gc` collects (`roots` and `stale_files` say what), `verify` compares, `repair` restores (`copy_recovery`).
"""
