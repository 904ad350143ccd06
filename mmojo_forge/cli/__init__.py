"""The command line: the only layer that touches argv, the environment, print and exit.

Read `main`, then `command_tree`, which lists every command and the module it lies in. Then read a command: those at the
top level are in `target`, those of a group in `ape`, `cache` or `store`. A command gets an `engine.session.Session`.
`options` has the options that commands share. `console` prints results; `progress` keeps the state of a run, and
`terminal` shows it. `completion` prints what shells complete commands with.
"""
