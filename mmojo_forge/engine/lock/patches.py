"""Applies our patches to new versions of their sources, before anybody needs the result.

`forge lock` does this after it writes the new pins, because fixing a patch requires the new source, and the source
needs its pin. The patches run in the sandbox, as in a real build, and successful results are kept.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mmojo_forge.engine.errors import BuildsFailed, EngineError
from mmojo_forge.engine.evaluation import evaluate_all
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import make_plan
from mmojo_forge.engine.realise import failed_builds
from mmojo_forge.engine.realise.run import realise
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.errors import ExitCode
from mmojo_forge.model.derivation import Derivation, Input, Source
from mmojo_forge.model.lockfile import Lock
from mmojo_forge.recipe.evaluate import Instance
from mmojo_forge.recipe.patcher import SUMMARY
from mmojo_forge.recipe.source_trees import is_patched


@dataclass(frozen=True, slots=True)
class PatchedTree:
    """A node that applies patches to another tree.

    `target` is the target whose output is the patched tree, `source` the one whose output is the unpatched tree. Each
    is "" if there is no such target.
    """

    node: Derivation
    target: str
    source: str


class PatchesFailed(EngineError):
    """Patches do not apply to a new source. `report` names each failed patch, with file and hunk."""

    exit_code = ExitCode.BUILD_FAILED

    def __init__(self, trees: Sequence[PatchedTree], reports: Sequence[str]) -> None:
        self.report = "\n".join(reports)
        names = ", ".join(tree.target or tree.node.name for tree in trees)
        sources = " ".join(tree.source for tree in trees if tree.source)
        look = f"`forge realize {sources}` shows the new source. " if sources else ""
        super().__init__(
            f"lock: patches of {names} do not apply to the new source\n{self.report}",
            detail=f"forge.lock was written nevertheless. {look}Fix the patches as CONTRIBUTING.md describes, until "
            f"`forge realize {names.replace(',', '')}` succeeds. `forge log {trees[0].node.name}` shows the output of "
            "patch.",
            reason="patches-do-not-apply",
        )


def affected_trees(workspace: Workspace, lock: Lock, sources: Collection[str]) -> list[PatchedTree]:
    """The patched trees of all targets that depend on any of the `sources`, which are names of pins in the lock."""
    digests = {lock.sources[name].sha256 for name in sources}
    if not digests:
        return []
    instances = evaluate_all(workspace, lock).instances
    graph = Graph.of(instance.node for instance in instances.values())
    return [
        PatchedTree(node, _target_of(node.id, node.outputs[0], instances), _source_target(node.inputs, instances))
        for node in graph.derivations()
        if is_patched(node)
        and any(
            isinstance(below, Source) and below.sha256 in digests
            for below in Graph.of([node.inputs["source"].node]).nodes.values()
        )
    ]


def _source_target(inputs: Mapping[str, Input], instances: Mapping[str, Instance]) -> str:
    return _target_of(inputs["source"].node.id, inputs["source"].output, instances)


def _target_of(identifier: str, output: str, instances: Mapping[str, Instance]) -> str:
    wanted = (identifier, output)
    found = (name for name, instance in instances.items() if (instance.node.id, instance.output) == wanted)
    return next(found, "")


def try_patches(trees: Sequence[PatchedTree], services: Services, settings: Settings) -> None:
    """Make the trees valid; raises PatchesFailed, or BuildsFailed if no failure comes from a patch."""
    by_name = {tree.node.name: tree for tree in trees}
    plan = make_plan(Graph.of(tree.node for tree in trees), services.store, services.substituter())
    try:
        realise(plan, services, replace(settings, keep_going=True), push=True)
    except BuildsFailed as error:
        names = [failure.name for failure in error.failures if failure.name in by_name]
        reports = {name: report for name in names if (report := _report(name, services))}
        if not reports:
            raise
        raise PatchesFailed([by_name[name] for name in reports], list(reports.values())) from error


def _report(name: str, services: Services) -> str:
    """The summary of failed patches in the log of a failed build; "" if it has none."""
    key = failed_builds.key_of(services.directories.failed_build(name))
    if key is None or not services.store.log_path(key).exists():
        return ""
    with services.store.open_log(key) as log:
        lines = [line.rstrip("\n") for line in io.TextIOWrapper(log, encoding="utf-8", errors="replace")]
    return "\n".join(lines[lines.index(SUMMARY) + 1 :]) if SUMMARY in lines else ""
