from mmojo_forge.recipe import Component, Files, Package, Slice, Spec, build, link_ape, recipe

# What each system's slice is compiled for; the smallest program that goes all the way to one file.
TARGETS = {
    "linux-x86_64": "x86_64-linux-musl",
    "linux-aarch64": "aarch64-linux-musl",
    "windows-x86_64": "x86_64-windows-gnu",
    "macos-aarch64": "aarch64-macos",
}

# What zig links into C++ programs, by operating system.
RUNTIME = {
    "linux": ("compiler-rt", "musl", "libc++", "libc++abi", "libunwind"),
    "windows": ("compiler-rt", "mingw-w64", "winpthreads", "gdtoa", "libc++", "libc++abi", "libunwind"),
    "macos": ("compiler-rt", "libc++", "libc++abi"),
}


@recipe(
    "hello",
    variants={system: {"system": system} for system in TARGETS if system != "linux-x86_64"},
    group="example",
    ran={
        "hello": "Debian 12 on x86-64 (Zen 5)",
        "hello.linux-aarch64": "qemu-user 7.2",
        "hello.windows-x86_64": "Wine 8",
        "hello.macos-aarch64": "never; a signed Mach-O, as far as its structure tells",
    },
)
def hello(zig: Package, userland: Package, *, system: str = "linux-x86_64") -> Spec:
    """A C and a C++ program for one system: the thinnest path from a recipe to something that runs."""
    suffix = ".exe" if system.startswith("windows") else ""
    spec = build(
        f"hello-{system}",
        userland=userland,
        inputs={"zig": zig, "source": Files("source")},
        env={
            "ZIG_GLOBAL_CACHE_DIR": "/build/zig-cache",
            "ZIG_LOCAL_CACHE_DIR": "/build/zig-cache",
            "FLAGS": f"-target {TARGETS[system]} -Os -s -ffile-prefix-map=/forge/source=. -Werror=date-time",
        },
        phases={
            "compile": f"""
/forge/zig/zig cc $FLAGS -DSYSTEM='"{system}"' /forge/source/hello.c -o hello
/forge/zig/zig c++ $FLAGS /forge/source/words.cpp -o words
""",
            "install": f"""
mkdir -p /forge/out/out/bin
cp hello /forge/out/out/bin/hello{suffix}
cp words /forge/out/out/bin/words{suffix}
""",
        },
    )
    parts = RUNTIME[system.partition("-")[0]]
    return spec.made_of(Component("hello", licence="Apache-2.0")).containing("source", zig=parts).for_systems(system)


@recipe(
    "hello.ape",
    group="example",
    ran={"hello.ape": "Debian 12 on x86-64 (Zen 5), Wine 8, qemu-user 7.2 for arm64; never on Windows or macOS"},
)
def hello_ape(hello: Package, ape: Package, userland: Package) -> Spec:
    """The hello programs of all systems in one file."""
    slices = {
        system: Slice(
            system=system,
            package=hello.with_options(system=system),
            path=f"bin/hello{'.exe' if system.startswith('windows') else ''}",
        )
        for system in TARGETS
    }
    return link_ape("hello.ape", userland=userland, launchers=ape, program="hello", slices=slices)
