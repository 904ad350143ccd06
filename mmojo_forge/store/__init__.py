"""The collection of trees and what they were built from: one protocol, several stores.

Read README.md (the steps and the invariants), `protocol` (what a store can do), `layout` (where things lie), then
`local`, which puts the parts together: `db` (rows), `add` (how trees come in), `objects` (how they are checked out),
`maintain` (collecting, verifying, repairing) and `bundle` (one file for machines without a network). `memory` is the
store of tests; `noop_lookup` alone serves the no-op path and is cheap to import.
"""
