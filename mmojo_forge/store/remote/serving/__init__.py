"""The server behind `forge cache serve`: a cache's folder over HTTP, to read and, with a token, to write."""
