from mmojo_forge.recipe import Package, recipe

# The builds of mmojo-server that it is a part of.
VARIANTS = (
    "linux-x86_64-v2",
    "linux-x86_64-v3",
    "linux-x86_64-v4x",
    "linux-x86_64-gnu-v2",
    "linux-x86_64-gnu-v3",
    "linux-x86_64-gnu-v4x",
    "linux-aarch64-v80",
    "linux-aarch64-v82",
    "linux-aarch64-v86",
    "windows-x86_64-v2",
    "windows-x86_64-v3",
    "windows-x86_64-v4x",
    "macos-aarch64-m1",
    "native",
    "native-openblas",
    "debug",
    "plain",
    "hosts",
    "vulkan",
    "cuda",
    "cuda-quick",
)

# Where they have been run, told for `forge list` by who ran them.
DEBIAN = "Debian 12 on x86-64 (Zen 5)"
RAN = {
    "llama-bench.ape": DEBIAN,
    "llama-bench.linux-x86_64-v2": DEBIAN,
    "llama-bench.linux-x86_64-v3": DEBIAN,
    "llama-bench.linux-x86_64-v4x": DEBIAN,
    "llama-bench.vulkan": f"{DEBIAN}, on lavapipe, a device made of the CPU",
    "llama-bench.native": DEBIAN,
    "llama-bench.native-openblas": DEBIAN,
    "llama-bench.debug": DEBIAN,
    "llama-bench.plain": DEBIAN,
    "llama-bench.linux-aarch64-v80": "qemu-user 7.2",
    "llama-bench.linux-aarch64-v82": "qemu-user 7.2",
    "llama-bench.linux-aarch64-v86": "qemu-user 7.2",
    "llama-bench.windows-x86_64-v2": "Wine 8",
    "llama-bench.windows-x86_64-v3": "Wine 8",
    "llama-bench.windows-x86_64-v4x": "Wine 8",
    "llama-bench.macos-aarch64-m1": "built, never run",
}


@recipe("llama-bench.ape", variants={name: {"of": name} for name in VARIANTS}, group="kit", ran=RAN)
def llama_bench(*, of: str = "ape") -> Package:
    """Llama.cpp's benchmark, as it is built with mmojo-server."""
    return Package(f"mmojo-server.{of}").with_options(program="llama-bench")
