"""`forge cache …`: what is shared with others, and whom to trust with it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

import click

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "push": ("cmd_cache_transfer", "push"),
        "pull": ("cmd_cache_transfer", "pull"),
        "status": ("cmd_cache_status", "status"),
        "challenge": ("cmd_challenge", "command"),
        "serve": ("cmd_cache_serve", "command"),
        "gc": ("cmd_cache_gc", "command"),
        "key": ("cmd_cache_key", "key"),
    }
)


class _LazyGroup(click.Group):
    """Imports a command's module when it runs: the server needs other libraries than the rest."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name]
        command = getattr(importlib.import_module(f"mmojo_forge.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group("cache", cls=_LazyGroup)
def command() -> None:
    """What is shared with other builders, and whom to trust with it."""
