"""Which signatures forge trusts. Read `policy` (decides), then `keys` (stores keys) and `signing` (signs files)."""
