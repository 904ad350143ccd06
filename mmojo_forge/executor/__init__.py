"""Run one BuildRequest in isolation. Knows no derivation and no store.

Read `request` (what is asked and answered), `sandbox` (the contract as bubblewrap's command line), then `bubblewrap`,
which stays with a build to its end: `watch` enforces limits, `seccomp` filters system calls, `build_log` keeps what it
prints. `host_environment` and `varied_process` run a build in a varied host environment, for `forge check`.
"""
