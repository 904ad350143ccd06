"""Reads from an untrusted cache. Read `reader` (traces, manifests and maps), then `transfer` (a tree's content)."""
