"""Fetching: from a locator to bytes with the expected digest, and from an archive to a file tree."""
