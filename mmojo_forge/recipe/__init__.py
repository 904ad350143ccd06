"""All that a recipe may import, and nothing else: the loader and the host facts lie beside the API, not in it."""

from mmojo_forge.recipe import api
from mmojo_forge.recipe.ape import Slice as Slice
from mmojo_forge.recipe.ape import link_ape as link_ape
from mmojo_forge.recipe.ape import package_server as package_server
from mmojo_forge.recipe.ape import with_files as with_files
from mmojo_forge.recipe.api import *  # noqa: F403
from mmojo_forge.recipe.npm import node_modules as node_modules
from mmojo_forge.recipe.patched import apply_patches as apply_patches

__all__ = [*api.__all__, "Slice", "apply_patches", "link_ape", "node_modules", "package_server", "with_files"]  # noqa: PLE0604
