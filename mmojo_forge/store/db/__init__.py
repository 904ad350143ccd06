"""The rows of a local store. Read `database` (one connection, the schema), then `traces`, `leases` and `locks`."""
