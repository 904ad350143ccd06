from mmojo_forge.recipe import Component, Pypi, Spec, recipe, unpack

WHEEL = "ninja-1.13.2-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"


@recipe("ninja")
def ninja() -> Spec:
    """ninja 1.13.2: the binary; needs only libc from the userland."""
    return unpack("ninja-1.13.2", Pypi("ninja", "1.13.2", WHEEL), subpath="ninja-1.13.2.data/scripts").made_of(
        Component("ninja", licence="Apache-2.0")
    )
