from mmojo_forge.recipe import Package, recipe
from recipes.lib.kit import ALL, program_of, ran, variants_of
from recipes.lib.ran import DEBIAN

RAN = {
    "vulkan": f"{DEBIAN}, on lavapipe, a device made of the CPU",
    "native-openblas": DEBIAN,
    "plain": DEBIAN,
}


@recipe("llama-bench.ape", variants=variants_of(ALL), group="kit", ran=ran("llama-bench", ALL, RAN))
def llama_bench(*, of: str = "ape") -> Package:
    """Llama.cpp's benchmark, as it is built with mmojo-server."""
    return program_of(of, "llama-bench")
