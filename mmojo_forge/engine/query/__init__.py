"""Questions that change nothing, and repairs. Read `query`, then `targets`, `doctor`, `maintenance`, `repair`."""
