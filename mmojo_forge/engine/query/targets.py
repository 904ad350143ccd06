"""Collects the facts about each target for docs/targets.md: purpose, tools, options, and where it has been run.

All facts come from recipes and the derivation graph, and none from this machine or its store, so that the page is the
same everywhere. Recipes see a fixed host (PLAIN_HOST); a host-specific target lists only the names of its facts.
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
"""The group of the targets in the folder `toolchains`."""

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
"""The host facts that recipes see here, the same on every machine."""

_TOOLCHAINS = "toolchains"
_VERSIONED = re.compile(r"(.+?)-(\d[A-Za-z0-9._+]*)")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a recipe: its type's name, its allowed values (empty: any of its type), and its default."""

    name: str
    type: str
    choices: tuple[OptionValue, ...]
    default: OptionValue


@dataclass(frozen=True, slots=True)
class Tool:
    """A toolchain that builds a target. `version` is empty if the toolchain's derivation name has none."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """One target.

    - `recipe`: the name of its recipe. `preset`: the options that a variant sets.
    - `systems`: the systems it runs on; empty if it is data, or the recipe does not say.
    - `host_facts`: the names of the facts that a host-specific target depends on.
    - `tools`: the toolchains that build it and its contents, most used first, without the userland.
    - `ran`: where it has been run; empty if the recipe does not say.
    - `error`: the reason why it cannot be instantiated, or empty.
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
    """All targets of the workspace, sorted by name; raises RecipeError if a recipe file cannot be loaded."""
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
    """The options of a recipe, in the order of its parameters."""
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
    """The package of every node made by a toolchain's recipe, with any options, by the node's id."""
    return {
        instance.node.id: package.name.partition(".")[0]
        for package, instance in evaluator.instances().items()
        if _is_toolchain(loader, package.name)
    }


@dataclass(slots=True)
class _Surveyor:
    """Derives the systems and tools of nodes from the graph. `toolchains` maps node ids to packages."""

    toolchains: Mapping[str, str]
    _systems: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def systems(self, node: Derivation) -> tuple[str, ...]:
        """The systems that the node's outputs run on: as its recipe says, else all systems of its contents."""
        for inner in Graph.of([node]).derivations():
            if inner.id not in self._systems:
                below = (self._systems[part.id] for part in _contained(inner))
                found = inner.systems or tuple(dict.fromkeys(system for systems in below for system in systems))
                self._systems[inner.id] = found
        return self._systems[node.id]

    def tools(self, node: Derivation, package: str) -> tuple[Tool, ...]:
        """The toolchains that build the node and its contents, except for `package` itself, most used first."""
        found: Counter[Tool] = Counter()
        queue, seen = [node], {node.id}
        for current in queue:
            for name, edge in current.inputs.items():
                below = edge.node
                if not isinstance(below, Derivation) or edge.at == contents.USERLAND:
                    continue
                if self.toolchains.get(below.id, package) != package:
                    found[_tool(below)] += 1
                elif below.id not in seen and contents.contained(current, name):
                    seen.add(below.id)
                    queue.append(below)
        return tuple(tool for tool, _ in found.most_common())


def _contained(node: Derivation) -> list[Derivation]:
    """The inputs that forge built and that are completely in the node's outputs."""
    return [
        edge.node
        for name, edge in node.inputs.items()
        if isinstance(edge.node, Derivation) and contents.contained(node, name) == ALL
    ]


def _tool(node: Derivation) -> Tool:
    match = _VERSIONED.fullmatch(node.name)
    return Tool(match[1], match[2]) if match else Tool(node.name, "")
