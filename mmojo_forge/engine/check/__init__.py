"""`forge check`. Read `check` (from request to report), `checker` (one rebuild, compared), then `variations`.

`bisect` finds which variation makes the difference; `receipt` signs the outcome.
"""
