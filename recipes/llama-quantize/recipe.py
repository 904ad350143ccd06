from mmojo_forge.recipe import Package, recipe
from recipes.lib.kit import ONE_PER_SYSTEM, program_of, ran, variants_of


@recipe(
    "llama-quantize.ape",
    variants=variants_of(ONE_PER_SYSTEM),
    group="kit",
    ran=ran("llama-quantize", ONE_PER_SYSTEM),
)
def llama_quantize(*, of: str = "ape") -> Package:
    """Llama.cpp's tool that converts models to other precisions, as it is built with mmojo-server."""
    return program_of(of, "llama-quantize")
