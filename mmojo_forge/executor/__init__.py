"""Runs one BuildRequest in isolation. It knows neither derivations nor the store.

Read `request` (requests and results), `sandbox` (the contract as bubblewrap's command line), then `bubblewrap`, which
supervises a build to its end. `watch` enforces limits, `seccomp` filters system calls, and `build_log` keeps the
output. `availability` explains why a machine cannot make sandboxes. For `forge check`, `host_environment` and
`varied_process` run a build in a varied host environment; `personality` sets what builds have. `fake` is for tests.
"""
