"""The names that a recipe may import from `mmojo_forge.recipe`.

Read `api` (the values that recipes are written with), `source_trees` and `ape` (ready-made specs), then `fence`
(which Python a recipe may use), `library` (`recipes/lib`), `loader` (finds and runs recipe files) and `evaluate`
(calls recipes and makes derivations). `local_files` reads workspace files, and `errors` has the errors.
`patcher.py` is not imported: it runs in the sandbox, and its bytes are hashed.
"""

from mmojo_forge.recipe import api
from mmojo_forge.recipe.ape import Slice, link_ape, package_server, with_files
from mmojo_forge.recipe.api import *  # noqa: F403
from mmojo_forge.recipe.source_trees import apply_patches, node_modules

__all__ = [*api.__all__, "Slice", "apply_patches", "link_ape", "node_modules", "package_server", "with_files"]  # noqa: PLE0604
