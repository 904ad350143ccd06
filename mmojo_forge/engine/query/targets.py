"""What is to be said of each target: what it is for and built with, its options, and where it has been run.

All of it comes from recipes and the derivation graph, and none of it from this machine or its store. What its label
says of a host-specific target are therefore the names of the facts, which are read off a host that is always the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.sbom import contents
from mmojo_forge.engine.workspace import FORGE_ROOT, Workspace, as_package
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import ALL, Derivation
from mmojo_forge.model.lockfile import Lock
from mmojo_forge.recipe.api import PART, OptionValue, Recipe
from mmojo_forge.recipe.evaluate import Evaluator
from mmojo_forge.recipe.loader import Loader

__all__ = ["PART", "PLAIN_HOST", "TOOLCHAIN", "Option", "OptionValue", "TargetFacts", "Tool", "options_of", "survey"]

TOOLCHAIN = "toolchain"
"""The group of what lies in the folder of toolchains."""

PLAIN_HOST: Mapping[str, str] = MappingProxyType(
    {
        "cpu.cores": "1",
        "cpu.features": "",
        "cpu.flags": "",
        "cpu.microarchitecture": "x86_64",
        "cpu.model": "any",
        "cpu.threads": "1",
        "gpu": "none",
        "libc": "glibc 2.28",
        "machine": "x86_64",
        "os": "linux",
    }
)
"""The host that recipes are shown here, so that what they answer is the same everywhere."""

_TOOLCHAINS = "toolchains"
_VERSIONED = re.compile(r"(.+?)-(\d[A-Za-z0-9._+]*)")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a recipe: the name of its type, the values it may have (none: any of its type), its default."""

    name: str
    type: str
    choices: tuple[OptionValue, ...]
    default: OptionValue


@dataclass(frozen=True, slots=True)
class Tool:
    """A toolchain that something is built with; without a version where its derivation's name has none."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """One target. `recipe` is the target that its recipe is named by, `preset` the options that a variant sets.

    `systems` are those it runs on (none: it is data, or nobody said); `host_facts` the names of what a host-specific
    target depends on. `tools` are the toolchains that it and what is in it are built with, what most of that is built
    with first, without the userland. `ran` is empty where nobody says that it was run. `error` is the reason why it
    cannot be instantiated.
    """

    name: str
    group: str
    recipe: str
    summary: str
    preset: Mapping[str, OptionValue]
    options: tuple[Option, ...]
    ran: str
    systems: tuple[str, ...] = ()
    host_facts: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    error: str = ""


def survey(workspace: Workspace, lock: Lock) -> list[TargetFacts]:
    """All targets of the workspace, sorted by name; raises RecipeError where a recipe file cannot be loaded."""
    loader = Loader(workspace.root)
    evaluator = Evaluator(loader, lock, forge_root=FORGE_ROOT, host_facts=lambda: PLAIN_HOST)
    nodes: dict[str, Derivation] = {}
    errors: dict[str, str] = {}
    for name in loader.targets():
        try:
            nodes[name] = evaluator.instantiate(as_package(name)).node
        except ForgeError as error:
            errors[name] = error.reason
    surveyor = _Surveyor(_toolchains(loader, evaluator))
    targets = []
    for name in loader.targets():
        recipe, preset = loader.find(name)
        group = TOOLCHAIN if _is_toolchain(loader, name) else recipe.group
        node = nodes.get(name)
        targets.append(
            TargetFacts(
                name,
                group,
                recipe.name,
                recipe.summary,
                preset,
                options_of(recipe),
                recipe.ran.get(name, ""),
                surveyor.systems(node) if node else (),
                tuple(fact for fact, _ in node.label.facts) if node else (),
                surveyor.tools(node, name.partition(".")[0]) if node else (),
                errors.get(name, ""),
            )
        )
    return targets


def options_of(recipe: Recipe) -> tuple[Option, ...]:
    """The options of a recipe, in its order."""
    annotations = recipe.function.__annotations__
    return tuple(
        _option(name, annotations.get(name, type(default)), default) for name, default in recipe.options.items()
    )


def _option(name: str, annotation: Any, default: OptionValue) -> Option:
    if get_origin(annotation) is Literal:
        return Option(name, type(default).__name__, get_args(annotation), default)
    return Option(name, annotation.__name__ if isinstance(annotation, type) else str(annotation), (), default)


def _is_toolchain(loader: Loader, target: str) -> bool:
    return loader.folder(target).parent.name == _TOOLCHAINS


def _toolchains(loader: Loader, evaluator: Evaluator) -> dict[str, str]:
    """The package of every node that a toolchain's recipe made, with whatever options, by the node's id."""
    return {
        instance.node.id: package.name.partition(".")[0]
        for package, instance in evaluator.instances().items()
        if _is_toolchain(loader, package.name)
    }


@dataclass(slots=True)
class _Surveyor:
    """Reads off the graph what holds for a node and what is in its outputs."""

    toolchains: Mapping[str, str]
    _systems: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def systems(self, node: Derivation) -> tuple[str, ...]:
        """On which systems the node's outputs run: as its recipe says, else all those of what is in them."""
        for inner in Graph.of([node]).derivations():
            if inner.id not in self._systems:
                below = (self._systems[part.id] for part in _contained(inner))
                found = inner.systems or tuple(dict.fromkeys(system for systems in below for system in systems))
                self._systems[inner.id] = found
        return self._systems[node.id]

    def tools(self, node: Derivation, package: str) -> tuple[Tool, ...]:
        """The toolchains other than `package` itself that the node and what is in its outputs are built with."""
        found: Counter[Tool] = Counter()
        queue, seen = [node], {node.id}
        for one in queue:
            for name, edge in one.inputs.items():
                below = edge.node
                if not isinstance(below, Derivation) or edge.at == contents.USERLAND:
                    continue
                if self.toolchains.get(below.id, package) != package:
                    found[_tool(below)] += 1
                elif below.id not in seen and contents.contained(one, name):
                    seen.add(below.id)
                    queue.append(below)
        return tuple(tool for tool, _ in found.most_common())


def _contained(node: Derivation) -> list[Derivation]:
    """The inputs of the node, built by forge, that are in its outputs as a whole."""
    return [
        edge.node
        for name, edge in node.inputs.items()
        if isinstance(edge.node, Derivation) and contents.contained(node, name) == ALL
    ]


def _tool(node: Derivation) -> Tool:
    match = _VERSIONED.fullmatch(node.name)
    return Tool(match[1], match[2]) if match else Tool(node.name, "")
