from mmojo_forge.recipe import Debian, Pypi, Spec, recipe, unpack


@recipe("compiler")
def compiler() -> Spec:
    """A toolchain that is one unpacked wheel."""
    return unpack("compiler-1.0", Pypi("compiler", "1.0", "compiler-1.0.whl"), subpath="compiler")


@recipe("compiler.userland")
def userland() -> Spec:
    """Debian packages as one tree."""
    return unpack("userland", Debian("base", "bookworm", ("bash", "make")), debian_usr=True)
