"""The database of a local store, its leases and its key locks.

Read `database` (the connection and the schema), then `traces`, `leases` and `locks`.
"""
