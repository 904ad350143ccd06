"""The server behind `forge cache serve`: a cache's folder over HTTP, to read and, with a token, to write.

Read `server` (everything put together), `connection`, `handler` (from a request to its answer), then `sending` and
`receiving`. `folder` and `objects` are what is served, `verify` what is accepted, `tokens` who may.
"""
