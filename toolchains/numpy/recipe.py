from mmojo_forge.recipe import Component, Pypi, Spec, recipe, unpack

WHEEL = "numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl"


@recipe("numpy")
def numpy() -> Spec:
    """numpy 2.4.6 for the userland's Python 3.11: put the tree on PYTHONPATH; needs libc and libstdc++ from it."""
    return unpack("numpy-2.4.6", Pypi("numpy", "2.4.6", WHEEL), include=("numpy", "numpy.libs"), exclude=("**/tests",)).made_of(
        # The wheel brings OpenBLAS and the run-time libraries of gcc.
        Component("numpy", licence="BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1")
    )
