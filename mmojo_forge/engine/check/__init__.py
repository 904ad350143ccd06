"""`forge check`: rebuilds nodes in a varied host environment and compares the outputs.

Read `check` (from request to report), `checker` (rebuilds and compares), then `variations` (what differs in a
rebuild). `bisect` finds which variation causes a difference; `receipt` signs the outcome.
"""
