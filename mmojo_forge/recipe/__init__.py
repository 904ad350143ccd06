"""All that a recipe may import, and nothing else: the loader and the host facts lie beside the API, not in it."""

from mmojo_forge.recipe.api import *  # noqa: F403
from mmojo_forge.recipe.api import __all__ as __all__
