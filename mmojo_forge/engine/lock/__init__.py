"""Writes forge.lock and forge.outputs.

Read `lock`, then `outputs` (the expected trees of targets), `npm` (closures of npm packages) and `patches` (applies our
patches to new sources). `add_source` adds a file that the user obtained elsewhere.
"""
