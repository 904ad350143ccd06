"""Fetching: turns a locator into bytes with the expected digest, and an archive into a file tree.

Read `locator` (the kinds of locators), `fetcher` (its two operations, `resolve` and `fetch`), `download` (how bytes
arrive), then the module of one kind: `pypi`, `npm` and `npm_lock`, `git`, `debian` with `debian_mirrors` and
`apt_get`. `settings` and `failure` are shared, `archive` unpacks, `fake` is for tests. The layer `net` speaks HTTP.
README.md has the grammar, the invariants and the reasons of errors.
"""
