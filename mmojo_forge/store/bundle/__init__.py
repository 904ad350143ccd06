"""Bundles: one file with trees, content and traces. Read `records` (the format), then `writer` and `reader`."""
