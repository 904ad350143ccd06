"""Writing forge.lock and forge.outputs.

Read `lock`, then `outputs` (what targets are expected to be built to), `npm` (closures of npm packages) and `patches`
(ours on new sources). `add_source` takes a file that somebody brings.
"""
