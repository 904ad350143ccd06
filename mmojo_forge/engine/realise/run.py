"""From a request to results: evaluate, plan, realise, link, and keep the evaluation for next time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.engine.errors import EngineError, Interrupted
from mmojo_forge.engine.evaluation import Evaluation, evaluate
from mmojo_forge.engine.plan import Action, Plan, Resolution
from mmojo_forge.engine.protocols import Publisher
from mmojo_forge.engine.realise import evaluation_cache
from mmojo_forge.engine.realise.builder import object_name
from mmojo_forge.engine.realise.evaluation_cache import CachedTarget
from mmojo_forge.engine.realise.realise import Realisation
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.engine.workspace import FORGE_ROOT, Request, Workspace
from mmojo_forge.errors import ExitCode
from mmojo_forge.model.derivation import Label
from mmojo_forge.model.digest import DerivationId, TreeId
from mmojo_forge.model.lockfile import ExpectedOutput
from mmojo_forge.recipe.evaluate import Evaluator, Instance
from mmojo_forge.recipe.loader import FOLDERS
from mmojo_forge.recipe.local_files import IGNORED
from mmojo_forge.store.protocol import Store


@dataclass(frozen=True, slots=True)
class Result:
    """One target that is valid now: its tree, and where it lies in the store."""

    target: str
    path: Path
    tree: TreeId
    label: Label


class UnexpectedOutput(EngineError):
    """A reproducible target came out other than forge.outputs says."""

    exit_code = ExitCode.BUILD_FAILED


def realise_request(
    workspace: Workspace, request: Request, services: Services, settings: Settings, *, link: bool = True
) -> list[Result]:
    """The results of the request's targets, in order; raises ForgeError. Links them in the workspace's out/."""
    began = time.time_ns()
    evaluation = evaluate(workspace, request)
    instances = evaluation.instances
    outputs = workspace.read_outputs(evaluation.lock)
    plan = evaluation.plan(services.store, services.substituter())
    if settings.substitute_only:
        _refuse_to_build(plan)
    resolved = realise(plan, services, settings, push=True)
    results = [_result(target, instance, resolved, services) for target, instance in instances.items()]
    _check_expected(results, instances, outputs, services.store)
    if link:
        for result in results:
            node, output = instances[result.target].node, instances[result.target].output
            services.store.add_root(workspace.results / result.target, result.tree, object_name(node.name, output))
        if not request.overrides:
            _remember(workspace, evaluation, began)
    return results


def plan_request(workspace: Workspace, request: Request, services: Services) -> Plan:
    """What `realise_request` would do; raises RecipeError, LockError. No effects."""
    return evaluate(workspace, request).plan(services.store, services.substituter())


def _refuse_to_build(plan: Plan) -> None:
    missing = [step.node.name for step in plan.steps if step.action is Action.BUILD]
    if missing:
        raise EngineError(
            f"realize: {len(missing)} of {len(plan.steps)} nodes are in no cache, {missing[-1]} for one",
            detail="`forge cache status` tells what the caches have and whom they are signed by. "
            "Leave --substitute-only out to build the rest.",
            reason="not-substituted",
        )


def realise(
    plan: Plan, services: Services, settings: Settings, *, push: bool = False
) -> Mapping[DerivationId, Resolution]:
    """The output trees of the plan's derivations, valid now. Whoever watches hears of the plan and of its end.

    With `push` the results that are built go to the caches that are set to be pushed to. Raises BuildsFailed,
    Interrupted.
    """
    services.reporter.planned(plan)
    try:
        if not plan.steps:
            return plan.resolved
        publisher = services.publisher() if push else None
        return _realise_and_push(plan, services, settings, publisher) if publisher else _run(plan, services, settings)
    finally:
        services.reporter.ended()


def _run(plan: Plan, services: Services, settings: Settings) -> Mapping[DerivationId, Resolution]:
    return Realisation(plan, services, settings).run()


def _realise_and_push(
    plan: Plan, services: Services, settings: Settings, publisher: Publisher
) -> Mapping[DerivationId, Resolution]:
    publisher.begin(plan.graph)
    built = False
    try:
        resolved = _run(plan, services, settings)
        built = any(step.action is Action.BUILD for step in plan.steps)
    except Interrupted:
        publisher.abandon()
        raise
    finally:
        # What was built before a failure is shared all the same.
        publisher.finish(plan.graph if built else None)
    return resolved


def _result(target: str, instance: Instance, resolved: Mapping[DerivationId, Resolution], services: Services) -> Result:
    tree = resolved[instance.node.id][instance.output]
    path = services.store.checkout(tree, object_name(instance.node.name, instance.output))
    return Result(target, path, tree, instance.node.label)


def _check_expected(
    results: list[Result], instances: Mapping[str, Instance], outputs: Mapping[str, ExpectedOutput], store: Store
) -> None:
    for result in results:
        expected = outputs.get(result.target)
        if expected is None or expected.derivation != instances[result.target].node.id:
            continue
        if expected.tree != result.tree:
            raise UnexpectedOutput(
                f"realize {result.target}: it came out as {result.tree}, but forge.outputs expects {expected.tree}",
                detail=f"{first_difference(store, expected.tree, result.tree)}\n"
                "The same derivation gave other bytes: this machine or the one that wrote it is broken or "
                f"compromised, or the recipe is not reproducible. The unexpected result is {result.path}; "
                f"`forge check --bisect {result.target}` finds what it depends on.",
                reason="unexpected-output",
            )


def first_difference(store: Store, expected: TreeId, got: TreeId) -> str:
    """A sentence about where two trees differ."""
    if len(store.valid_trees({expected, got})) < 2:
        return "The store does not have both trees, so forge cannot say here which file differs."
    # It reads APEs and executables; most runs end without a difference.
    from mmojo_forge.engine.difference import differing_paths

    paths = differing_paths(store.read_tree(expected), store.read_tree(got))
    return f"The first file that differs is {paths[0] or 'the file itself'} (of {len(paths)})."


def _remember(workspace: Workspace, evaluation: Evaluation, began: int) -> None:
    if not all(instance.node.label.reproducible for instance in evaluation.instances.values()):
        # Host facts may change without any file of ours changing.
        return
    rows: list[CachedTarget] = [
        (target, instance.node.id, instance.output, object_name(instance.node.name, instance.output))
        for target, instance in evaluation.instances.items()
    ]
    optional = _optional_files(workspace)
    absent = [str(path) for path in optional if not path.exists()]
    read = (*optional, *_files_read(workspace, evaluation.evaluator))
    files = [str(path) for path in read if str(path) not in absent]
    folder = str(workspace.store / "cache" / "evaluation")
    targets = list(evaluation.request.targets)
    evaluation_cache.write(folder, str(workspace.root), targets, files, absent, rows, began=began)


def _optional_files(workspace: Workspace) -> tuple[Path, ...]:
    """Files that matter as soon as they are there: what is expected, and whom to believe, and with it what is known."""
    return (workspace.outputs_path, *workspace.configuration)


def _files_read(workspace: Workspace, evaluator: Evaluator) -> Iterator[Path]:
    """Every file the evaluation rests on, forge's own code included, and the folders whose listing mattered."""
    yield workspace.lock_path
    for folder in FOLDERS:
        if (workspace.root / folder).is_dir():
            yield workspace.root / folder
    yield from evaluator.recipe_files()
    for package in ("model", "recipe"):
        yield from sorted((FORGE_ROOT / package).rglob("*.py"))
    for path in evaluator.declared.local_paths.values():
        yield from _walk(path)


def _walk(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if child.name not in IGNORED:
                yield from _walk(child)
