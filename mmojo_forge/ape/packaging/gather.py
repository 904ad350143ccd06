"""From an order to contents: everything is looked at, and refused, before anything is written.

What the program has already stays, but for what the order replaces:

    order has        leaves out
    models           all models of the program, and its mmproj
    mmproj           its mmproj
    args             both forms of its arguments
    page or ui       ui/custom
    cert and key     certs/server.crt, certs/server.key
    files            entries of the same name
    modules          those of the same name
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mmojo_forge.ape.arguments import head, plain, yaml
from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.format.zip_directory import DirectoryEntry
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.contents import SUPPORT_PATH, ZIP_PATH, Head, InProgram, PackageContents, PackageItem
from mmojo_forge.ape.packaging.models import look_at_models, look_at_projector, read_item
from mmojo_forge.ape.packaging.modules import Modules, look_at_modules
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.sources import look_at, look_at_certificate, read_text, walk_folder
from mmojo_forge.ape.read import container
from mmojo_forge.ape.read.gguf import Gguf
from mmojo_forge.ape.read.program import Program, read_program


@dataclass(frozen=True, slots=True)
class OldArguments:
    """What the program has: its arguments, apart from those that packaging wrote, which `head` has."""

    head: Mapping[str, str] = field(default_factory=dict)
    given: bytes | None = None
    yaml: bytes | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """What an order gives, looked through. Models come with what they say of themselves; modules are among the items
    too."""

    items: tuple[PackageItem, ...]
    models: tuple[tuple[PackageItem, Gguf], ...]
    modules: Modules
    plain: bytes | None
    yaml: bytes | None


def look_through(order: PackageOrder) -> Given:
    """All that is given with the program, which need not be there yet; raises ApeError."""
    models = look_at_models(order.models) + ([look_at_projector(order.mmproj)] if order.mmproj else [])
    items = [item for item, _ in models] + _page(order) + _certificate(order) + _files(order.files)
    modules = look_at_modules(order.modules)
    items += modules.items
    names.check_unique([item.name for item in items], folded=False)
    plain_args, yaml_args = _arguments(order)
    return Given(tuple(items), tuple(models), modules, plain_args, yaml_args)


def gather(order: PackageOrder) -> PackageContents:
    """What the order comes to; raises ApeError, with the reason that fits what is wrong."""
    given = look_through(order)
    program = read_program(order.program)
    if program.facts is not None:
        container.check_program(program)
        container.verify_program(program)
    given.modules.check_fit(program)
    old = read_old_arguments(program)
    items = [*_keep(order, program, old, {item.name for item in given.items}), *given.items]
    found = [item.name for item in items]
    names.check_unique(found, folded=False)
    replaced = order.clear or order.args is not None
    return PackageContents(
        program=program,
        items=tuple(items),
        head=_head(order, old, found),
        given=given.plain if replaced else old.given,
        yaml=given.yaml if replaced else old.yaml,
        models=_models(items, given.models),
        notes=tuple(_notes(order, program)),
    )


def read_old_arguments(program: Program) -> OldArguments:
    """The arguments in the program's zip; raises ApeError (`ape-altered`)."""
    texts: dict[str, bytes] = {}
    for entry in program.assets:
        if entry.name in names.ARGUMENTS:
            with content.open_input(program.path, "program") as stream:
                texts[entry.name] = content.read_entry_text(stream, entry, str(program.path))
    if head.NAME not in texts:
        return OldArguments({}, None, texts.get(head.YAML_NAME))
    options, given = head.split_head(texts[head.NAME])
    return OldArguments(options, given or None, texts.get(head.YAML_NAME))


def _keep(order: PackageOrder, program: Program, old: OldArguments, given: set[str]) -> list[PackageItem]:
    """The entries of the program that stay; raises ApeError (`ape-no-entry`)."""
    found = {entry.name: entry for entry in program.assets if entry.name not in names.ARGUMENTS}
    dropped = {name for name in found if name in given}
    for pattern in order.remove:
        matching = {name for name in found if name == pattern or name.startswith(pattern.rstrip("/") + "/")}
        if not matching:
            raise ApeError(
                f"package {program.path}: there is no {pattern} in it to be removed",
                detail="`forge ape inspect` shows what is in it.",
                reason=ApeReason.NO_ENTRY,
            )
        dropped |= matching
    projector = old.head.get("--mmproj", "").removeprefix(ZIP_PATH)
    if order.models:
        dropped |= {name for name in found if names.is_model(name)}
    if order.mmproj:
        dropped.add(projector)
    if order.page or order.ui:
        dropped |= {name for name in found if names.is_custom(name) and order.page != names.CUSTOM}
    for module in order.modules:
        dropped |= {name for name in found if name.startswith(f"{names.MODULES}{module.name}/")}
    if order.cert:
        dropped |= {names.CERT, names.KEY}
    return [keep_entry(program, entry) for name, entry in found.items() if name not in dropped]


def keep_entry(program: Program, entry: DirectoryEntry) -> PackageItem:
    """An entry of the program as an item."""
    name = entry.name
    beside = any(belongs(name) for belongs in (names.is_model, names.is_module, names.is_custom))
    beside = beside or name in {names.CERT, names.KEY}
    return PackageItem(name, InProgram(program.path, entry), executable=bool(entry.mode & 0o100), beside=beside)


def _page(order: PackageOrder) -> list[PackageItem]:
    if order.ui is None:
        return []
    if not order.ui.is_dir():
        raise ApeError(f"package page {order.ui}: not a folder", reason=ApeReason.FOLDER)
    if not (order.ui / "index.html").is_file():
        raise ApeError(
            f"package page {order.ui}: there is no index.html in it",
            detail="It is the page that a browser is shown first.",
            reason=ApeReason.FOLDER,
        )
    return walk_folder(order.ui, f"{names.PAGES}{names.CUSTOM}", "page")


def _certificate(order: PackageOrder) -> list[PackageItem]:
    if order.cert and order.key:
        return look_at_certificate(order.cert, order.key)
    if order.cert or order.key:
        missing = "key" if order.cert else "certificate"
        raise ApeError(
            f"package {order.cert or order.key}: the {missing} is missing",
            detail="HTTPS needs both: --cert FILE --key FILE.",
            reason=ApeReason.CERTIFICATE,
        )
    return []


def _files(files: Iterable[NamedFile]) -> list[PackageItem]:
    found: list[PackageItem] = []
    for file in files:
        names.check_name(file.name, f"file {file.path}")
        if file.name in names.ARGUMENTS or names.is_model(file.name):
            option = "--args" if file.name in names.ARGUMENTS else "--model"
            raise ApeError(
                f"package file {file.path}: {file.name} means something to the server",
                detail=f"Give it with {option}, or put it into a folder: --file {file.path}=files/{file.name}.",
                reason=ApeReason.NAME,
            )
        if file.path.is_dir():
            found += walk_folder(file.path, file.name, "file")
        else:
            found.append(look_at(file.name, file.path, "file"))
    return found


def _models(items: Iterable[PackageItem], known: Sequence[tuple[PackageItem, Gguf]]) -> dict[str, Gguf]:
    """What each model in the package is, those in folders (adapters) too; raises ApeError."""
    facts = {item.name: found for item, found in known}
    for item in items:
        if names.is_mapped(item.name) and item.name not in facts:
            facts[item.name] = read_item(item)
    return facts


def _arguments(order: PackageOrder) -> tuple[bytes | None, bytes | None]:
    """The arguments that are given, plain or in YAML, looked through; raises ArgumentsError."""
    if order.args is None:
        return None, None
    data = read_text(order.args.path, "arguments")
    shown = str(order.args.path)
    if names.is_yaml(order.args.name):
        yaml.parse_yaml(data, shown)
        return None, data
    plain.parse_plain(data, shown)
    return data, None


def _head(order: PackageOrder, old: OldArguments, found: Sequence[str]) -> Head:
    """The options for the server: those of the order, else those it had before, if what they name is still there."""

    def before(option: str) -> str:
        name = old.head.get(option, "").removeprefix(ZIP_PATH)
        return name if name in found or name.startswith(SUPPORT_PATH) else ""

    page = order.page or (names.CUSTOM if order.ui or names.index_of(names.CUSTOM) in found else "")
    page = page or old.head.get("--ui-page", "")
    pages = names.pages_of(found)
    if order.page and order.page not in pages:
        raise ApeError(
            f"package {order.program}: it has no page {order.page}",
            detail=f"It has: {', '.join(pages) or 'none'}. A folder is packed with --ui ./FOLDER.",
            reason=ApeReason.NO_ENTRY,
        )
    return Head(
        model=order.models[0].name if order.models else before("--model"),
        mmproj=order.mmproj.name if order.mmproj else before("--mmproj"),
        page=page if page in pages else "",
        cert={names.CERT, names.KEY} <= set(found),
        alias=order.name or old.head.get("--alias", ""),
    )


def _notes(order: PackageOrder, program: Program) -> list[str]:
    notes = []
    if program.pe is not None and program.pe.signature is not None:
        notes.append("the program was signed; what changes has to be signed again")
    if order.key is not None:
        notes.append("whoever has the package can read the private key in it")
    return notes
