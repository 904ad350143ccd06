"""mmojo-forge: reproducible, rootless builds of llama.cpp servers.

Nothing is imported here: a no-op `forge realize` must not pay for modules it does not use.
"""

__version__ = "0.1.0"
