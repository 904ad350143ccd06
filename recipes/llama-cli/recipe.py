from mmojo_forge.recipe import Package, recipe
from recipes.lib.kit import ALL, program_of, ran, variants_of


@recipe("llama-cli.ape", variants=variants_of(ALL), group="kit", ran=ran("llama-cli", ALL))
def llama_cli(*, of: str = "ape") -> Package:
    """Llama.cpp's chat on the command line, as it is built with mmojo-server."""
    return program_of(of, "llama-cli")
