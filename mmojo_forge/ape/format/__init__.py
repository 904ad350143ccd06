"""The formats in an APE as bytes: parsed, moved and encoded in memory, or read from an open stream.

`layout` says where pieces lie. `elf` and `pe` are the native headers, `script` the front with the shell part,
`slice_table` what the launchers read, `manifest` what forge reads, `zip_directory` what zip tools read.
"""
