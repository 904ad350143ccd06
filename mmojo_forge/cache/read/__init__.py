"""Reading a cache of which nothing is believed. Read `reader` (questions), then `transfer` (content of one tree)."""
