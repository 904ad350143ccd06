"""The store: file trees by content, and the build trace that says what each action key was built to.

Start with README.md (the steps and the invariants). Then read `protocol` (what a store can do), `layout` (where files
lie) and `local`, the store on this machine, which puts the parts together:

    db          the database: rows, leases, locks
    add         how trees come in
    objects     how trees are checked out
    maintain    collecting, verifying, repairing
    bundle      one file that carries trees to a machine without a network

`scratch` holds what a process has not finished, `failure` turns system errors into StoreErrors.
`memory` is the store that tests use. `noop_lookup` serves the no-op path alone, so it imports almost nothing.
"""
