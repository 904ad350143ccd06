"""Names of files in a package: what they may be, and which of them mean something to the server."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from mmojo_forge.ape.arguments import head
from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.write.spec import Asset

CERT: Final = "certs/server.crt"
KEY: Final = "certs/server.key"
PAGES: Final = "ui/"
CUSTOM: Final = "custom"
MODULES: Final = "modules/linux-x86_64/"
HOST: Final = "host"
SUPPORT: Final = "mmojo-server-support"
ARGUMENTS: Final = frozenset({head.NAME, head.YAML_NAME})
# A file system has names of 255 bytes; ours get endings, and a longer name while they are written.
_LONGEST: Final = 200
_YAML: Final = (".yaml", ".yml")
_SPLIT: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
# What Windows cannot call a file (Microsoft, "Naming Files, Paths, and Namespaces").
_NOT_PORTABLE: Final = re.compile(
    r'[<>:"|?*]|[. ](?:/|$)|(?:^|/)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.[^/]*)?(?:/|$)', re.IGNORECASE
)


def check_name(name: str, given: str) -> None:
    """Refuses what cannot be the name of an entry; `given` says where it comes from."""
    try:
        Asset.check_name(name)
    except ApeError as error:
        raise ApeError(f"package {given}: {error.message}", detail=error.detail, reason=ApeReason.NAME) from error


def check_program_name(name: str) -> None:
    """Refuses what a program cannot be called on some system."""
    if not name or "/" in name or "\\" in name or not name.isprintable() or len(name.encode()) > _LONGEST:
        raise ApeError(f"package: a server cannot be called {name[:80]!r}", reason=ApeReason.NAME)
    check_portable(name)


def check_portable(name: str) -> None:
    """Refuses what some system cannot call a file."""
    if _NOT_PORTABLE.search(name):
        raise ApeError(
            f"package {name}: Windows cannot have a file of that name",
            detail="Give it another: --file SRC=NAME.",
            reason=ApeReason.NAME,
        )


def check_unique(names: Iterable[str], *, folded: bool) -> None:
    """Refuses two of one name; with `folded` also two that Windows and macOS take for one."""
    seen: dict[str, str] = {}
    for name in names:
        key = name.casefold() if folded else name
        if key in seen:
            raise ApeError(
                f"package {name}: {'it is given twice' if seen[key] == name else f'{seen[key]} is the same name'}",
                detail="" if seen[key] == name else "Windows and macOS do not tell them apart.",
                reason=ApeReason.NAME,
            )
        seen[key] = name
    for key, name in seen.items():
        for at, character in enumerate(key):
            if character == "/" and key[:at] in seen:
                raise ApeError(
                    f"package {name}: {seen[key[:at]]} is a file, so nothing can be below it", reason=ApeReason.NAME
                )


def is_model(name: str) -> bool:
    """Whether the server would find it as a model by itself."""
    return name.endswith(".gguf") and "/" not in name


def is_mapped(name: str) -> bool:
    """Whether the server maps it."""
    return name.endswith(".gguf")


def is_module(name: str) -> bool:
    """Whether it belongs to a GPU backend that the server loads."""
    return name.startswith(MODULES)


def is_yaml(name: str) -> bool:
    """Whether a file of arguments is in YAML."""
    return name.endswith(_YAML)


def is_custom(name: str) -> bool:
    """Whether it belongs to the page that was packaged."""
    return name.startswith(f"{PAGES}{CUSTOM}/")


def index_of(page: str) -> str:
    """The first file of a page."""
    return f"{PAGES}{page}/index.html"


def pages_of(names: Iterable[str]) -> tuple[str, ...]:
    """The pages that files with these names make."""
    parts = (name.split("/") for name in names)
    return tuple(sorted(part[1] for part in parts if len(part) == 3 and part[0] == "ui" and part[2] == "index.html"))


def split_parts(name: str) -> tuple[str, int, int] | None:
    """Stem, number and count of a part of a split model, counted from 1; None for a model in one file."""
    found = _SPLIT.fullmatch(name)
    return (found[1], int(found[2]), int(found[3])) if found else None


def part_name(stem: str, number: int, count: int) -> str:
    """The name of a part of a split model."""
    return f"{stem}-{number:05}-of-{count:05}.gguf"
