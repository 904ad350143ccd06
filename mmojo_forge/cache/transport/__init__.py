"""Transports store a cache's files. Read `protocol`, then an implementation: `folder`, `web`, `bazel` or `bucket`.

`open_transport` chooses the implementation by the URL. `web` and `bazel` share `client`, which turns HTTP answers
into results and errors of a cache. `fakes` are for tests.
"""
