"""What a joined program is for, from its first 8 KiB:   joined.py PROGRAM

The format is that of APE's specification (ape/specification.md of Cosmopolitan): a magic that says whether Windows may
start it, and a shell script with an ELF header for each architecture, written as printf has it.
"""

import re
import sys

MACHINES = {62: "x86_64", 183: "aarch64"}
MAGICS = {b"MZqFpD='": "any", b"jartsr='": "not Windows", b"APEDBG='": "no loader"}
HEADER = re.compile(rb"printf '((?:[^'\\]|\\[0-7]{1,3})*)'")
OCTAL = re.compile(rb"\\([0-7]{1,3})")


def main() -> int:
    """Prints the systems, the architectures and the loader that it unpacks where none is in PATH."""
    with open(sys.argv[1], "rb") as file:
        head = file.read(8192)
    headers = [OCTAL.sub(lambda digits: bytes([int(digits[1], 8)]), one[1]) for one in HEADER.finditer(head)]
    elf = [one for one in headers if one.startswith(b"\x7fELF") and len(one) == 64]
    machines = {MACHINES.get(one[18] | one[19] << 8, "another") for one in elf}
    loader = re.search(rb"ape-1\.[0-9]+", head)
    print(MAGICS.get(head[:8], "no magic"), *sorted(machines), loader[0].decode() if loader else "no loader", sep=", ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
