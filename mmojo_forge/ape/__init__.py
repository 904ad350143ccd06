"""Actually Portable Executables: native slices and assets linked into one file, and taken apart again.

Standard library only: this package also runs inside build sandboxes, as `python3 -m mmojo_forge.ape link SPEC OUT`.
README.md beside this file shows the file's layout.
"""
