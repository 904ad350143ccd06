"""`forge check`, from the request to the report: what to rebuild, in which place, and what can be varied there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mmojo_forge.engine.build import object_name
from mmojo_forge.engine.check import Checker, CheckReport
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.keys import KeyRing
from mmojo_forge.engine.plan import Action, Plan, Resolution, Step, make_plan
from mmojo_forge.engine.realise import Realisation
from mmojo_forge.engine.receipt import Agreement, compare, read_receipt
from mmojo_forge.engine.settings import Settings, World
from mmojo_forge.engine.variation import INHERENT, Scene, Variation
from mmojo_forge.engine.workspace import Request, Workspace, graph_of
from mmojo_forge.executor.surroundings import SurroundedExecutor
from mmojo_forge.model.derivation import Derivation
from mmojo_forge.model.digest import DerivationId
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.recipe.evaluate import Evaluator, Instance
from mmojo_forge.store.protocol import Store
from mmojo_forge.store.scratch import remove_tree

_CLOCK_TARGET = "faketime"
_ROOM = 6 << 30
_SHUFFLE = 1


def refused(scene: Scene) -> Iterator[Variation]:
    """The scene's variations, those that this machine does not allow marked as refused."""
    cpu = scene.cpus[0]
    for variation in scene.variations():
        if variation.refused or variation.aspect in INHERENT:
            yield variation
        else:
            why = SurroundedExecutor(scene.surroundings([variation.aspect], cpu)).probe()
            yield replace(variation, refused=why)


def choose_place(store: Path, wanted: Path | None) -> Path:
    """The folder to rebuild in: the one wanted, or the first with room on another file system than the store's."""
    if wanted is not None:
        return wanted
    device = store.stat().st_dev
    for name in ("/dev/shm", "/var/tmp", "/tmp"):
        folder = Path(name)
        if folder.is_dir() and folder.stat().st_dev != device and shutil.disk_usage(folder).free >= _ROOM:
            return folder
    return store.parent


@contextmanager
def other_place(folder: Path) -> Iterator[Path]:
    """A new folder below `folder`, which is gone afterwards however read-only what was left in it."""
    place = Path(tempfile.mkdtemp(prefix="forge-check-", dir=folder))
    try:
        yield place
    finally:
        remove_tree(str(folder), place.name)


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What to check, and how: `closure` checks all that the targets are built from too; `isolate` finds what makes a
    difference; `scratch` is where to rebuild; `environment` this process's, for the report."""

    request: Request
    closure: bool
    isolate: bool
    scratch: Path | None
    environment: Mapping[str, str]


def check_request(
    workspace: Workspace,
    wanted: CheckRequest,
    world: World,
    settings: Settings,
    open_store: Callable[[Path, int | None], Store],
) -> CheckReport:
    """The report on the request's targets; raises ForgeError where they cannot be built or checked at all.

    `open_store` opens a store for files in the usual order, or with a number in another one.
    """
    evaluator = workspace.evaluator(workspace.read_lock(), overrides=wanted.request.overrides)
    graph = graph_of(wanted.request.instantiate(evaluator))
    nodes = _nodes(graph, closure=wanted.closure)
    clock = _clock(evaluator)
    resolved = _make_valid([*nodes, *([clock.node] if clock else ())], world, settings)
    with other_place(choose_place(workspace.store, wanted.scratch)) as place:
        files = place / "files"
        files.mkdir()
        with (
            closing(open_store(place / "store", _SHUFFLE)) as shuffled,
            closing(open_store(place / "plain", None)) as plain,
        ):
            scene = Scene(
                usual_store=workspace.store,
                other_store=place / "store",
                jobs=settings.jobs,
                cpus=tuple(sorted(os.sched_getaffinity(0))),
                clock=_check_out(world.store, clock, resolved) if clock else None,
                files=files,
                environment=wanted.environment,
            )
            variations = tuple(refused(scene))
            active = frozenset(one.aspect for one in variations if not one.refused)
            checker = Checker(world, shuffled, plain, scene, workspace.store / "checks", isolate=wanted.isolate)
            world.reporter.planned(
                Plan(graph, resolved, frozenset(), tuple(Step(node, Action.BUILD) for node in nodes))
            )
            try:
                verdicts = checker.check(nodes, resolved, active)
            finally:
                world.reporter.ended()
    return CheckReport(variations, tuple(verdicts), resolved)


def compare_request(
    workspace: Workspace, request: Request, receipt: Path, keys: KeyRing, world: World, settings: Settings
) -> list[Agreement]:
    """What the builder of a receipt came to for what the targets are built from, beside what is built here.

    Targets are built first if they are not. Raises ForgeError: ReceiptError, SignatureError among them.
    """
    claims = read_receipt(receipt, keys.trusted())
    evaluator = workspace.evaluator(workspace.read_lock(), overrides=request.overrides)
    nodes = _nodes(graph_of(request.instantiate(evaluator)), closure=False)
    resolved = _make_valid(nodes, world, settings)
    known = [node for node in Graph.of(nodes).derivations() if node.id in resolved]
    return compare(receipt, claims, known, resolved)


def _nodes(graph: Graph, *, closure: bool) -> list[Derivation]:
    return [node for node in graph.derivations() if closure or node.id in graph.roots]


def _clock(evaluator: Evaluator) -> Instance | None:
    try:
        return evaluator.instantiate(Package(_CLOCK_TARGET))
    except RecipeError as error:
        if error.reason != "unknown-target":
            raise
        return None


def _make_valid(nodes: Sequence[Derivation], world: World, settings: Settings) -> dict[DerivationId, Resolution]:
    """Realise each of the nodes and what it is built from, which is needed again; the trees of all of them."""
    inputs = (edge.node for node in nodes for edge in node.inputs.values())
    plan = make_plan(Graph.of([*nodes, *inputs]), world.store)
    if not plan.steps:
        return dict(plan.resolved)
    world.reporter.planned(plan)
    try:
        return Realisation(plan, world, settings).run()
    finally:
        world.reporter.ended()


def _check_out(store: Store, instance: Instance, resolved: Mapping[DerivationId, Resolution]) -> Path:
    tree = resolved[instance.node.id][instance.output]
    return store.checkout(tree, object_name(instance.node.name, instance.output))
