"""Values: no files, no clock, no environment. Everything else is built on these."""
