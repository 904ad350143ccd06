from mmojo_forge.recipe import Component, Package, Spec, build, forge_files, recipe
from recipes.lib.zig import CACHE


@recipe("ape")
def launchers(zig: Package, userland: Package) -> Spec:
    """The small programs in an APE that unpack the slice for a machine and start it: for Windows and Linux."""
    return build(
        "ape-launchers",
        userland=userland,
        inputs={"zig": zig, "launcher": forge_files("ape/launcher")},
        env=CACHE,
        phases={"compile": "ZIG=/forge/zig/zig OUT=/forge/out/out sh /forge/launcher/build.sh"},
        # They are freestanding: no C library.
    ).made_of(Component("ape-launcher", licence="Apache-2.0")).containing("launcher", zig=("compiler-rt",))
