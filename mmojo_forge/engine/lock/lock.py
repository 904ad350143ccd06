"""Writes forge.lock: a pin for every source that a recipe declares, a closure for every userland.

1. Evaluate all recipes, with placeholders for missing pins, and collect what they declare.
2. Keep pins whose locator is unchanged. Resolve the rest: download each source once, hash it, keep it in the store.
   A source with a declared SHA-256 is not downloaded; its pin gets a BLAKE3 when the file first arrives here.
3. Drop pins that no recipe declares.

Expected outputs have a file of their own, forge.outputs: see `outputs`.
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
"""Called with a pin and a file that has its verified content. The callee may move the file away."""


class Resolver(NpmResolver, Protocol):
    """Resolves declared sources to pins; raises FetchError."""

    def resolve(self, name: str, locator: str, mirrors: tuple[str, ...], destination: Path) -> Pin:
        """The pin of one source. Leaves the verified content at `destination`."""

    def resolve_userland(
        self, name: str, suite: str, architecture: str, packages: tuple[str, ...], keep: Keep | None = None
    ) -> Userland:
        """The closure of Debian packages. `keep` receives each package's content, possibly in several threads."""


@dataclass(frozen=True, slots=True)
class LockReport:
    """How the lock differs from what the recipes declare. All fields are sorted.

    `wrong` lists contradictions to this store: a pin's digest or size, or an expected output. Stale and unused
    `outputs` do not make a report unclean, because legitimate changes cause them.
    """

    missing: tuple[str, ...]
    stale: tuple[str, ...]
    unused: tuple[str, ...]
    wrong: tuple[str, ...]
    outputs: OutputsReport

    @property
    def clean(self) -> bool:
        """Whether the lock needs no change."""
        return not (self.missing or self.stale or self.unused or self.wrong)


@dataclass(frozen=True, slots=True)
class Locked:
    """An updated lock, and the names of the sources that are new, changed or were requested by name."""

    lock: Lock
    resolved: frozenset[str]


def declared_by(workspace: Workspace, lock: Lock) -> tuple[Declared, Mapping[str, Instance]]:
    """Everything that the workspace's recipes declare, and every target's instance. Missing pins get placeholders."""
    evaluation = evaluate_all(workspace, lock, locking=True)
    return evaluation.evaluator.declared, evaluation.instances


def check_lock(workspace: Workspace, store: Store) -> LockReport:
    """What `forge lock` would change (newer versions aside), and what contradicts this store. Raises LockError."""
    lock = workspace.read_lock()
    expected = workspace.read_outputs(lock)
    declared, instances = declared_by(workspace, lock)
    missing, stale, unused = list[str](), list[str](), list[str]()
    sources = {name: _is_pin_of(lock.sources.get(name), source) for name, source in declared.sources.items()}
    userlands = {name: _is_userland_of(lock.userlands.get(name), land) for name, land in declared.userlands.items()}
    npm = {name: is_locked(declaration, lock.npm.get(name)) for name, declaration in declared.npm.items()}
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
    """The digest and size fields of pins that contradict a file in the store with the same BLAKE3 or SHA-256."""
    pins = list(lock.pins())
    digests = [digest for pin in pins for digest in (pin.blake3, pin.sha256) if digest]
    known = {digest: file for file in store.file_digests(digests) for digest in (file.blake3, file.sha256)}
    for pin in dict.fromkeys(pins):
        file = known.get(pin.blake3) or known.get(pin.sha256)
        for field in ("blake3", "sha256", "size") if file else ():
            if getattr(pin, field) not in ("", getattr(file, field)):
                yield f"{field} of {pin.name}"


class Locker:
    """Updates one workspace's lock. The caller writes the lock file, once everything is resolved.

    `say` receives a line for each source before it is resolved, because that includes downloading it.
    """

    def __init__(self, workspace: Workspace, store: Store, resolver: Resolver, say: Callable[[str], None]) -> None:
        self._workspace = workspace
        self._store = store
        self._resolver = resolver
        self._say = say

    def update(self, names: Iterable[str] = ()) -> Locked:
        """The new lock, not written yet. Raises LockError, FetchError.

        `names` are resolved again even if they are pinned. A name is a pin, a userland, an npm closure, or a package,
        which stands for everything that its recipes declare.
        """
        old = self._workspace.read_lock()
        declared, _ = declared_by(self._workspace, old)
        anew = {pinned for name in names for pinned in _pins_called(name, declared)}
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
        """The pin, with its BLAKE3 added if the file has been downloaded here in the meantime."""
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
        """The npm closures. They are locked last, because package-lock.json is in a source that needs its pin first."""
        declared, _ = declared_by(self._workspace, lock)
        locker = NpmLocker(self._store, self._resolver, self._say)
        closures = {}
        for name, declaration in declared.npm.items():
            known = lock.npm.get(name)
            keep = name not in anew and is_locked(declaration, known)
            closures[name] = known if known and keep else locker.lock(declaration, known)
        return closures

    def _keep(self, pin: Pin, content: Path) -> None:
        # Hashing downloaded the whole package, and the next build needs it.
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
    """The pins and userlands that `name` stands for: the one of that name, or those of a package.

    A package name may have `_` instead of `-`. Raises LockError (`unknown-pin`).
    """
    packages = [package for package in dict.fromkeys((name, name.replace("_", "-"))) if package in declared.packages]
    if name in declared.sources or name in declared.userlands or name in declared.npm:
        yield name
    elif not packages:
        raise LockError(
            f"lock --update {name}: no recipe declares it",
            detail=f"Pins: {', '.join(sorted([*declared.sources, *declared.userlands, *declared.npm]))}.\n"
            f"Packages with pins: {', '.join(sorted(declared.packages))}.",
            reason="unknown-pin",
        )
    for package in packages:
        yield from declared.packages[package]
