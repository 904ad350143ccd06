"""`ape/manifest.json`: the machine-readable list of what an APE holds. `inspect` checks the file against it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from mmojo_forge.ape.errors import ApeError, ApeReason

NAME: Final = "ape/manifest.json"
SCHEMA: Final = 1
# The file's first bytes that assimilation replaces; everything behind them up to the first entry is `front`.
MUTABLE: Final = 64


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """One slice and where its bytes are."""

    name: str
    system: str
    level: str
    features: tuple[str, ...]
    offset: int
    size: int
    sha256: str

    @property
    def entry(self) -> str:
        """Its zip entry."""
        return f"slices/{self.name}"


@dataclass(frozen=True, slots=True)
class LauncherRecord:
    """One ELF launcher. The Windows one is part of the front: its bytes lie on both sides of the shell part."""

    system: str
    offset: int
    size: int
    sha256: str

    @property
    def entry(self) -> str:
        """Its zip entry."""
        return f"ape/launcher-{self.system}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the linker put into the file. `front_sha256` covers bytes 64 to `front_size`."""

    program: str
    slices: tuple[SliceRecord, ...]
    launchers: tuple[LauncherRecord, ...]
    front_size: int
    front_sha256: str

    def records(self) -> tuple[SliceRecord | LauncherRecord, ...]:
        """Everything that lies in the file as an entry of ours."""
        return (*self.slices, *self.launchers)

    def encode(self) -> bytes:
        """Its JSON, sorted and indented."""
        return (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n").encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest that `data` holds."""
    try:
        table: dict[str, Any] = json.loads(data)
        if table.pop("schema") != SCHEMA:
            raise ApeError(
                f"{where}: its manifest has a schema that this version does not know",
                detail="use the version of forge that linked it, or a newer one",
                reason=ApeReason.FOREIGN,
            )
        slices = tuple(SliceRecord(**{**row, "features": tuple(row["features"])}) for row in table.pop("slices"))
        launchers = tuple(LauncherRecord(**row) for row in table.pop("launchers"))
        return Manifest(slices=slices, launchers=launchers, **table)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ApeError(f"{where}: its manifest cannot be read: {error}", reason=ApeReason.ALTERED) from error
