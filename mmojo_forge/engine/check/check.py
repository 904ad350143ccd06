"""`forge check`, from the request to the report: what to rebuild, in which place, and what can be varied there."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mmojo_forge.engine.check.checker import Checker, CheckError, CheckReport
from mmojo_forge.engine.check.receipt import Agreement, compare, read_receipt
from mmojo_forge.engine.check.variations import Variation, VariationContext
from mmojo_forge.engine.evaluation import evaluate
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Action, Plan, Resolution, Step, make_plan
from mmojo_forge.engine.realise.builder import object_name
from mmojo_forge.engine.realise.run import realise
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.engine.trust.keys import KeyRing
from mmojo_forge.engine.workspace import Request, Workspace
from mmojo_forge.executor.host_environment import VariedExecutor
from mmojo_forge.model.derivation import INHERENT, Derivation
from mmojo_forge.model.digest import DerivationId
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.recipe.evaluate import Evaluator, Instance
from mmojo_forge.store.protocol import Store
from mmojo_forge.store.scratch import remove_tree

_CLOCK_TARGET = "faketime"
_PLACE = "forge-check-"
_ROOM = 6 << 30
_SHUFFLE = 1


def refused(context: VariationContext) -> Iterator[Variation]:
    """The context's variations, those that this machine does not allow marked as refused."""
    cpu = context.cpus[0]
    for variation in context.variations():
        if variation.refused or variation.aspect in INHERENT:
            yield variation
        else:
            why = VariedExecutor(context.host_environment([variation.aspect], cpu)).probe()
            yield replace(variation, refused=why)


def choose_place(store: Path, wanted: Path | None) -> Path:
    """The folder to rebuild in: the one wanted, or the first that will do, on another file system than the store's if
    there is one. Raises CheckError (`scratch-unusable`)."""
    if wanted is not None:
        if why := _unfit(wanted):
            raise _unusable(wanted, why)
        return wanted
    device = store.stat().st_dev
    usual = [Path(name) for name in ("/dev/shm", "/var/tmp", "/tmp")]
    elsewhere = [folder for folder in usual if folder.is_dir() and folder.stat().st_dev != device and _has_room(folder)]
    for folder in (*elsewhere, store.parent, *usual):
        if not _unfit(folder):
            return folder
    return store.parent


def _has_room(folder: Path) -> bool:
    return shutil.disk_usage(folder).free >= _ROOM


def _unfit(folder: Path) -> str:
    """Why nothing can be built in a folder, whatever room there is; empty if it can."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return "it cannot be written to"
    # As containers mount /dev/shm: what a build compiles there it could not run.
    return "nothing there can be executed (noexec)" if os.statvfs(folder).f_flag & os.ST_NOEXEC else ""


def _unusable(folder: Path, why: object) -> CheckError:
    return CheckError(
        f"check: rebuild in {folder}: {why}",
        detail="--scratch chooses another folder to rebuild in.",
        reason="scratch-unusable",
    )


@contextmanager
def other_place(folder: Path) -> Iterator[Path]:
    """A new folder below `folder`, which is gone afterwards however read-only what was left in it; what checks that
    were killed left there is removed first. Raises CheckError (`scratch-unusable`)."""
    try:
        _remove_abandoned(folder)
        place, lock = _make_place(folder)
    except OSError as error:
        raise _unusable(folder, error.strerror) from error
    with ExitStack() as stack:
        stack.callback(os.close, lock)
        stack.callback(remove_tree, str(folder), place.name)
        yield place


def _make_place(folder: Path) -> tuple[Path, int]:
    """A new folder, and the descriptor that keeps it locked."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=_PLACE, dir=folder))
        lock = _lock(place)
        if lock is not None and place.is_dir():
            return place, lock
        # Another check has just removed it as abandoned, which it was until it was locked.
        if lock is not None:
            os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    for place in folder.glob(f"{_PLACE}*"):
        # It may be another user's, or another check may be removing it too.
        with suppress(OSError):
            lock = _lock(place) if place.lstat().st_uid == os.getuid() else None
            if lock is not None:
                try:
                    remove_tree(str(folder), place.name)
                finally:
                    os.close(lock)


def _lock(place: Path) -> int | None:
    """A descriptor that locks the folder until it is closed; None if a process that lives has it, or it is gone."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What to check, and how: `closure` checks all that the targets are built from too; `bisect` finds what makes a
    difference; `scratch` is where to rebuild; `environment` this process's, for the report."""

    request: Request
    closure: bool
    bisect: bool
    scratch: Path | None
    environment: Mapping[str, str]


def check_request(
    workspace: Workspace,
    wanted: CheckRequest,
    services: Services,
    settings: Settings,
    open_store: Callable[[Path, int | None], Store],
) -> CheckReport:
    """The report on the request's targets; raises ForgeError where they cannot be built or checked at all.

    `open_store` opens a store for files in the usual order, or with a number in another one.
    """
    evaluation = evaluate(workspace, wanted.request)
    graph = evaluation.graph
    nodes = _nodes(graph, closure=wanted.closure)
    clock = _clock(evaluation.evaluator)
    resolved = _make_valid([*nodes, *([clock.node] if clock else ())], services, settings)
    with other_place(choose_place(workspace.store, wanted.scratch)) as place:
        files = place / "files"
        files.mkdir()
        with (
            closing(open_store(place / "store", _SHUFFLE)) as shuffled,
            closing(open_store(place / "plain", None)) as plain,
        ):
            context = VariationContext(
                usual_store=workspace.store,
                other_store=place / "store",
                jobs=settings.jobs,
                cpus=tuple(sorted(os.sched_getaffinity(0))),
                clock=_check_out(services.store, clock, resolved) if clock else None,
                files=files,
                environment=wanted.environment,
            )
            variations = tuple(refused(context))
            active = frozenset(one.aspect for one in variations if not one.refused)
            checker = Checker(services, shuffled, plain, context, workspace.store / "checks", bisect=wanted.bisect)
            services.reporter.planned(_rebuild_plan(graph, nodes, resolved, services.store))
            try:
                verdicts = checker.check(nodes, resolved, active)
            finally:
                services.reporter.ended()
    return CheckReport(variations, tuple(verdicts), resolved)


def compare_request(
    workspace: Workspace, request: Request, receipt: Path, keys: KeyRing, services: Services, settings: Settings
) -> list[Agreement]:
    """What the builder of a receipt came to for what the targets are built from, beside what is built here.

    Targets are built first if they are not, and not taken from another store: that could be the same builder's. Raises
    ForgeError: ReceiptError, SignatureError among them.
    """
    services = replace(services, substituter=lambda: None)
    claims = read_receipt(receipt, keys.trusted())
    graph = evaluate(workspace, request).graph
    targets = _nodes(graph, closure=False)
    return compare(receipt, claims, targets, graph, _make_valid(targets, services, settings))


def _nodes(graph: Graph, *, closure: bool) -> list[Derivation]:
    # What is known by its hash beforehand can come out only one way.
    return [node for node in graph.derivations() if (closure and not node.download) or node.id in graph.roots]


def _rebuild_plan(
    graph: Graph, nodes: Sequence[Derivation], resolved: Mapping[DerivationId, Resolution], store: Store
) -> Plan:
    """For whoever looks on: everything is built, and took what it took."""
    history = store.history({node.name for node in nodes})
    seconds = {name: seen.seconds for name, seen in history.items()}
    steps = tuple(Step(node, Action.BUILD, seconds=seconds.get(node.name)) for node in nodes)
    return Plan(graph, resolved, frozenset(), steps)


def _clock(evaluator: Evaluator) -> Instance | None:
    try:
        return evaluator.instantiate(Package(_CLOCK_TARGET))
    except RecipeError as error:
        if error.reason != "unknown-target":
            raise
        return None


def _make_valid(
    nodes: Sequence[Derivation], services: Services, settings: Settings
) -> Mapping[DerivationId, Resolution]:
    """Realise each of the nodes and what it is built from, which is needed again; the trees of all of them."""
    outputs = ((node, output) for node in nodes for output in node.outputs)
    inputs = ((edge.node, edge.output) for node in nodes for edge in node.inputs.values())
    plan = make_plan(Graph.of_outputs([*outputs, *inputs]), services.store, services.substituter())
    return realise(plan, services, settings) if plan.steps else plan.resolved


def _check_out(store: Store, instance: Instance, resolved: Mapping[DerivationId, Resolution]) -> Path:
    tree = resolved[instance.node.id][instance.output]
    return store.checkout(tree, object_name(instance.node.name, instance.output))
