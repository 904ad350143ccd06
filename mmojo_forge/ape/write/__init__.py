"""Writing APEs.

`spec` is the order, `link` makes the file, `entry_writer` its zip entries; `edit` changes a file that is linked.
"""
