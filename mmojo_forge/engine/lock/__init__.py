"""Writing forge.lock. Read `lock`, then `npm` (closures of npm packages) and `patches` (ours on new sources)."""
