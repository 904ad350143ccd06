"""The licence texts of what is in a result, which most licences want passed on with it.

Recipes say where they lie in the sources (`Component.notices`); of an archive that a build takes as it is (npm's
tarballs) it is the files at its top that are called like licences. What is rendered is a function of the bill and the
texts alone.
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
# Archives have them at the top, or in the one folder that everything else is in as well.
_USUAL_NAMES = tuple(f"{folder}{name}*" for folder in ("", "*/") for name in _USUAL)
_COMMENT = re.compile(r"^(//|#| \*)($| )")
_WIDTH = 100


class NoticeError(EngineError):
    """A licence text that is not where a recipe says that it is."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The licence texts of an item, in the order in which they are declared."""

    item: BomItem
    texts: tuple[str, ...]


def collect(bill: Bill, services: Services, settings: Settings) -> list[Texts]:
    """The texts of everything in the result that is not our own; sources that are not here are fetched and unpacked.

    Raises NoticeError (`notice-missing`), and as realising does.
    """
    plan = make_plan(Graph.of(_holders(_theirs(bill).values())), services.store, services.substituter())
    return _read(bill, services.store, realise(plan, services, settings))


def collect_here(bill: Bill, store: Store) -> list[Texts] | None:
    """The same of what is in the store unpacked, or None if some of it is not: nothing is fetched, nothing built."""
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
    """What has to be there for the texts to be read, each once."""
    return list({part.holder.id: part.holder for part in parts}.values())


def missing(collected: Iterable[Texts]) -> list[BomItem]:
    """What has no text."""
    return [one.item for one in collected if not one.texts]


def check_complete(bill: Bill, collected: Iterable[Texts]) -> None:
    """Raise NoticeError (`notice-undeclared`) if anything in the result has no text."""
    names = ", ".join(_title(item) for item in missing(collected))
    if names:
        raise NoticeError(
            f"collect the notices of {bill.root.name}: there is no licence text of {names}",
            detail="The recipe that unpacks the source says where it lies: Component(…, notices=…).",
            reason="notice-undeclared",
        )


def render(bill: Bill, collected: Iterable[Texts]) -> str:
    """One readable file: a list of what is in the result, then every text once, headed by all that it is for."""
    found = sorted(collected, key=lambda one: (one.item.name.lower(), one.item.version, one.item.ref))
    by_text: dict[str, list[BomItem]] = {}
    for one in found:
        for text in one.texts:
            by_text.setdefault(text, []).append(one.item)
    listed = [f"{_title(one.item)}: {one.item.licence or licence.NOASSERTION}" for one in found]
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
    """Reads licence texts out of trees in the store."""

    def __init__(self, store: Store, resolved: Mapping[DerivationId, Resolution]) -> None:
        self._store = store
        self._resolved = resolved

    def texts(self, part: Part) -> Iterator[str]:
        """The texts of a part; raises NoticeError (`notice-missing`)."""
        if part.component.notices:
            yield from (self._declared(part, notice) for notice in part.component.notices)
        elif isinstance(part.holder, Source):
            yield from self._usual(part.holder)

    def _declared(self, part: Part, notice: str | Notice) -> str:
        wanted = Notice(notice) if isinstance(notice, str) else notice
        tree = self._store.read_tree(self._tree(part.holder))
        entry = next((one for one in tree.files() if one.path == wanted.path), None)
        if entry is None or entry.digest is None:
            raise _missing(part, wanted, "there is no such file in its source")
        with self._store.open_blob(entry.digest, executable=entry.kind.value == "x") as file:
            text = clean(file.read().decode("utf-8", "replace"))
        cut = excerpt(text, wanted)
        if not cut:
            raise _missing(part, wanted, f"no lines from {wanted.begin!r} to {wanted.end!r} in it")
        return cut

    def _tree(self, holder: Node) -> TreeId:
        # What unpacks sources has one output.
        return self._resolved[holder.id]["out"] if isinstance(holder, Derivation) else holder.tree

    def _usual(self, source: Source) -> Iterator[str]:
        archive = self._store.checkout(source.tree, source.name)
        with self._store.scratch("notices") as folder:
            try:
                extract(archive, folder, ExtractOptions(include=_USUAL_NAMES, may_be_empty=True))
            except ArchiveError:
                # A single file, say a model: there is nothing in it to look for.
                return
            for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
                yield clean(path.read_text(encoding="utf-8", errors="replace"))


def clean(text: str) -> str:
    """The text with line ends of one kind and no space at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def excerpt(text: str, notice: Notice) -> str:
    """The lines of `text` that the notice means, without the marks of a comment; nothing if it has none such."""
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
        detail="Its recipe says where the text lies: Component(…, notices=…). A newer version may have moved it.",
        reason="notice-missing",
    )
