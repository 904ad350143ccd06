"""The file formats of a cache. Read `layout` (paths), then `info` (what a cache says of itself), `chunks` and
`treemap` (content), and `index` (traces).
"""
