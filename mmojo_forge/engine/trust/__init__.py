"""Whom to believe. Read `policy` (pure), then `keys` (where keys lie) and `signing` (of whole files)."""
