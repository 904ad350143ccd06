"""`forge show TARGET`: the derivation, as the very document its id is the hash of."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from mmojo_forge.cli.context import Context
from mmojo_forge.engine.query import describe
from mmojo_forge.engine.workspace import Request
from mmojo_forge.model.derivation import Derivation, Source

_MANY_SOURCES = 200
_SHOWN_SOURCES = 10


@click.command("show")
@click.argument("target")
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--script", is_flag=True, help="Only the shell text of its phases.")
@click.pass_obj
def command(context: Context, target: str, settings: tuple[str, ...], as_json: bool, script: bool) -> None:
    """Show TARGET's derivation: options, inputs, phases, label, identity."""
    shown = describe(context.workspace, Request.parse((target,), settings), context.store)
    node = shown.instance.node
    if script:
        print(node.args[-1])
        return
    document = {
        "schema": 1,
        "target": target,
        "derivation": node.id,
        "key": shown.key,
        "outputs": {name: shown.outputs.get(name) for name in node.outputs},
        "label": node.label.to_json(),
        "options": dict(shown.options),
        "unvaried": dict(node.unvaried),
        "document": json.loads(node.encode()),
    }
    if as_json:
        print(json.dumps(document))
        return
    print(f"{target}: {shown.summary}")
    print(f"  label       {node.label}")
    print(f"  derivation  {node.id}")
    print(f"  action key  {shown.key or 'not known before its inputs are built'}")
    for output in node.outputs:
        print(f"  output      {output}: {shown.outputs.get(output) or 'not built'}")
    for name, value in shown.options.items():
        print(f"  option      {name} = {value!r}")
    for line in inputs(node):
        print(f"  input       {line}")
    for variable, value in node.env.items():
        print(f"  env         {variable}={value}")
    for aspect, reason in node.unvaried.items():
        print(f"  unvaried    {aspect}: {reason}   (by forge check)")
    print(f"  builder     {node.builder}   (the phases: forge show --script {target})")


def inputs(node: Derivation) -> Iterator[str]:
    """A line for each input; of hundreds of sources only the first ones, and how many more there are."""
    sources = [name for name, edge in node.inputs.items() if isinstance(edge.node, Source)]
    folded = sources[_SHOWN_SOURCES:] if len(sources) > _MANY_SOURCES else []
    hidden = frozenset(folded)
    for name, edge in node.inputs.items():
        if name not in hidden:
            yield f"{name} at {edge.at}: {edge.node.name}"
    if folded:
        yield f"and {len(folded)} more pinned sources (--json has all)"
