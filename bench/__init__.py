"""`python -m bench`: measure forge and its peers in turn, on one machine. Nothing here asserts a time.

Read `cases` first; it has the cases. `forge` and `nix` are the two sides, and `measure` times them.
"""
