"""A stand-in for cosmocc: a zip of the same layout, of which nothing compiles anything.

Its tools are shell scripts that look like APEs: they begin with the same bytes, no kernel starts them, a shell runs
them as scripts, and then they want a loader. `loader.c` is that loader, and is a real program. A "compiler" keeps the
texts that a C source puts out, a "program" is a script that says them, and `apelink` joins two such and appends a zip.
What passes with it shows that scripts and recipes call the tools as they mean to. It shows nothing of cosmocc.
"""

from __future__ import annotations

import stat
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
MAGIC = "MZqFpD='\n'\n"
ARCHS = ("x86_64", "aarch64")

# A real one looks for `ape` in PATH first, and unpacks the loader that it has inside if there is none.
_START = r"""
if [ -z "${STANDIN_LOADED:-}" ]; then
    type ape > /dev/null 2>&1 && exec ape "$0" "$@"
    t="${TMPDIR:-${HOME:-.}}/.ape-1.10"
    echo '#!/bin/sh' > "$t"
fi
unset STANDIN_LOADED
"""

_GCC = r"""
case ${STANDIN_ARGV0##*/} in *-linux-cosmo-g[c+][c+]) ;; *) echo "called as $STANDIN_ARGV0" >&2; exit 1 ;; esac
compile= out=a.out inputs=
while [ $# -gt 0 ]; do
    case $1 in
        -c) compile=yes ;;
        -o) out=$2; shift ;;
        *.c | *.cpp | *.o) inputs="$inputs $1" ;;
    esac
    shift
done
if [ "$compile" ]; then
    "${STANDIN_ARGV0%/*}/../libexec/gcc/ARCH-linux-cosmo/14.1.0/as" || exit
    sed -n 's/^.*puts("\([^"]*\)").*$/echo "\1"/p' $inputs > "$out"
else
    cat $inputs > "$out"
    chmod 755 "$out"
fi
"""

_APELINK = r"""
case $1 in
    -v) echo 'stand-in for apelink'; exit ;;
    -h)
        echo '  -h          this'
        echo '  -o OUT      what to write'
        echo '  -l LOADER   a loader'
        echo '  -M SOURCE   a loader in C'
        echo '  -V BITS     systems'
        echo '  -s          no symbols'
        exit ;;
esac
first= said="$*"
while [ $# -gt 0 ]; do
    case $1 in
        -o) out=$2; shift ;;
        -l | -M) test -f "$2" || exit 1; shift ;;
        *) test -f "$1" || exit 1; first=${first:-$1} ;;
    esac
    shift
done
python3 - "$out" "$said" "$first" <<'END'
import sys, zipfile

def header(machine):
    return "printf '" + r"\177ELF\2\1\1\11" + r"\0" * 8 + r"\2\0" + machine + r"\0" * 45 + "'\n"

with open(sys.argv[1], "w") as file, open(sys.argv[3]) as first:
    file.write("MZqFpD='\n'\nif false; then # else: .ape-1.10\n" + header(r"\76") + header(r"\267") + "fi\n")
    file.write(first.read() + "exit\n")
with zipfile.ZipFile(sys.argv[1], "a") as archive:
    archive.writestr(zipfile.ZipInfo("usr/share/zoneinfo/UTC"), b"TZif")
    if not sys.argv[1].startswith(("/build/tmp", "/tmp")):
        archive.writestr(zipfile.ZipInfo("apelink-arguments"), sys.argv[2])
END
chmod 755 "$out"
"""

_CROSS = r"""#!/bin/sh
# stand-in for the driver for one architecture
BIN=${0%/*} PROG=${0##*/} ARCH=${PROG%%-*} ARCH=${ARCH##*/} output=
case $PROG in *++) compiler=linux-cosmo-g++ ;; *) compiler=linux-cosmo-gcc ;; esac
case $PROG in *++) flags='-fno-rtti -fno-exceptions' ;; *) flags= ;; esac
"$BIN/$ARCH-$compiler" $flags "$@" || exit
for x; do
    if [ "$output" = next ]; then output=$x; elif [ "$x" = -o ]; then output=next; fi
done
"$BIN/fixupobj" "$output"
"""

_AR = r"""
case $1 in *r*) shift; out=$1; shift; cat "$@" > "$out" ;; esac
"""


def ape(script: str) -> bytes:
    """A shell script that looks like an APE."""
    return (MAGIC + _START + script).encode()


def files() -> dict[str, tuple[int, bytes]]:
    """The mode and content of each file of the archive; of a symlink, its target."""
    programs: dict[str, bytes] = {
        "bin/apelink": ape(_APELINK),
        "bin/fixupobj": ape('test -f "$1"\n'),
        "bin/make": ape('echo "this is the make of the stand-in" >&2\nexit 1\n'),
        "bin/cosmocross": _CROSS.encode(),
        "bin/cosmocc": _CROSS.encode(),
    }
    links: dict[str, str] = {"bin/cosmoc++": "cosmocc"}
    plain: dict[str, bytes] = {
        "README.md": b"A stand-in: it compiles nothing.\n",
        "bin/ape-aarch64.elf": b"\x7fELF of the stand-in\n",
        "bin/ape-m1.c": b"int main(void) { return 0; }\n",
        "bin/cosmoranlib": b"#!/bin/sh\n",
        "include/third_party/libcxx/vector": b"",
        **{f"include/{name}.h": b"" for name in ("unistd", "pthread", "sys/mman", "spawn", "dlfcn", "linux/limits")},
    }
    for arch in ARCHS:
        compiler = _GCC.replace("ARCH", arch)
        for tool in ("gcc", "g++"):
            programs[f"bin/{arch}-linux-cosmo-{tool}"] = ape(compiler)
        programs[f"bin/{arch}-linux-cosmo-ar"] = ape(_AR)
        programs[f"bin/{arch}-linux-cosmo-ranlib"] = ape('test -f "$1"\n')
        programs[f"libexec/gcc/{arch}-linux-cosmo/14.1.0/as"] = ape("exit 0\n")
        links[f"bin/{arch}-linux-cosmo-as"] = f"../libexec/gcc/{arch}-linux-cosmo/14.1.0/as"
        links[f"bin/{arch}-unknown-cosmo-ar"] = f"{arch}-linux-cosmo-ar"
        links[f"bin/{arch}-unknown-cosmo-cc"] = "cosmocross"
        links[f"bin/{arch}-unknown-cosmo-c++"] = "cosmocross"
        plain[f"{arch}-linux-cosmo/lib/libcosmo.a"] = plain[f"{arch}-linux-cosmo/lib/libcxx.a"] = b"!<arch>\n"
    return {
        **{name: (stat.S_IFREG | 0o755, content) for name, content in programs.items()},
        **{name: (stat.S_IFREG | 0o444, content) for name, content in plain.items()},
        **{name: (stat.S_IFLNK | 0o777, target.encode()) for name, target in links.items()},
    }


def write_archive(path: Path, loader: bytes, changes: Mapping[str, tuple[int, bytes] | None] | None = None) -> None:
    """Write the zip as Info-ZIP does with -y: modes and symlinks kept, no folder on top. `changes` are files that are
    otherwise, or (None) are not there."""
    everything = {**files(), "bin/ape-x86_64.elf": (stat.S_IFREG | 0o755, loader), **(changes or {})}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, entry in sorted(everything.items()):
            if entry is not None:
                info = zipfile.ZipInfo(name)
                info.create_system = 3
                info.external_attr = entry[0] << 16
                archive.writestr(info, entry[1])


def build_loader(zig: Path, folder: Path) -> bytes:
    """The loader: a static program for x86-64 Linux."""
    out = folder / "loader"
    command: list[str | Path] = [zig, "cc", "-target", "x86_64-linux-musl", "-O2", "-s", HERE / "loader.c", "-o", out]
    subprocess.run(command, check=True, capture_output=True)
    return out.read_bytes()
