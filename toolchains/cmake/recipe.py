from mmojo_forge.recipe import Component, Pypi, Spec, recipe, unpack

WHEEL = "cmake-4.4.4-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"


@recipe("cmake")
def cmake() -> Spec:
    """CMake 4.4.4: bin/cmake and its modules; needs only libc from the userland."""
    return unpack("cmake-4.4.4", Pypi("cmake", "4.4.4", WHEEL), subpath="cmake/data").made_of(
        Component("cmake", licence="BSD-3-Clause")
    )
