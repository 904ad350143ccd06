from mmojo_forge.recipe import Component, Package, Pypi, Spec, recipe
from recipes.lib.autotools import configure, make
from recipes.lib.install import install, tidy
from recipes.lib.ran import DEBIAN
from recipes.lib.sources import archive_within
from recipes.lib.zig import suffix_of, zig_build

SOURCE = Pypi("jq", "1.13.0", "jq-1.13.0.tar.gz")


@recipe("jq.source")
def source(userland: Package) -> Spec:
    """The source of jq 1.8.2 and of the Oniguruma that it brings along; it lies in a Python package."""
    spec = archive_within("jq-source", SOURCE, "jq-1.13.0/deps/jq-1.8.2.tar.gz", userland=userland)
    return spec.made_of(
        Component("jq", "1.8.2", "MIT", cpe="jqlang:jq", notices=("COPYING",)),
        Component("oniguruma", "6.9.10", "BSD-2-Clause", notices=("vendor/oniguruma/COPYING",)),
    )


@recipe("jq", group="example", ran={"jq": f"{DEBIAN}: a filter with a regular expression"})
def jq(zig: Package, userland: Package, *, system: str = "linux-x86_64") -> Spec:
    """jq 1.8.2, with regular expressions: one program without libraries."""
    options = ("--disable-shared", "--enable-all-static", "--disable-docs", "--with-oniguruma=builtin")
    phases = {
        "configure": configure(*options, system=system),
        "make": make(),
        "install": install(programs=(f"jq{suffix_of(system)}",)),
        "tidy": tidy(),
    }
    return zig_build("jq", zig=zig, userland=userland, source=Package("jq.source"), phases=phases, system=system)
