"""Phases of packages that are built with meson and ninja, which come as inputs `meson` and `ninja`."""

from mmojo_forge.recipe import quote
from recipes.lib.zig import system_row

SYSTEM_NAMES = {"Linux": "linux", "Windows": "windows", "Darwin": "darwin"}
PROCESSORS = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
PROGRAM = "PYTHONPATH=/forge/meson NINJA=/forge/ninja/ninja python3 -B -m mesonbuild.mesonmain"


def configure(*options, system="linux-x86_64", source="/forge/source"):
    """The phase that configures a package for a system with the compilers of `zig_build`, to be installed at /.

    Libraries are static. As for another machine, meson runs nothing that it compiled.
    """
    name, processor = system_row(system).cmake
    processor = PROCESSORS[processor]
    words = [
        "--cross-file=/build/system.ini",
        "--buildtype=release",
        "--default-library=static",
        "--wrap-mode=nodownload",
        "--prefix=/",
        "--libdir=lib",
        *options,
    ]
    return f"""
cat > /build/system.ini <<'END'
[binaries]
c = '/forge/shims/cc'
cpp = '/forge/shims/c++'
ar = '/forge/shims/ar'
strip = '/forge/shims/strip'
windres = '/forge/shims/rc'

[host_machine]
system = '{SYSTEM_NAMES[name]}'
cpu_family = '{processor}'
cpu = '{processor}'
endian = 'little'
END
{PROGRAM} setup /build/b {source} {" ".join(quote(word) for word in words)}
"""


def install():
    """The phase that installs what `ninja_build` of cmake.py built into /forge/out/out."""
    return f"DESTDIR=/forge/out/out {PROGRAM} install -C /build/b --no-rebuild"
