"""Options that several commands share, and types for quantities on the command line (`30d`, `20G`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., object])
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_SECONDS: Mapping[str, float] = MappingProxyType(
    {"": 86400, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
)
_BYTES: Mapping[str, float] = MappingProxyType(
    {"": 1, "b": 1}
    | {unit: 1000**power for power, unit in enumerate(("k", "m", "g", "t"), 1)}
    | {f"{unit}b": 1000**power for power, unit in enumerate(("k", "m", "g", "t"), 1)}
    | {f"{unit}ib": 1024**power for power, unit in enumerate(("k", "m", "g", "t"), 1)}
)


class Duration(click.ParamType[float]):
    """A time span: `30d`, `12h`, `90min`; a bare number is days."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The time span in seconds."""
        return value if isinstance(value, float) else self._parse(str(value), param, ctx)

    def _parse(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = _product(value, _SECONDS)
        if seconds is None:
            self.fail(f"{value!r} is not a time span; write 30d, 12h or 90min", param, ctx)
        return seconds


class Size(click.ParamType[int]):
    """A number of bytes: `20G`, `500MB`, `2GiB`."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The size in bytes."""
        count = _product(str(value), _BYTES)
        if count is None:
            self.fail(f"{value!r} is not a size; write 20G, 500MB or 2GiB", param, ctx)
        return int(count)


def _product(value: str, units: Mapping[str, float]) -> float | None:
    match = _QUANTITY.fullmatch(value.strip())
    factor = units.get(match[2].lower()) if match else None
    return float(match[1]) * factor if match and factor is not None else None


set_option = click.option(
    "--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(1), metavar="N", help="Cores that all builds share (default: all)."
)
no_substitute_option = click.option("--no-substitute", is_flag=True, help="Do not ask caches.")
cache_option = click.option(
    "--cache", "caches", multiple=True, metavar="NAME|URL", help="Ask this cache, not those configured. Repeatable."
)


def json_option(help: str = "Print one JSON object.") -> Callable[[_F], _F]:
    """The option `--json`; `help` describes the output where it is not one object."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def from_option(name: str) -> Callable[[_F], _F]:
    """The option `--from`, passed as the parameter `name`: the caches to ask."""
    return click.option(
        "--from",
        name,
        multiple=True,
        metavar="NAME|URL|FOLDER",
        help="Ask this cache, not those configured. Repeatable.",
    )
