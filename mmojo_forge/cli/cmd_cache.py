"""`forge cache …`: what is shared with others, and whom to trust with it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from mmojo_forge.cli.lazy import LazyGroup

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "push": "cmd_cache_push",
        "pull": "cmd_cache_pull",
        "status": "cmd_cache_status",
        "challenge": "cmd_challenge",
        "serve": "cmd_cache_serve",
        "gc": "cmd_cache_gc",
        "key": "cmd_cache_key",
    }
)


@click.group("cache", cls=LazyGroup, modules=COMMANDS)
def command() -> None:
    """What is shared with other builders, and whom to trust with it."""
