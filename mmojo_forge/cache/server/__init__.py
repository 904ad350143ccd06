"""The server behind `forge cache serve`: it serves a cache's folder over HTTP, and accepts writes with a token.

Read `server` (the composition), `connection`, `handler` (from a request to its answer), then `sending` and
`receiving`. `folder` and `objects` are the served files, `verify` checks uploads, and `tokens` controls access.
`limits` bounds what a client may use, `metrics` counts, and `failure` has the errors.
"""
