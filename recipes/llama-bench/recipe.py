from mmojo_forge.recipe import Package, recipe

# The builds of mmojo-server that it is a part of.
VARIANTS = (
    "linux-x86_64-v2",
    "linux-x86_64-v3",
    "linux-x86_64-v4x",
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
)


@recipe("llama-bench.ape", variants={name: {"of": name} for name in VARIANTS})
def llama_bench(*, of: str = "ape") -> Package:
    """Llama.cpp's benchmark, as it is built with mmojo-server."""
    return Package(f"mmojo-server.{of}").with_options(program="llama-bench")
