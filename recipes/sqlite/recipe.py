from mmojo_forge.recipe import Component, Npm, Package, Spec, recipe
from recipes.lib.autotools import configure, make, make_install
from recipes.lib.install import tidy
from recipes.lib.ran import DEBIAN
from recipes.lib.sources import archive_within
from recipes.lib.zig import zig_build


@recipe("sqlite.source")
def source(userland: Package) -> Spec:
    """The source of SQLite 3.44.2 in few files, as its project releases it; it lies in an npm package."""
    within = "package/deps/sqlite-autoconf-3440200.tar.gz"
    spec = archive_within("sqlite-source", Npm("sqlite3", "5.1.7"), within, userland=userland)
    return spec.made_of(Component("sqlite", "3.44.2", "blessing", cpe="sqlite:sqlite"))


@recipe("sqlite", group="example", ran={"sqlite": f"{DEBIAN}: a query"})
def sqlite(zig: Package, userland: Package, *, system: str = "linux-x86_64") -> Spec:
    """SQLite 3.44.2: the program sqlite3, and the static library with its headers."""
    options = ("--disable-shared", "--disable-readline", "--disable-editline")
    phases = {
        "configure": configure(*options, system=system),
        "make": make(),
        "install": make_install(),
        "tidy": tidy(),
    }
    source = Package("sqlite.source")
    return zig_build("sqlite", zig=zig, userland=userland, source=source, phases=phases, system=system)
