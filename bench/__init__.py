"""Measurements side by side with peers, in one run, on one machine: `python -m bench`. Nothing here asserts a time."""
