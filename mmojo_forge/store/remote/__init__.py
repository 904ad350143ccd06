"""Caches: what was built, kept as plain files that any file server, bucket or folder can hold. See README.md."""
