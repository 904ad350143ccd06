"""The files that a server takes arguments from, `mmojo-server-args`: docs/args.md is their grammar.

`plain` and `yaml` read the two forms; `head` has the lines that packaging writes before the user's own.
"""
