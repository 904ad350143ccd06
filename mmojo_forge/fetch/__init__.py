"""Fetching: from a locator to bytes with the expected digest, and from an archive to a file tree.

Read `locator` (what can be asked for), `fetcher` (the two questions: `resolve` and `fetch`), `download` (how bytes
arrive), then the module of one kind: `pypi`, `npm`, `git`, `debian`. `archive` unpacks. README.md has the grammar;
`net` speaks HTTP.
"""
