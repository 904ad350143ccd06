"""`forge list`: the targets of this workspace, as a table, as JSON, or as a page of Markdown.

The page is docs/targets.md. It says of each target which systems it is for, which toolchains build it, which options it
has, and where it has been run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import MappingProxyType

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import json_option
from mmojo_forge.engine.query.query import TargetSummary, list_targets
from mmojo_forge.engine.query.targets import PART, TOOLCHAIN, Option, OptionValue, TargetFacts, survey
from mmojo_forge.engine.session import Session

HEAD = """\
# Targets

Written by `forge list --markdown` from the recipes: change those, not this page.

- A host-specific target is for the machine that builds it. The brackets name the facts of the machine that it uses.
- Built with: the toolchains of the target and of its parts, without the userland.
- Set options with `--set NAME=VALUE`. A variant presets some. The table at the end lists the values.
- Where it has been run: what people reported who ran the version they had. “not run”: nobody has reported a run.
"""

_HEADINGS = MappingProxyType(
    {
        "server": "Servers",
        "kit": "The kit",
        "module": "Modules",
        "library": "Libraries",
        "example": "Examples and models",
        TOOLCHAIN: "Toolchains",
        PART: "Parts",
    }
)
_SHORT = MappingProxyType(
    {
        TOOLCHAIN: "For x86-64 Linux. Where the column is empty, only builds of targets that need it have run it.",
        PART: "Sources, pages and programs that go into the targets above. Most of them are not meant to be run.",
    }
)

_JSON = """\
## JSON, schema 1

`forge list --json` prints one object. It also says what is built (`valid`), and has the label for this machine.

    schema     1
    targets    [target, summary, valid (built, and here), label, error (why it cannot be instantiated),
                group, recipe, systems, host_facts, built_with [{name, version}], preset {option: value},
                options [{name, type, choices, default}], ran]
"""

_Column = tuple[str, Callable[[TargetFacts], str]]


def page(targets: Sequence[TargetFacts]) -> str:
    """docs/targets.md: a table for each group that has targets, then the options."""
    sections = [HEAD]
    for group, heading in _HEADINGS.items():
        members = [target for target in targets if target.group == group]
        if members:
            note = [_SHORT[group], ""] if group in _SHORT else []
            rows = _table(_SHORT_COLUMNS if group in _SHORT else _COLUMNS, members)
            sections.append("\n".join((f"## {heading}", "", *note, *rows, "")))
    options = list(_option_rows(targets))
    if options:
        sections.append("\n".join(("## Options", "", *_rows(("recipe", "option", "value", "default"), options), "")))
    return "\n".join((*sections, _JSON))


def _table(columns: Sequence[_Column], targets: Iterable[TargetFacts]) -> list[str]:
    return _rows([title for title, _ in columns], [[cell(target) for _, cell in columns] for target in targets])


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = (header, ["---"] * len(header), *rows)
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _name(target: TargetFacts) -> str:
    return f"`{target.name}`"


def _systems(target: TargetFacts) -> str:
    return ", ".join(target.systems) or "any"


def _label(target: TargetFacts) -> str:
    if target.error:
        return f"cannot be instantiated ({target.error})"
    return f"host-specific ({', '.join(target.host_facts)})" if target.host_facts else "reproducible"


def _tools(target: TargetFacts) -> str:
    return ", ".join(str(tool) for tool in target.tools)


def _options(target: TargetFacts) -> str:
    preset = target.preset
    names = [option.name for option in target.options]
    words = [f"{name}={_value(preset[name])}" if name in preset else name for name in names]
    return ", ".join(f"`{word}`" for word in words)


def _ran(target: TargetFacts) -> str:
    return target.ran or "not run"


_SHORT_COLUMNS: tuple[_Column, ...] = (
    ("target", _name),
    ("label", _label),
    ("built with", _tools),
    ("options", _options),
    ("where it has been run", lambda target: target.ran),
    ("what it is", lambda target: target.summary),
)
_COLUMNS: tuple[_Column, ...] = (
    ("target", _name),
    ("runs on", _systems),
    ("label", _label),
    ("built with", _tools),
    ("options", _options),
    ("where it has been run", _ran),
)


def _option_rows(targets: Iterable[TargetFacts]) -> Iterator[tuple[str, ...]]:
    """A row for each option of each recipe, sorted by the name of the recipe."""
    recipes = {target.recipe: target.options for target in sorted(targets, key=lambda target: target.recipe)}
    for recipe, options in recipes.items():
        for option in options:
            default = f"`{_value(option.default)}`" if option.default != "" else "empty"
            yield f"`{recipe}`", f"`{option.name}`", _values(option), default


def _values(option: Option) -> str:
    if option.choices:
        return ", ".join(f"`{_value(choice)}`" for choice in option.choices)
    return {"str": "text", "bool": "`true`, `false`", "int": "a number"}.get(option.type, option.type)


def _value(value: OptionValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command("list")
@json_option()
@click.option("--markdown", is_flag=True, help="Print docs/targets.md: all that recipes say about each target.")
@click.pass_obj
def list_(session: Session, as_json: bool, markdown: bool) -> None:
    """List all targets: whether each is built, its label, and its description."""
    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other.")
    if markdown:
        click.echo(page(survey(session.workspace, session.workspace.read_lock())), nl=False)
        return
    rows = list_targets(session.workspace, session.store)
    if as_json:
        facts = {target.name: target for target in survey(session.workspace, session.workspace.read_lock())}
        click.echo(json.dumps({"schema": 1, "targets": [_document(row, facts[row.target]) for row in rows]}))
        return
    console.show_table(("target", "built", "label", "what"), [_cells(row) for row in rows])


def _cells(row: TargetSummary) -> tuple[str, ...]:
    return (row.target, "yes" if row.valid else "no", row.label, row.summary)


def _document(row: TargetSummary, facts: TargetFacts) -> dict[str, object]:
    return {
        "target": row.target,
        "valid": row.valid,
        "label": row.label,
        "summary": row.summary,
        "error": row.error,
        "group": facts.group,
        "recipe": facts.recipe,
        "systems": facts.systems,
        "host_facts": facts.host_facts,
        "built_with": [dataclasses.asdict(tool) for tool in facts.tools],
        "preset": dict(facts.preset),
        "options": [dataclasses.asdict(option) for option in facts.options],
        "ran": facts.ran,
    }
