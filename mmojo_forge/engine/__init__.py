"""The only place where recipes, stores, executors, fetchers and caches meet.

Read `workspace` and `services` (what a run is given), `graph` and `plan` (what would be done), then `realise` (doing
it). `protocols` is what the engine needs of the outside, `reporter` what it tells. Then one folder for each job:
`lock`, `cache`, `check`, `sbom`, `package`, `bench`, `trust`, `query`. `noop` and `locations` serve the
no-op path: little is imported there.
"""
