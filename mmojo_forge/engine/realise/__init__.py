"""From a request to results. Read `run` (the pipeline), `realise` (the states of nodes), then `builder` (one node)."""
