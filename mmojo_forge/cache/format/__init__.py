"""The file formats of a cache. Read `layout` (paths), then `chunks` and `treemap` (content), then `index` (traces)."""
