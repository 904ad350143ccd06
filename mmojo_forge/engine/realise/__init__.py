"""Turns a request into results.

Read `run` (the pipeline), `realise` and `state` (the state machine of a run), then `builder` (one node). `schedule`
picks the next node, `worker_pool` runs it. `builtins` has forge's own builders. `host_references` checks outputs,
`failed_builds` keeps failed builds for inspection, and `evaluation_cache` serves the no-op path.
"""
