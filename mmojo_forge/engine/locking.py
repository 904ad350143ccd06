"""Writing forge.lock: every source that a recipe declares gets a pin, every userland its closure.

1. All recipes are evaluated with stand-ins for pins that are missing; what they declare is collected.
2. What is pinned to the same locator stays; the rest is resolved, downloaded once, hashed, kept in the store.
3. Targets whose derivation was realised here get their expected tree; expectations of other derivations go.
4. Pins that nothing declares are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import make_plan
from mmojo_forge.engine.workspace import Workspace, as_package
from mmojo_forge.model.lockfile import ExpectedOutput, Lock, LockError, Pin, Userland
from mmojo_forge.recipe.api import Debian, Fixed
from mmojo_forge.recipe.evaluate import Declared, Evaluator, Instance
from mmojo_forge.recipe.loader import Loader
from mmojo_forge.store.protocol import Store

Keep = Callable[[Pin, Path], None]
"""Given a pin and a file with its verified content, which may be moved away."""


class Resolver(Protocol):
    """Turns what a recipe declares into pins; raises FetchError."""

    def resolve(self, name: str, locator: str, mirrors: tuple[str, ...], destination: Path) -> Pin:
        """The pin of one source, whose verified content is left at `destination`."""

    def resolve_userland(
        self, name: str, suite: str, architecture: str, packages: tuple[str, ...], keep: Keep | None = None
    ) -> Userland:
        """The closure of Debian packages; `keep` is given the content of each, perhaps in several threads."""


@dataclass(frozen=True, slots=True)
class LockReport:
    """How the lock differs from what the recipes declare. All sorted."""

    missing: tuple[str, ...]
    stale: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing has to be done."""
        return not (self.missing or self.stale or self.unused)


def declared_by(workspace: Workspace, lock: Lock) -> tuple[Declared, dict[str, Instance]]:
    """All that the workspace's recipes declare, and every target instantiated (with stand-ins for missing pins)."""
    evaluator = workspace.evaluator(lock, locking=True)
    instances = _all_targets(workspace, evaluator)
    return evaluator.declared, instances


def check_lock(workspace: Workspace) -> LockReport:
    """What `forge lock` would change, apart from newer versions."""
    lock = workspace.read_lock()
    declared, instances = declared_by(workspace, lock)
    missing, stale = [], []
    for name, source in declared.sources.items():
        pin = lock.sources.get(name)
        if pin is None:
            missing.append(f"source {name}")
        elif pin.locator != source.locator:
            stale.append(f"source {name}")
    for name, wanted in declared.userlands.items():
        userland = lock.userlands.get(name)
        if userland is None:
            missing.append(f"userland {name}")
        elif not _fits(userland, wanted):
            stale.append(f"userland {name}")
    unused = [f"source {name}" for name in lock.sources if name not in declared.sources]
    unused += [f"userland {name}" for name in lock.userlands if name not in declared.userlands]
    for target, expected in lock.outputs.items():
        if target not in instances:
            unused.append(f"output {target}")
        elif instances[target].node.id != expected.derivation:
            stale.append(f"output {target}")
    return LockReport(tuple(sorted(missing)), tuple(sorted(stale)), tuple(sorted(unused)))


class Locker:
    """Brings one workspace's lock up to date. The lock file is replaced only when everything could be resolved.

    `say` is told what is being resolved, for that takes as long as downloading it.
    """

    def __init__(self, workspace: Workspace, store: Store, resolver: Resolver, say: Callable[[str], None]) -> None:
        self._workspace = workspace
        self._store = store
        self._resolver = resolver
        self._say = say

    def update(self, names: Iterable[str] = ()) -> Lock:
        """The new lock, not written yet; pins in `names` are resolved anew. Raises LockError, FetchError."""
        old = self._workspace.read_lock()
        anew = set(names)
        declared, _ = declared_by(self._workspace, old)
        _check_names(anew, declared)
        sources = {name: self._source(name, wanted, old, anew) for name, wanted in declared.sources.items()}
        userlands = {name: self._userland(wanted, old, anew) for name, wanted in declared.userlands.items()}
        return self._with_outputs(Lock(sources, userlands, old.outputs))

    def _source(self, name: str, wanted: Fixed, old: Lock, anew: set[str]) -> Pin:
        pin = old.sources.get(name)
        if pin is not None and pin.locator == wanted.locator and name not in anew:
            return pin
        self._say(f"resolving {name} ({wanted.locator})")
        with self._store.scratch("lock") as scratch:
            destination = scratch / "download"
            pin = self._resolver.resolve(name, wanted.locator, wanted.mirrors, destination)
            self._store.add_file(destination, digest=pin.blake3, size=pin.size, executable=wanted.executable, move=True)
        return pin

    def _userland(self, wanted: Debian, old: Lock, anew: set[str]) -> Userland:
        known = old.userlands.get(wanted.name)
        if known is not None and _fits(known, wanted) and wanted.name not in anew:
            return known
        self._say(f"resolving userland {wanted.name} ({wanted.suite}: {', '.join(wanted.packages)})")
        return self._resolver.resolve_userland(
            wanted.name, wanted.suite, wanted.architecture, wanted.packages, self._keep
        )

    def _keep(self, pin: Pin, content: Path) -> None:
        # Hashing a package takes all of it, and the next build will want it.
        self._store.add_file(content, digest=pin.blake3, size=pin.size, move=True)

    def _with_outputs(self, lock: Lock) -> Lock:
        instances = _all_targets(self._workspace, self._workspace.evaluator(lock))
        return Lock(lock.sources, lock.userlands, expected_outputs(instances, lock, self._store))


def expected_outputs(instances: Mapping[str, Instance], lock: Lock, store: Store) -> dict[str, ExpectedOutput]:
    """For each reproducible target the tree it was realised to here, or else what the lock expects already."""
    plan = make_plan(Graph.of(instance.node for instance in instances.values()), store)
    expected = {}
    for target, instance in instances.items():
        if not instance.node.label.reproducible:
            continue
        known = plan.resolved.get(instance.node.id)
        locked = lock.outputs.get(target)
        if locked is not None and locked.derivation == instance.node.id:
            expected[target] = locked
        elif known is not None:
            expected[target] = ExpectedOutput(target, instance.node.id, known[instance.output])
    return expected


def _all_targets(workspace: Workspace, evaluator: Evaluator) -> dict[str, Instance]:
    return {target: evaluator.instantiate(as_package(target)) for target in Loader(workspace.root).targets()}


def _fits(userland: Userland, wanted: Debian) -> bool:
    return (userland.suite, userland.architecture, userland.packages) == (
        wanted.suite,
        wanted.architecture,
        wanted.packages,
    )


def _check_names(names: set[str], declared: Declared) -> None:
    unknown = sorted(names - set(declared.sources) - set(declared.userlands))
    if unknown:
        raise LockError(
            f"lock --update {unknown[0]}: no recipe declares it",
            detail=f"Declared: {', '.join(sorted([*declared.sources, *declared.userlands]))}.",
            reason="unknown-pin",
        )
