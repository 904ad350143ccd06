"""Fetching: turns a locator into bytes with the expected digest, and an archive into a file tree.

Read `locator` (the kinds of locators), `fetcher` (its two operations, `resolve` and `fetch`), `download` (how bytes
arrive), then the module of one kind: `pypi`, `npm`, `git`, `debian`. `archive` unpacks. `net` speaks HTTP. README.md
has the grammar, the invariants and the reasons of errors.
"""
