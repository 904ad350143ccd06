"""`forge ape …`: look into one file that runs everywhere, and take it apart."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from mmojo_forge.cli.lazy import LazyGroup

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "inspect": "cmd_ape_inspect",
        "extract": "cmd_ape_extract",
        "args": "cmd_ape_args",
        "assimilate": "cmd_ape_assimilate",
    }
)


@click.group("ape", cls=LazyGroup, modules=COMMANDS)
def command() -> None:
    """Look at an APE (one file for every machine), take it apart, change its arguments, make a native copy."""
