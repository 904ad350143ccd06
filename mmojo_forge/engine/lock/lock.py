"""Writing forge.lock: every source that a recipe declares gets a pin, every userland its closure.

1. All recipes are evaluated with stand-ins for pins that are missing; what they declare is collected.
2. What is pinned to the same locator stays; the rest is resolved, downloaded once, hashed, kept in the store. What a
   recipe gives the SHA-256 of is not downloaded; its BLAKE3 follows once the file was had here.
3. Pins that nothing declares are dropped.

What targets are expected to be built to stands in a file of its own: see `outputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mmojo_forge.engine.evaluation import evaluate_all
from mmojo_forge.engine.lock.npm import NpmLocker, NpmResolver, is_locked
from mmojo_forge.engine.lock.outputs import OutputsReport, compare_outputs
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.model.derivation import Derivation
from mmojo_forge.model.digest import BlobDigest, Sha256
from mmojo_forge.model.lockfile import Lock, LockError, Pin, Userland
from mmojo_forge.model.node_modules import NodeModules
from mmojo_forge.recipe.api import Debian, Fixed
from mmojo_forge.recipe.evaluate import Declared, Instance, is_pin_of, source_of
from mmojo_forge.store.protocol import Store

Keep = Callable[[Pin, Path], None]
"""Given a pin and a file with its verified content, which may be moved away."""


class Resolver(NpmResolver, Protocol):
    """Turns what a recipe declares into pins; raises FetchError."""

    def resolve(self, name: str, locator: str, mirrors: tuple[str, ...], destination: Path) -> Pin:
        """The pin of one source, whose verified content is left at `destination`."""

    def resolve_userland(
        self, name: str, suite: str, architecture: str, packages: tuple[str, ...], keep: Keep | None = None
    ) -> Userland:
        """The closure of Debian packages; `keep` is given the content of each, perhaps in several threads."""


@dataclass(frozen=True, slots=True)
class LockReport:
    """How the lock differs from what the recipes declare. All sorted.

    `wrong` is what contradicts this store: a pin's digest or size, or an expected output. Outputs that are stale or
    unused (`outputs`) only become so by changes that are right, and do not count.
    """

    missing: tuple[str, ...]
    stale: tuple[str, ...]
    unused: tuple[str, ...]
    wrong: tuple[str, ...]
    outputs: OutputsReport

    @property
    def clean(self) -> bool:
        """Whether nothing has to be done."""
        return not (self.missing or self.stale or self.unused or self.wrong)


@dataclass(frozen=True, slots=True)
class Locked:
    """A lock that was brought up to date, and the sources that were resolved for it: new, changed or asked for."""

    lock: Lock
    resolved: frozenset[str]


def declared_by(workspace: Workspace, lock: Lock) -> tuple[Declared, Mapping[str, Instance]]:
    """All that the workspace's recipes declare, and every target instantiated (with stand-ins for missing pins)."""
    evaluation = evaluate_all(workspace, lock, locking=True)
    return evaluation.evaluator.declared, evaluation.instances


def check_lock(workspace: Workspace, store: Store) -> LockReport:
    """What `forge lock` would change, apart from newer versions, and what this store knows better. Raises LockError."""
    lock = workspace.read_lock()
    expected = workspace.read_outputs(lock)
    declared, instances = declared_by(workspace, lock)
    missing, stale, unused = list[str](), list[str](), list[str]()
    sources = {name: _is_pin_of(lock.sources.get(name), source) for name, source in declared.sources.items()}
    userlands = {name: _is_userland_of(lock.userlands.get(name), one) for name, one in declared.userlands.items()}
    npm = {name: is_locked(one, lock.npm.get(name)) for name, one in declared.npm.items()}
    kinds: tuple[tuple[str, Mapping[str, object], Mapping[str, bool]], ...] = (
        ("source", lock.sources, sources),
        ("userland", lock.userlands, userlands),
        ("npm", lock.npm, npm),
    )
    for kind, locked, met in kinds:
        missing += [f"{kind} {name}" for name in met if name not in locked]
        stale += [f"{kind} {name}" for name in met if name in locked and not met[name]]
        unused += [f"{kind} {name}" for name in locked if name not in met]
    outputs = compare_outputs(expected, instances, instances, store)
    readable = replace(lock, npm={name: closure for name, closure in lock.npm.items() if npm.get(name)})
    wrong = [*_wrong_pins(readable, store), *(f"output {target}" for target in outputs.unexpected)]
    return LockReport(
        tuple(sorted(missing)), tuple(sorted(stale)), tuple(sorted(unused)), tuple(sorted(wrong)), outputs
    )


def _wrong_pins(lock: Lock, store: Store) -> Iterator[str]:
    """What of each pin is not so, by a file in the store that has its BLAKE3 or its SHA-256."""
    pins = list(lock.pins())
    digests = [digest for pin in pins for digest in (pin.blake3, pin.sha256) if digest]
    known = {digest: file for file in store.file_digests(digests) for digest in (file.blake3, file.sha256)}
    for pin in dict.fromkeys(pins):
        file = known.get(pin.blake3) or known.get(pin.sha256)
        for field in ("blake3", "sha256", "size") if file else ():
            if getattr(pin, field) not in ("", getattr(file, field)):
                yield f"{field} of {pin.name}"


class Locker:
    """Brings one workspace's lock up to date. The lock file is replaced only when everything could be resolved.

    `say` is told what is being resolved, for that takes as long as downloading it.
    """

    def __init__(self, workspace: Workspace, store: Store, resolver: Resolver, say: Callable[[str], None]) -> None:
        self._workspace = workspace
        self._store = store
        self._resolver = resolver
        self._say = say

    def update(self, names: Iterable[str] = ()) -> Locked:
        """The new lock, not written yet. Raises LockError, FetchError.

        What `names` name is resolved anew: pins, userlands, and all that the recipes of a package declare.
        """
        old = self._workspace.read_lock()
        declared, _ = declared_by(self._workspace, old)
        anew = {one for name in names for one in _pins_called(name, declared)}
        sources = {name: self._source(name, wanted, old, anew) for name, wanted in declared.sources.items()}
        userlands = {name: self._userland(wanted, old, anew) for name, wanted in declared.userlands.items()}
        lock = replace(old, sources=sources, userlands=userlands)
        lock = replace(lock, npm=self._npm(lock, anew) if declared.npm else {})
        resolved = frozenset(name for name, pin in sources.items() if name in anew or pin != old.sources.get(name))
        return Locked(lock, resolved)

    def _source(self, name: str, wanted: Fixed, old: Lock, anew: set[str]) -> Pin:
        pin = old.sources.get(name)
        if pin is not None and _is_pin_of(pin, wanted) and name not in anew:
            return self._measured(pin, wanted)
        if wanted.sha256:
            known = pin.blake3 if pin and pin.sha256 == wanted.sha256 else BlobDigest("")
            named = Pin(name, wanted.locator, Sha256(wanted.sha256), known, wanted.size, wanted.mirrors)
            return self._measured(named, wanted)
        self._say(f"resolving {name} ({wanted.locator})")
        with self._store.scratch("lock") as scratch:
            destination = scratch / "download"
            pin = self._resolver.resolve(name, wanted.locator, wanted.mirrors, destination)
            self._store.add_file(destination, digest=pin.blake3, size=pin.size, executable=wanted.executable, move=True)
        return pin

    def _measured(self, pin: Pin, wanted: Fixed) -> Pin:
        """The pin with its BLAKE3, if the file was downloaded here since it was pinned without."""
        node = source_of(pin, executable=wanted.executable)
        trees = self._store.lookup_resolved([node.id]).get(node.id) if isinstance(node, Derivation) else None
        if not trees or not self._store.has_tree(trees["out"]):
            return pin
        digest = self._store.read_tree(trees["out"]).entries[0].digest
        return replace(pin, blake3=digest or pin.blake3)

    def _userland(self, wanted: Debian, old: Lock, anew: set[str]) -> Userland:
        known = old.userlands.get(wanted.name)
        if known is not None and _is_userland_of(known, wanted) and wanted.name not in anew:
            return known
        self._say(f"resolving userland {wanted.name} ({wanted.suite}: {', '.join(wanted.packages)})")
        return self._resolver.resolve_userland(
            wanted.name, wanted.suite, wanted.architecture, wanted.packages, self._keep
        )

    def _npm(self, lock: Lock, anew: set[str]) -> dict[str, NodeModules]:
        """The npm closures; where their package-lock.json is, is known only now that sources are pinned."""
        declared, _ = declared_by(self._workspace, lock)
        locker = NpmLocker(self._store, self._resolver, self._say)
        closures = {}
        for name, declaration in declared.npm.items():
            known = lock.npm.get(name)
            keep = name not in anew and is_locked(declaration, known)
            closures[name] = known if known and keep else locker.lock(declaration, known)
        return closures

    def _keep(self, pin: Pin, content: Path) -> None:
        # Hashing a package takes all of it, and the next build will want it.
        self._store.add_file(content, digest=pin.blake3, size=pin.size, move=True)


def _is_pin_of(pin: Pin | None, wanted: Fixed) -> bool:
    return pin is not None and is_pin_of(pin, wanted)


def _is_userland_of(userland: Userland | None, wanted: Debian) -> bool:
    return userland is not None and (userland.suite, userland.architecture, userland.packages) == (
        wanted.suite,
        wanted.architecture,
        wanted.packages,
    )


def _pins_called(name: str, declared: Declared) -> Iterator[str]:
    """The pins and userlands that `name` means: one of that name, or those of a package, written with `-` or `_`."""
    packages = [package for package in dict.fromkeys((name, name.replace("_", "-"))) if package in declared.packages]
    if name in declared.sources or name in declared.userlands or name in declared.npm:
        yield name
    elif not packages:
        raise LockError(
            f"lock --update {name}: no recipe declares it",
            detail=f"Pins: {', '.join(sorted([*declared.sources, *declared.userlands, *declared.npm]))}.\n"
            f"Packages that have some: {', '.join(sorted(declared.packages))}.",
            reason="unknown-pin",
        )
    for package in packages:
        yield from declared.packages[package]
