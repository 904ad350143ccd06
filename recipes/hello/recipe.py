from mmojo_forge.recipe import Component, Files, Package, Slice, Spec, build, link_ape, recipe
from recipes.lib.ran import DEBIAN, NEVER_ON_MACOS, QEMU, WINE
from recipes.lib.zig import CACHE, linked, suffix_of

# What each system's slice is compiled for; the smallest program that goes all the way to one file.
TARGETS = {
    "linux-x86_64": "x86_64-linux-musl",
    "linux-aarch64": "aarch64-linux-musl",
    "windows-x86_64": "x86_64-windows-gnu",
    "macos-aarch64": "aarch64-macos",
}


@recipe(
    "hello",
    variants={system: {"system": system} for system in TARGETS if system != "linux-x86_64"},
    group="example",
    ran={
        "hello": DEBIAN,
        "hello.linux-aarch64": QEMU,
        "hello.windows-x86_64": WINE,
        "hello.macos-aarch64": NEVER_ON_MACOS,
    },
)
def hello(zig: Package, userland: Package, *, system: str = "linux-x86_64") -> Spec:
    """A C and a C++ program for one system: the thinnest path from a recipe to something that runs."""
    suffix = suffix_of(system)
    spec = build(
        f"hello-{system}",
        userland=userland,
        inputs={"zig": zig, "source": Files("source")},
        env={
            **CACHE,
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
    spec = spec.made_of(Component("hello", licence="Apache-2.0")).containing("source", zig=linked(system))
    return spec.for_systems(system)


@recipe(
    "hello.ape",
    group="example",
    ran={"hello.ape": f"{DEBIAN}, {WINE}, {QEMU} for arm64; never on Windows or macOS"},
)
def hello_ape(hello: Package, ape: Package, userland: Package) -> Spec:
    """The hello programs of all systems in one file."""
    slices = {
        system: Slice(
            system=system,
            package=hello.with_options(system=system),
            path=f"bin/hello{suffix_of(system)}",
        )
        for system in TARGETS
    }
    return link_ape("hello.ape", userland=userland, launchers=ape, program="hello", slices=slices)
