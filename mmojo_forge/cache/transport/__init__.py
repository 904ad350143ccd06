"""What holds a cache's files. Read `protocol`, then one of its implementations: `folder`, `web`, `bazel`, `bucket`.

`open_transport` chooses one from what a user wrote; `client` is what `web` and `bazel` share: what the answers
of `net` mean for a cache. `fakes` are for tests.
"""
