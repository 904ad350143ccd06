"""The only place where recipes, stores, executors and fetchers meet."""
