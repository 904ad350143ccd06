"""Writes to a cache. Read `writer` (the order), `chunk_writer` (content to packs), `reuse` (chunks the cache has)."""
