"""Compares the kernels that host code asks for by name with those in the device code that is to be put into it.

usage: python3 kernels.py HOST ARCHITECTURE...

All are folders. For each HOST/NAME.o, the names among its strings (the host registers kernels under their mangled
names) have to be exactly the entry points of NAME.cubin or NAME.ptx in each of the others: a kernel that is missing
there would be found out when it is first launched. Ends with 1 and a line for each that differs.
"""

import re
import struct
import sys
from pathlib import Path

# ELF64: the fields of a section header and of a symbol (System V ABI), of which some are wanted here.
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
SYMTAB = 2
FUNCTION = 2
# Of a symbol in a cubin: that it is an entry point rather than a function of the device's own.
ENTRY = 0x10

# Mangled names; those in a namespace of one file's own are of variables, which no host code asks for.
MANGLED = re.compile(rb"(?:^|(?<=\0))_Z\w+(?=\0)")
OF_ONE_FILE = re.compile(rb"_ZN\d+_INTERNAL_")
PTX_ENTRY = re.compile(rb"^\s*(?:\.visible\s+|\.weak\s+)?\.entry\s+(\w+)", re.MULTILINE)


def sections(data):
    """Name, header and content of each section."""
    offset, count, names = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<2xHH", data, 58)
    headers = [SECTION.unpack_from(data, offset + number * SECTION.size) for number in range(count)]
    contents = [data[row[4] : row[4] + row[5]] for row in headers]
    return [(text(contents[names], row[0]), row, content) for row, content in zip(headers, contents, strict=True)]


def text(table, at):
    """The string at an offset of a string table."""
    return table[at : table.index(b"\0", at)]


def known(path):
    """The names that the code of an object knows as strings."""
    found = set()
    for name, _, content in sections(path.read_bytes()):
        if name.startswith(b".rodata"):
            found.update(MANGLED.findall(content))
    return found


def compiled(folder, name):
    """The kernels that there is code for."""
    ptx = folder / f"{name}.ptx"
    if ptx.exists():
        return set(PTX_ENTRY.findall(ptx.read_bytes()))
    every = sections((folder / f"{name}.cubin").read_bytes())
    [(header, table)] = [(row, content) for _, row, content in every if row[1] == SYMTAB]
    names = every[header[6]][2]
    rows = [SYMBOL.unpack_from(table, at) for at in range(0, len(table), SYMBOL.size)]
    return {text(names, row[0]) for row in rows if row[1] & 0xF == FUNCTION and row[2] & ENTRY}


def main(host, *architectures):
    """Whether all are alike."""
    alike = True
    for path in sorted(Path(host).glob("*.o")):
        names = known(path)
        wanted = {name for name in names if not OF_ONE_FILE.match(name)}
        for folder in map(Path, architectures):
            entries = compiled(folder, path.stem)
            for kernel in sorted((wanted - entries) | (entries - names)):
                alike = False
                where = f"not in {folder}" if kernel in wanted else f"in {folder}, but not known to the host"
                print(f"{path.stem}: kernel {kernel.decode()} is {where}", file=sys.stderr)
    return alike


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
