"""The collection of trees and what they were built from: one protocol, several stores.

Import `LocalStore` from `store.local`, `MemoryStore` from `store.memory`, the protocols and errors from
`store.protocol`; `store.known` alone serves the no-op path and is cheap to import.
"""
