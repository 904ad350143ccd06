"""Caches: what was built, as plain files that any file server, bucket or folder can hold.

Read README.md (the layout, the order of writing, what always holds), `format` (what the files are), then `read` and
`write`. `transport` holds the files, `gc` removes old ones, `server` is `forge cache serve`. `failure` says how a
cache fails; for whoever asked, that is a miss.
"""
