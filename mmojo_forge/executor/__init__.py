"""Run one BuildRequest in isolation. Knows no derivation and no store."""
