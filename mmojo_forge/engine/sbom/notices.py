"""Collects the licence texts of everything in a result. Most licences require that they accompany the result.

Recipes declare where the texts are in the sources (`Component.notices`). For an archive that a build uses without
unpacking (such as npm tarballs), the texts are the top-level files with usual names such as LICENSE. The rendered
notices depend only on the bill and the texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Resolution, make_plan
from mmojo_forge.engine.realise.run import realise
from mmojo_forge.engine.sbom import licence
from mmojo_forge.engine.sbom.bom import Bill, BomItem
from mmojo_forge.engine.sbom.contents import Part
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.fetch.archive.errors import ArchiveError
from mmojo_forge.fetch.archive.extraction import extract
from mmojo_forge.fetch.archive.options import ExtractOptions
from mmojo_forge.model.derivation import Derivation, LocalSource, Node, Notice, Source
from mmojo_forge.model.digest import DerivationId, TreeId
from mmojo_forge.store.protocol import Store

_USUAL = ("LICEN[CS]E", "Licen[cs]e", "licen[cs]e", "COPYING", "COPYRIGHT", "NOTICE", "Notice")
# Archives have these files at the top, or in a single top folder.
_USUAL_NAMES = tuple(f"{folder}{name}*" for folder in ("", "*/") for name in _USUAL)
_COMMENT = re.compile(r"^(//|#| \*)($| )")
_WIDTH = 100


class NoticeError(EngineError):
    """A licence text is missing, or no recipe declares one."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The licence texts of an item, in the order in which they are declared."""

    item: BomItem
    texts: tuple[str, ...]


def collect(bill: Bill, services: Services, settings: Settings) -> list[Texts]:
    """The licence texts of all third-party items in the result. Fetches and unpacks missing sources.

    Raises NoticeError (`notice-missing`), and the errors of `realise`.
    """
    plan = make_plan(Graph.of(_holders(_theirs(bill).values())), services.store, services.substituter())
    return _read(bill, services.store, realise(plan, services, settings))


def collect_here(bill: Bill, store: Store) -> list[Texts] | None:
    """The same texts from the store alone; None if a source is missing there. Fetches and builds nothing."""
    plan = make_plan(Graph.of(_holders(_theirs(bill).values())), store)
    return None if plan.steps else _read(bill, store, plan.resolved)


def _read(bill: Bill, store: Store, resolved: Mapping[DerivationId, Resolution]) -> list[Texts]:
    items = {item.ref: item for item in bill.contained}
    reader = _Reader(store, resolved)
    return [Texts(items[ref], tuple(reader.texts(part))) for ref, part in sorted(_theirs(bill).items())]


def _theirs(bill: Bill) -> dict[str, Part]:
    return {ref: part for ref, part in bill.parts.items() if not _is_own(part)}


def _is_own(part: Part) -> bool:
    return isinstance(part.source, LocalSource) and not part.component.notices


def _holders(parts: Iterable[Part]) -> list[Node]:
    """The nodes whose trees contain the texts, without duplicates."""
    return list({part.holder.id: part.holder for part in parts}.values())


def missing(collected: Iterable[Texts]) -> list[BomItem]:
    """The items without a licence text."""
    return [texts.item for texts in collected if not texts.texts]


def check_complete(bill: Bill, collected: Iterable[Texts]) -> None:
    """Raise NoticeError (`notice-undeclared`) if anything in the result has no text."""
    names = ", ".join(_title(item) for item in missing(collected))
    if names:
        raise NoticeError(
            f"collect the notices of {bill.root.name}: no licence text for {names}",
            detail="Declare its path in the recipe that unpacks the source: Component(…, notices=…).",
            reason="notice-undeclared",
        )


def render(bill: Bill, collected: Iterable[Texts]) -> str:
    """The notices as one text file: a list of the items, then each text once, below the names of its items."""
    found = sorted(collected, key=lambda texts: (texts.item.name.lower(), texts.item.version, texts.item.ref))
    by_text: dict[str, list[BomItem]] = {}
    for texts in found:
        for text in texts.texts:
            by_text.setdefault(text, []).append(texts.item)
    listed = [f"{_title(texts.item)}: {texts.item.licence or licence.NOASSERTION}" for texts in found]
    head = [
        f"Third-party notices of {bill.root.name}",
        "",
        "It contains the following, under these licences. The texts are below.",
        "",
        *(f"  {line}" for line in dict.fromkeys(listed)),
    ]
    sections = ["\n".join(head)]
    for text, items in by_text.items():
        sections.append(f"{'=' * _WIDTH}\n{_headline(items)}\n{'-' * _WIDTH}\n\n{text}")
    return "\n\n".join(sections) + "\n"


def _title(item: BomItem) -> str:
    return f"{item.name} {item.version}".strip()


def _headline(items: Iterable[BomItem]) -> str:
    return "\n".join(dict.fromkeys(_title(item) for item in items))


class _Reader:
    """Reads licence texts from trees in the store."""

    def __init__(self, store: Store, resolved: Mapping[DerivationId, Resolution]) -> None:
        self._store = store
        self._resolved = resolved

    def texts(self, part: Part) -> Iterator[str]:
        """The licence texts of a part; raises NoticeError (`notice-missing`)."""
        if part.component.notices:
            yield from (self._declared(part, notice) for notice in part.component.notices)
        elif isinstance(part.holder, Source):
            yield from self._usual(part.holder)

    def _declared(self, part: Part, notice: str | Notice) -> str:
        wanted = Notice(notice) if isinstance(notice, str) else notice
        tree = self._store.read_tree(self._tree(part.holder))
        entry = next((file for file in tree.files() if file.path == wanted.path), None)
        if entry is None or entry.digest is None:
            raise _missing(part, wanted, "its source has no such file")
        with self._store.open_blob(entry.digest, executable=entry.kind.value == "x") as file:
            text = clean(file.read().decode("utf-8", "replace"))
        cut = excerpt(text, wanted)
        if not cut:
            raise _missing(part, wanted, f"the file has no lines from {wanted.begin!r} to {wanted.end!r}")
        return cut

    def _tree(self, holder: Node) -> TreeId:
        # A node that unpacks sources has one output.
        return self._resolved[holder.id]["out"] if isinstance(holder, Derivation) else holder.tree

    def _usual(self, source: Source) -> Iterator[str]:
        archive = self._store.checkout(source.tree, source.name)
        with self._store.scratch("notices") as folder:
            try:
                extract(archive, folder, ExtractOptions(include=_USUAL_NAMES, may_be_empty=True))
            except ArchiveError:
                # Not an archive but a single file, such as a model.
                return
            for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
                yield clean(path.read_text(encoding="utf-8", errors="replace"))


def clean(text: str) -> str:
    """The text with `\\n` line ends, without trailing spaces and surrounding empty lines."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def excerpt(text: str, notice: Notice) -> str:
    """The lines of `text` that the notice selects, without comment markers; empty if there are none."""
    lines = text.splitlines()
    if notice.begin:
        start = next((number for number, line in enumerate(lines) if notice.begin in line), len(lines))
        lines = lines[start:]
    if notice.end:
        stop = next((number for number, line in enumerate(lines) if notice.end in line), -1)
        lines = lines[: stop + 1]
    if (notice.begin or notice.end) and all(_COMMENT.match(line) for line in lines if line):
        lines = [_COMMENT.sub("", line) for line in lines]
    return "\n".join(lines).strip("\n")


def _missing(part: Part, notice: Notice, cause: str) -> NoticeError:
    return NoticeError(
        f"read the licence of {part.component.name} in {notice.path}: {cause}",
        detail="Correct the path in the recipe: Component(…, notices=…). A newer version may have moved the text.",
        reason="notice-missing",
    )
