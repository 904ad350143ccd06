from typing import Literal

from mmojo_forge.recipe import Component, Files, Package, Spec, Url, build, recipe, unpack

VERSION = "4.0.2"
# What three projects that use it pin; forge.lock gets the BLAKE3 from whoever has the file first.
SHA256 = "85b8c37a406d862e656ad4ec14be9f6ce474c1b436b9615e91a55208aced3f44"
SIZE = 441_763_966
ARCHIVE = Url(
    f"https://github.com/jart/cosmopolitan/releases/download/{VERSION}/cosmocc-{VERSION}.zip",
    mirrors=(f"https://cosmo.zip/pub/cosmocc/cosmocc-{VERSION}.zip",),
    sha256=SHA256,
    size=SIZE,
)

# What is linked into each program. The texts are in it, too, as its linker puts them there.
COSMOPOLITAN = Component("cosmopolitan", VERSION, "ISC")
LIBCXX = Component("cosmopolitan-libcxx", VERSION, "Apache-2.0 WITH LLVM-exception")

PLACE = "/forge/cosmocc"
# The loader is first, so that an APE that a shell takes for a script is started by it; the tools are last, for there
# is a make and a mkdir among them.
ENVIRONMENT = {"PATH": f"{PLACE}/ape:/usr/bin:{PLACE}/bin", "TMPDIR": "/build/tmp"}

# Which checks read the tree as it was unpacked; the others use what was made of it.
OF_THE_TREE = ("archive", "drivers")
OF_THE_TOOLCHAIN = ("apelink", "headers", "programs", "sandbox")

CHECK = r"""
mkdir -p "$TMPDIR" /build/home
sh "/forge/checks/$CHECK.sh" "$CHECKED" "$CHECKED" /forge/out/out
"""

JOIN = r"""
for report in /forge/report-*; do cat "$report"; done > /forge/out/out
"""


NEVER = "never: a stand-in of the same layout was"


@recipe("cosmocc.tree", ran={"cosmocc.tree": NEVER})
def tree() -> Spec:
    """cosmocc 4.0.2 as it is released: compilers for x86-64 and arm64, and Cosmopolitan's libraries."""
    return unpack(f"cosmocc-tree-{VERSION}", ARCHIVE).made_of(
        Component("cosmocc", licence="ISC AND GPL-3.0-or-later WITH GCC-exception-3.1", of=ARCHIVE.name),
        COSMOPOLITAN,
        LIBCXX,
    )


@recipe("cosmocc", ran={"cosmocc": NEVER})
def cosmocc(userland: Package) -> Spec:
    """cosmocc 4.0.2 for sandboxes: an input named `cosmocc`, its programs behind scripts that start APE's loader.

    It is run at /forge/cosmocc only; /forge/cosmocc/ape is to be first in PATH, TMPDIR a path without spaces.
    """
    return build(
        f"cosmocc-{VERSION}",
        userland=userland,
        inputs={"tree": Package("cosmocc.tree"), "scripts": Files("scripts")},
        phases={"toolchain": f"sh /forge/scripts/toolchain.sh /forge/tree /forge/out/out {PLACE}"},
    ).containing("tree", scripts=())


@recipe(
    "cosmocc.check-archive",
    variants={f"check-{name}": {"check": name} for name in (*OF_THE_TREE[1:], *OF_THE_TOOLCHAIN)},
    ran={f"cosmocc.check-{name}": NEVER for name in (*OF_THE_TREE, *OF_THE_TOOLCHAIN)},
)
def check(
    cosmocc: Package,
    userland: Package,
    *,
    check: Literal["archive", "drivers", "apelink", "headers", "programs", "sandbox"] = "archive",
) -> Spec:
    """A report that one thing about cosmocc is as recipes expect; what is not, ends the build and is named."""
    name, package = ("tree", Package("cosmocc.tree")) if check in OF_THE_TREE else ("cosmocc", cosmocc)
    return build(
        f"cosmocc-check-{check}",
        userland=userland,
        inputs={name: package, "checks": Files("checks")},
        env={**ENVIRONMENT, "CHECK": check, "CHECKED": f"/forge/{name}"},
        phases={"check": CHECK},
    ).containing()


@recipe("cosmocc.checks", ran={"cosmocc.checks": NEVER})
def checks(userland: Package) -> Spec:
    """All that was checked about cosmocc; what is built with it has this as an input, and so is not built without."""
    reports = {f"report-{name}": Package(f"cosmocc.check-{name}") for name in (*OF_THE_TREE, *OF_THE_TOOLCHAIN)}
    return build("cosmocc-checks", userland=userland, inputs=reports, phases={"join": JOIN}).containing()
