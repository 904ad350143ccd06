from mmojo_forge.recipe import Component, Pypi, Spec, recipe, unpack

VERSION = "1.9.1"


@recipe("meson")
def meson() -> Spec:
    """meson 1.9.1: a Python package for the userland's Python, run as `python3 -m mesonbuild.mesonmain`."""
    wheel = Pypi("meson", VERSION, f"meson-{VERSION}-py3-none-any.whl")
    return unpack(f"meson-{VERSION}", wheel, include=("mesonbuild",)).made_of(Component("meson", licence="Apache-2.0"))
