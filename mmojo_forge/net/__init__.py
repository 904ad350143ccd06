"""HTTP for everybody: `fetch` downloads sources with it, `cache` reads and writes caches with it.

Read `settings` (how patient a client is), `url` (how URLs are shown, and where a redirect may lead), `failure` (the one
exception) and `cancellation`; then `client`, which makes one exchange, and `stream`, which reads files and documents
with several tries. Only `client` and `stream` import requests, which takes long.
"""
