"""The commands at the top level. `realize` is the one to read first."""
