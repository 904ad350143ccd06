from mmojo_forge.recipe import Component, DebianFile, Package, Spec, recipe, unpack
from recipes.lib.autotools import configure, make, make_install
from recipes.lib.install import tidy
from recipes.lib.zig import zig_build

SOURCE = DebianFile("pool/main/z/zlib/zlib_1.2.13.dfsg.orig.tar.bz2")


@recipe("zlib.source")
def source() -> Spec:
    """The source of zlib 1.2.13."""
    zlib = Component("zlib", "1.2.13", "Zlib", cpe="zlib:zlib", notices=("LICENSE",))
    return unpack("zlib-source", SOURCE, strip_components=1).made_of(zlib)


@recipe("zlib", group="example")
def zlib(zig: Package, userland: Package) -> Spec:
    """zlib 1.2.13, a static library with its headers: the plainest recipe of a package that has a configure script."""
    phases = {"configure": configure("--static"), "make": make(), "install": make_install(), "tidy": tidy()}
    return zig_build("zlib", zig=zig, userland=userland, source=Package("zlib.source"), phases=phases, links="")
