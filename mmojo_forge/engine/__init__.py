"""The only layer that knows recipes, stores, executors, fetchers and caches together.

Read `workspace` and `services` first: they hold what a run acts on. `graph` and `plan` say what has to be done, and
`realise` does it. `protocols` declares what the engine needs from other layers; `reporter` receives its progress.

Each job has a folder: `lock`, `cache`, `check`, `sbom`, `package`, `bench`, `trust`, `query`. `noop` and `locations`
serve the no-op path and import as little as possible, because start-up time dominates there.
"""
