"""Removes old content from a cache. Read `inventory` (the objects), `selection` (those that may go), then `collect`.

`gc_marker` coordinates collections and pushes that run at the same time.
"""
