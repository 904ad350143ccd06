"""`forge check`, from the request to the report.

It makes the nodes valid, chooses a folder for the rebuild, finds out which variations this machine allows, and runs
the Checker. `compare_request` compares a receipt of another builder with local builds.
"""

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
# Free bytes that a file system other than the store's must have, to be chosen for the rebuild.
_ROOM = 6 << 30
# The seed for the order of files in the shuffled store. It is fixed, so that every check uses the same order.
_SHUFFLE = 1


def refused(context: VariationContext) -> Iterator[Variation]:
    """The context's variations. Those that this machine does not allow have the reason in `refused`."""
    cpu = context.cpus[0]
    for variation in context.variations():
        if variation.refused or variation.aspect in INHERENT:
            yield variation
        else:
            why = VariedExecutor(context.host_environment([variation.aspect], cpu)).probe()
            yield replace(variation, refused=why)


def choose_place(store: Path, wanted: Path | None) -> Path:
    """The folder to rebuild in: `wanted`, or the first usable one, preferably on another file system than the store.

    Raises CheckError (`scratch-unusable`) if `wanted` is unusable.
    """
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
    """Why builds cannot run in a folder, apart from its free space; empty if they can."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return "it is not writable"
    # Containers mount /dev/shm with noexec. A build there could not run the programs that it compiles.
    return "programs there cannot be executed (mounted noexec)" if os.statvfs(folder).f_flag & os.ST_NOEXEC else ""


def _unusable(folder: Path, why: object) -> CheckError:
    return CheckError(
        f"check: rebuild in {folder}: {why}",
        detail="Choose another folder to rebuild in with --scratch.",
        reason="scratch-unusable",
    )


@contextmanager
def other_place(folder: Path) -> Iterator[Path]:
    """A new folder below `folder`. It is removed afterwards, even if its content is read-only.

    Folders that killed checks left behind are removed first. Raises CheckError (`scratch-unusable`).
    """
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
        # Another check removed the folder as abandoned, because it was not locked yet. Try again.
        if lock is not None:
            os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    for place in folder.glob(f"{_PLACE}*"):
        # It may belong to another user, or another check may be removing it at the same time.
        with suppress(OSError):
            lock = _lock(place) if place.lstat().st_uid == os.getuid() else None
            if lock is not None:
                try:
                    remove_tree(str(folder), place.name)
                finally:
                    os.close(lock)


def _lock(place: Path) -> int | None:
    """A descriptor that locks the folder until it is closed; None if a running process holds it, or it is gone."""
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
    """The options of `forge check`.

    With `closure`, everything that the targets are built from is checked too. With `bisect`, the cause of each
    difference is searched. `scratch` is the folder to rebuild in. `environment` is that of this process.
    """

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
    """The report on the request's targets; raises ForgeError if they cannot be built or checked at all.

    `open_store` opens a store at a path. A number makes the store create files in a shuffled order.
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
            active = frozenset(variation.aspect for variation in variations if not variation.refused)
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
    """The claims of a receipt about the targets and their inputs, compared with local builds.

    Targets are built first. They are not substituted, because another store could have the results of the same builder.
    Raises ForgeError, among others ReceiptError and SignatureError.
    """
    services = replace(services, substituter=lambda: None)
    claims = read_receipt(receipt, keys.trusted())
    graph = evaluate(workspace, request).graph
    targets = _nodes(graph, closure=False)
    return compare(receipt, claims, targets, graph, _make_valid(targets, services, settings))


def _nodes(graph: Graph, *, closure: bool) -> list[Derivation]:
    # A download is fixed by its hash, so there is nothing to check.
    return [node for node in graph.derivations() if (closure and not node.download) or node.id in graph.roots]


def _rebuild_plan(
    graph: Graph, nodes: Sequence[Derivation], resolved: Mapping[DerivationId, Resolution], store: Store
) -> Plan:
    """The plan to show to the reporter: every node is built, with the time that past builds took."""
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
    """Make the nodes and their inputs valid; returns all resolved trees. A rebuild needs the inputs again."""
    outputs = ((node, output) for node in nodes for output in node.outputs)
    inputs = ((edge.node, edge.output) for node in nodes for edge in node.inputs.values())
    plan = make_plan(Graph.of_outputs([*outputs, *inputs]), services.store, services.substituter())
    return realise(plan, services, settings) if plan.steps else plan.resolved


def _check_out(store: Store, instance: Instance, resolved: Mapping[DerivationId, Resolution]) -> Path:
    tree = resolved[instance.node.id][instance.output]
    return store.checkout(tree, object_name(instance.node.name, instance.output))
