"""Actually Portable Executables: native slices and assets linked into one file, and taken apart again.

Standard library only: this package also runs inside build sandboxes, as `python3 -m mmojo_forge.ape link SPEC OUT`.
README.md beside this file shows the file's layout. Read in this order: `format` (bytes and where they lie), `files`
(gigabytes, checksums, files that appear whole), `read`, `write`; then `arguments`, `packaging` and `oci`, which make a
server with its model out of a program. `errors` has what goes wrong in all of them.
"""
