from mmojo_forge.recipe import Debian, Spec, recipe, unpack


@recipe("busybox")
def busybox() -> Spec:
    """Debian 12's static busybox: the smallest builder there is, for tests and benchmarks."""
    return unpack("busybox", Debian("busybox", "bookworm", ("busybox-static",)), debian_usr=True, include=("bin",))
