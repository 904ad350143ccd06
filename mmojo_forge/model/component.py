"""Components: what recipes say that things are made of, for bills of materials. No part of any identity."""

from __future__ import annotations

from dataclasses import dataclass

ALL = ("*",)
"""In the contents of a build: an input is in the result with all that it is made of."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A licence text that lies in a source: a file, or its lines from one that has `begin` to one that has `end`."""

    path: str
    begin: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    """One piece of software that a source brings: the source itself if no version is given, else a part of it.

    `licence` is an SPDX expression; `purl` a package URL, where the pin of the source has none or a wrong one; `cpe`
    is VENDOR:PRODUCT in the national vulnerability database. `notices` are the texts that must be passed on, as paths
    in the unpacked tree. `of` names the source, or the input it is, where there are several. `redistributable` says
    whether its licence lets everybody pass it on, where that is not what its name makes one think.
    """

    name: str
    version: str | None = None
    licence: str = ""
    purl: str = ""
    cpe: str = ""
    notices: tuple[str | Notice, ...] = ()
    of: str = ""
    redistributable: bool | None = None
