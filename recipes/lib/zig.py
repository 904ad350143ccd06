"""zig's compilers: what each system needs, scripts that other build systems take for gcc, and what gets linked."""

from typing import NamedTuple

from mmojo_forge.recipe import BadOption, Files, build

# The folder of zig's caches. The sandbox is new each time, so it is always empty at first.
CACHE = {"ZIG_GLOBAL_CACHE_DIR": "/build/zig-cache", "ZIG_LOCAL_CACHE_DIR": "/build/zig-cache"}


class System(NamedTuple):
    """What one system is called: by zig, its plainest CPU for zig, by CMake (two names), by configure scripts."""

    target: str
    cpu: str
    cmake: tuple
    host: str


SYSTEMS = {
    "linux-x86_64": System("x86_64-linux-musl", "x86_64", ("Linux", "x86_64"), "x86_64-linux-musl"),
    # For programs that load modules, GPU backends, at run time.
    "linux-x86_64-gnu": System("x86_64-linux-gnu.2.28", "x86_64", ("Linux", "x86_64"), "x86_64-linux-gnu"),
    "linux-aarch64": System("aarch64-linux-musl", "generic", ("Linux", "aarch64"), "aarch64-linux-musl"),
    "windows-x86_64": System("x86_64-windows-gnu", "x86_64", ("Windows", "x86_64"), "x86_64-w64-mingw32"),
    "macos-aarch64": System("aarch64-macos.13.0", "apple_m1", ("Darwin", "arm64"), "aarch64-apple-darwin"),
}

# What zig links into every program, by operating system; of glibc it is the start files.
C_LIBRARIES = {
    "linux": ("compiler-rt", "musl"),
    "linux-x86_64-gnu": ("compiler-rt", "glibc"),
    "windows": ("compiler-rt", "mingw-w64", "winpthreads", "gdtoa"),
    "macos": ("compiler-rt",),
}
# macOS has an unwinder of its own.
CXX_LIBRARIES = ("libc++", "libc++abi")
UNWINDER = ("libunwind",)


def system_row(system):
    """What is known of a system; raises BadOption for one that there is not."""
    if system not in SYSTEMS:
        raise BadOption("system", system, "nothing here is compiled for such a system", hint=f"There are {', '.join(SYSTEMS)}.")
    return SYSTEMS[system]


def linked(system, cxx=True):
    """What zig links into the programs of a system, for `.containing(zig=…)`: its C library, and that of C++.

    `system` is `linux-x86_64`, `linux-x86_64-gnu` …; its first word alone will do where the C library is the usual one.
    """
    name = system.partition("-")[0]
    parts = C_LIBRARIES.get(system) or C_LIBRARIES[name]
    if not cxx:
        return parts
    return (*parts, *CXX_LIBRARIES, *(() if name == "macos" else UNWINDER))


def base_of(system):
    """The system that programs run on, whatever C library they use: what `.for_systems` wants."""
    return system.removesuffix("-gnu")


def suffix_of(system):
    """What programs of the system end in: `.exe`, or nothing."""
    return ".exe" if system.startswith("windows") else ""


def zig_build(
    name,
    *,
    zig,
    userland,
    source,
    phases,
    system="linux-x86_64",
    links="c",
    inputs=None,
    env=None,
    outputs=("out",),
    parallel=True,
):
    """A build of /forge/source by zig for one system, whose `cc`, `c++`, `ar`, `ranlib`, `ld`, `strip`, `rc` are zig's.

    `links` says what gets into the outputs beside the source, for bills of materials: `"c"` or `"c++"` for programs and
    shared libraries, nothing (`""`) for static libraries. Other inputs that do, you name: `.containing("zlib")`.
    Phases come from autotools.py, cmake.py, meson.py and install.py, or are shell text of yours. It compiles for the
    system's plainest CPU; another is set by `env={"ZIG_CPU": "x86_64_v3"}`.
    """
    row = system_row(system)
    spec = build(
        name,
        userland=userland,
        inputs={"zig": zig, "shims": Files("shims"), "source": source, **(inputs or {})},
        env={
            **CACHE,
            "PATH": "/forge/shims:/usr/bin",
            "ZIG_TARGET": row.target,
            "ZIG_CPU": row.cpu,
            "CC": "cc",
            "CXX": "c++",
            "AR": "ar",
            "RANLIB": "ranlib",
            "LD": "ld",
            "STRIP": "strip",
            "RC": "rc",
            **(env or {}),
        },
        outputs=outputs,
        parallel=parallel,
        phases=phases,
    )
    parts = {"zig": linked(system, cxx=links == "c++")} if links else {}
    return spec.containing("source", **parts).for_systems(base_of(system))


def script_text(words, variables=(), tools=("ar", "ranlib")):
    """Shell text that makes `cc`, `c++` and other tools of zig in /build/bin, as older recipes have it.

    `words` are the compilers' arguments, in which each %s stands for one of the `variables` of the environment.
    New recipes use `zig_build`.
    """
    given = "".join(f' "${name}"' for name in variables)
    return f"""
for tool in cc c++; do
    printf '#!/bin/sh\\nexec /forge/zig/zig %s {words} "$@"\\n' $tool{given} > /build/bin/$tool
done
{tool_text(*tools)}"""


def tool_text(*tools):
    """Shell text that makes these tools of zig in /build/bin, which are called as zig has them."""
    return f"""for tool in {" ".join(tools)}; do
    printf '#!/bin/sh\\nexec /forge/zig/zig %s "$@"\\n' $tool > /build/bin/$tool
done
chmod 755 /build/bin/*
"""


# zig makes libc and libc++ for a target when it first links: at once, not in the middle of CMake's probes.
WARM_UP = r"""
printf '#include <iostream>\nint main() { std::cout << 1; }\n' > /build/runtime.cpp
/build/bin/c++ -O3 /build/runtime.cpp -o /build/runtime
"""
