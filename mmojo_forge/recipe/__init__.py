"""All that a recipe may import, and nothing else: the loader and the host facts lie beside the API, not in it."""

from mmojo_forge.recipe import api
from mmojo_forge.recipe.ape import Slice, link_ape, package_server, with_files
from mmojo_forge.recipe.api import *  # noqa: F403
from mmojo_forge.recipe.source_trees import apply_patches, node_modules

__all__ = [*api.__all__, "Slice", "apply_patches", "link_ape", "node_modules", "package_server", "with_files"]  # noqa: PLE0604
