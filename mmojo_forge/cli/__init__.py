"""The command line: the only layer that touches argv, the environment, print and exit.

Read `main`, `command_tree` (every command and where it is), `context` (what each is given), then a command in `target`,
`ape`, `cache` or `store`. `console` prints, `progress` and `terminal` show a run, `options` are shared.
"""
