"""The only layer that knows recipes, stores, executors, fetchers and caches together.

Read `session` first: one use of forge, which makes the `services` that a run acts through. Then `workspace` and
`evaluation` (from targets to derivations), `graph` and `plan` (what has to be done), and `realise`, which does it.
`protocols` declares what the engine needs from other layers; `reporter` receives its progress; `errors` and
`document` are shared. `config` reads the four configuration files, `host_facts` describes this machine, `difference`
says where two trees differ.

Each job has a folder: `lock`, `cache`, `check`, `sbom`, `package`, `bench`, `trust`, `query`. `noop` and `locations`
serve the no-op path and import as little as possible, because start-up time dominates there.
"""
