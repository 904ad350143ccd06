"""`forge cache …`: share results with other builders. Read `push` first, which uploads and downloads."""
