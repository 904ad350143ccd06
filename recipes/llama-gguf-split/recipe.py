from mmojo_forge.recipe import Package, recipe
from recipes.lib.kit import ONE_PER_SYSTEM, program_of, ran, variants_of


@recipe(
    "llama-gguf-split.ape",
    variants=variants_of(ONE_PER_SYSTEM),
    group="kit",
    ran=ran("llama-gguf-split", ONE_PER_SYSTEM),
)
def llama_gguf_split(*, of: str = "ape") -> Package:
    """Llama.cpp's tool that splits and joins model files, as it is built with mmojo-server."""
    return program_of(of, "llama-gguf-split")
