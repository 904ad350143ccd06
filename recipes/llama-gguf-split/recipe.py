from mmojo_forge.recipe import Package, recipe

# The builds of mmojo-server that it is a part of: one per system, for its speed does not depend on the CPU level.
VARIANTS = (
    "linux-x86_64-v2",
    "linux-aarch64-v80",
    "windows-x86_64-v2",
    "macos-aarch64-m1",
    "native",
    "debug",
)


@recipe("llama-gguf-split.ape", variants={name: {"of": name} for name in VARIANTS})
def llama_gguf_split(*, of: str = "ape") -> Package:
    """Llama.cpp's tool that splits and joins model files, as it is built with mmojo-server."""
    return Package(f"mmojo-server.{of}").with_options(program="llama-gguf-split")
