from mmojo_forge.recipe import Pypi, Spec, recipe, unpack

WHEEL = "ziglang-0.15.2-py3-none-manylinux_2_12_x86_64.manylinux2010_x86_64.musllinux_1_1_x86_64.whl"


@recipe("zig")
def zig() -> Spec:
    """zig 0.15.2: clang 20, lld, and the C libraries of Linux, Windows and macOS; the binary is static."""
    return unpack("zig-0.15.2", Pypi("ziglang", "0.15.2", WHEEL), subpath="ziglang")
