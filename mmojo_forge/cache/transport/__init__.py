"""What holds a cache's files. Read `protocol`, then one of its implementations: `folder`, `web`, `bazel`, `bucket`.

`open_transport` chooses one from what a user wrote; `client` is the HTTP that `web` and `bazel` share; `fakes` are for
tests.
"""
