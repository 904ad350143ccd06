"""The HTTP client that the rest of forge shares: `fetch` downloads sources with it, `cache` reads and writes caches.

Read `settings` (timeouts and limits), `url` (redaction and redirect rules), `failure` (the one exception) and
`cancellation` first. Then `client` makes one exchange, and `stream` reads files and documents with retries.
Only `client` and `stream` import requests, because that import is slow.
"""
