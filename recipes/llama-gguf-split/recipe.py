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

# Where they have been run, told for `forge list` by who ran them.
DEBIAN = "Debian 12 on x86-64 (Zen 5)"
RAN = {
    "llama-gguf-split.ape": DEBIAN,
    "llama-gguf-split.linux-x86_64-v2": DEBIAN,
    "llama-gguf-split.native": DEBIAN,
    "llama-gguf-split.debug": DEBIAN,
    "llama-gguf-split.linux-aarch64-v80": "qemu-user 7.2",
    "llama-gguf-split.windows-x86_64-v2": "Wine 8",
    "llama-gguf-split.macos-aarch64-m1": "built, never run",
}


@recipe("llama-gguf-split.ape", variants={name: {"of": name} for name in VARIANTS}, group="kit", ran=RAN)
def llama_gguf_split(*, of: str = "ape") -> Package:
    """Llama.cpp's tool that splits and joins model files, as it is built with mmojo-server."""
    return Package(f"mmojo-server.{of}").with_options(program="llama-gguf-split")
