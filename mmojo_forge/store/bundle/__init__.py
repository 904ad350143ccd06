"""Bundles: one file that carries trees, their content and traces to another store.

Read `records` (the format), then `writer` and `reader`.
"""
