"""Read-only commands about targets and this machine, and the upkeep of the store.

Read `query`, then `targets` (docs/targets.md), `doctor` (this machine), `maintenance` and `repair` (the store).
"""
