"""Removing old content from a cache. Read `inventory` (what is there), `selection` (what may go), then `collect`.

`gc_marker` is what collections and pushes that run at the same time leave for each other.
"""
