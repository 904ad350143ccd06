"""A group of commands, each of which is a module that is imported when its command runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """`modules` has the module of each command, below `mmojo_forge.cli`, which calls it `command`."""

    def __init__(self, *arguments: Any, modules: Mapping[str, str], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._modules = modules

    def list_commands(self, _context: click.Context) -> list[str]:
        """The names in the order of the help."""
        return list(self._modules)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The command, its module imported now."""
        module = self._modules.get(name)
        if module is None:
            return None
        command = importlib.import_module(f"mmojo_forge.cli.{module}").command
        assert isinstance(command, click.Command)
        return command
