"""The files of a cache. Read `layout` (their names), then `chunks`, `treemap` (content) and `index` (traces)."""
