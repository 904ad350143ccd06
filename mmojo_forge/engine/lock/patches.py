"""Trying our patches on a new version of what they are for, before anybody needs the result.

`forge lock` does so once the new pins are written: whoever has to mend patches needs the new source, which is got by
its pin. The patches are tried as they are applied in earnest, in the sandbox; what succeeds is kept.
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
    """A tree that is another with patches on it. `target` is what to realise for it, `source` for the other; either
    may be "" where no target means just that."""

    node: Derivation
    target: str
    source: str


class PatchesFailed(EngineError):
    """Patches that do not apply to the new source they are for; `report` names each, with file and hunk."""

    exit_code = ExitCode.BUILD_FAILED

    def __init__(self, trees: Sequence[PatchedTree], reports: Sequence[str]) -> None:
        self.report = "\n".join(reports)
        names = ", ".join(tree.target or tree.node.name for tree in trees)
        sources = " ".join(tree.source for tree in trees if tree.source)
        look = f"`forge realize {sources}` shows the new source. " if sources else ""
        super().__init__(
            f"lock: patches of {names} do not apply to the new source\n{self.report}",
            detail=f"forge.lock is written all the same. {look}Mend the patches (CONTRIBUTING.md says how) until "
            f"`forge realize {names.replace(',', '')}` applies them; `forge log {trees[0].node.name}` has what "
            "patch said.",
            reason="patches-do-not-apply",
        )


def affected_trees(workspace: Workspace, lock: Lock, sources: Collection[str]) -> list[PatchedTree]:
    """The patched trees of all targets that are made from any of the `sources`, which are names in the lock."""
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
    found = (name for name, one in instances.items() if (one.node.id, one.output) == (identifier, output))
    return next(found, "")


def try_patches(trees: Sequence[PatchedTree], services: Services, settings: Settings) -> None:
    """Make the trees valid; raises PatchesFailed, and BuildsFailed where it is not the patches."""
    by_name = {tree.node.name: tree for tree in trees}
    plan = make_plan(Graph.of(tree.node for tree in trees), services.store, services.substituter())
    try:
        realise(plan, services, replace(settings, keep_going=True), push=True)
    except BuildsFailed as error:
        reports = {one.name: _report(one.name, services) for one in error.failures if one.name in by_name}
        told = [name for name, report in reports.items() if report]
        if not told:
            raise
        raise PatchesFailed([by_name[name] for name in told], [reports[name] for name in told]) from error


def _report(name: str, services: Services) -> str:
    """What the log of a failed build says of patches, "" if nothing."""
    key = failed_builds.key_of(services.directories.failed_build(name))
    if key is None or not services.store.log_path(key).exists():
        return ""
    with services.store.open_log(key) as log:
        lines = [line.rstrip("\n") for line in io.TextIOWrapper(log, encoding="utf-8", errors="replace")]
    return "\n".join(lines[lines.index(SUMMARY) + 1 :]) if SUMMARY in lines else ""
