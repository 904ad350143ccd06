"""Writing a cache. Read `writer` (the order), then `chunk_writer` (content to packs) and `reuse` (what is there)."""
