"""All that a recipe may import, and nothing else.

Names are loaded on first use: the loader and the host facts, which live beside the API, are no part of it.
"""

from mmojo_forge.recipe.api import (
    Debian,
    Files,
    Host,
    Package,
    Pypi,
    Recipe,
    Spec,
    Url,
    build,
    forge_files,
    quote,
    recipe,
    unpack,
)

__all__ = [
    "Debian",
    "Files",
    "Host",
    "Package",
    "Pypi",
    "Recipe",
    "Spec",
    "Url",
    "build",
    "forge_files",
    "quote",
    "recipe",
    "unpack",
]
