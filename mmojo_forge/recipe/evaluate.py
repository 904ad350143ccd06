"""Evaluation: targets in, derivations out. Pure given the recipe files, the lock and the options.

The graph is walked with an explicit stack, since closures may be deeper than Python's own:

1. call the recipe of a target with its input packages (by name) and options; it answers with a Spec;
2. push every package the Spec wants that is not instantiated yet (one that is on the stack already is a cycle);
3. when all are there, replace declarations by their pins and make the derivation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import Derivation, Input, LocalSource, Node, Source
from mmojo_forge.model.label import REPRODUCIBLE, Label
from mmojo_forge.model.lockfile import Lock, LockError, Pin
from mmojo_forge.recipe import loader as loading
from mmojo_forge.recipe.api import Debian, Files, Fixed, ForgeFiles, OptionValue, Package, Recipe, Spec, Wanted
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.recipe.host import Host
from mmojo_forge.recipe.loader import Loader
from mmojo_forge.recipe.local import read_local_tree

_PLACEHOLDER = "0" * 64


@dataclass(frozen=True, slots=True)
class Instance:
    """A target, instantiated: the derivation, and which of its outputs the target means."""

    node: Derivation
    output: str


@dataclass(slots=True)
class Declared:
    """What the recipes that were evaluated declare, by lock name: what `forge lock` has to pin."""

    sources: dict[str, Fixed] = field(default_factory=dict)
    userlands: dict[str, Debian] = field(default_factory=dict)
    local_paths: dict[str, Path] = field(default_factory=dict)


@dataclass(slots=True)
class _Frame:
    """A package on the evaluation stack: what its recipe answered, and the packages still to be instantiated."""

    package: Package
    answer: Spec | Package
    label: Label
    pending: Iterator[Package]


class Evaluator:
    """Instantiates targets of one workspace against one lock.

    With `locking`, pins that the lock lacks are stood in for, so that all declarations can be collected.
    """

    def __init__(
        self,
        loader: Loader,
        lock: Lock,
        *,
        forge_root: Path,
        host_facts: Callable[[], Mapping[str, str]],
        overrides: Mapping[str, Mapping[str, str]] | None = None,
        locking: bool = False,
    ) -> None:
        self.declared = Declared()
        self._loader = loader
        self._lock = lock
        self._forge_root = forge_root
        self._host_facts = host_facts
        self._overrides = overrides or {}
        self._locking = locking
        self._instances: dict[Package, Instance] = {}
        self._local: dict[Path, LocalSource] = {}

    def instantiate(self, target: Package) -> Instance:
        """The derivation and output that `target` means; raises RecipeError, LockError or DerivationError."""
        stack: list[_Frame] = []
        on_stack: dict[Package, None] = {}
        self._push(target, stack, on_stack)
        while stack:
            frame = stack[-1]
            wanted = next((package for package in frame.pending if package not in self._instances), None)
            if wanted is not None:
                self._push(wanted, stack, on_stack)
                continue
            self._instances[frame.package] = self._finish(frame)
            stack.pop()
            del on_stack[frame.package]
        return self._instances[target]

    def recipe_files(self) -> list[Path]:
        """The recipe files that were read."""
        return self._loader.loaded_files()

    def _push(self, package: Package, stack: list[_Frame], on_stack: dict[Package, None]) -> None:
        if package in self._instances:
            return
        if package in on_stack:
            path = [frame.package.name for frame in stack]
            cycle = [*path[path.index(package.name) :], package.name]
            raise RecipeError(f"instantiate {package.name}: cycle {' → '.join(cycle)}", reason="recipe-cycle")
        answer, label = self._call(package)
        wants = (answer,) if isinstance(answer, Package) else answer.inputs.values()
        pending = iter([wanted for wanted in wants if isinstance(wanted, Package)])
        on_stack[package] = None
        stack.append(_Frame(package, answer, label, pending))

    def _call(self, package: Package) -> tuple[Spec | Package, Label]:
        recipe, preset = self._loader.find(package.name)
        file = self._loader.file(package.name)
        # What a recipe sets on purpose stands; what a user sets takes the place of defaults and presets.
        given = {**preset, **self._overrides.get(package.name, {}), **dict(package.options)}
        options = {name: validate_option(recipe, name, value, file) for name, value in given.items()}
        host = Host(self._host_facts()) if "host" in recipe.inputs else None
        arguments: dict[str, object] = {
            name: host if name == "host" else Package(name.replace("_", "-")) for name in recipe.inputs
        }
        try:
            answer = recipe.function(**arguments, **options)
        except ForgeError:
            raise
        except Exception as error:
            raise loading.failure(f"evaluate recipe {package.name}", error, file) from error
        if not isinstance(answer, Spec | Package):
            raise RecipeError(
                f"evaluate recipe {package.name}: a {type(answer).__name__} came back, not a Spec",
                reason="recipe-bad-result",
                file=file,
            )
        return answer, host.label() if host else REPRODUCIBLE

    def _finish(self, frame: _Frame) -> Instance:
        if isinstance(frame.answer, Package):
            node = self._instances[frame.answer]
            return Instance(node.node, frame.package.wanted or node.output)
        derivation = self._derivation(frame.package, frame.answer, frame.label)
        output = frame.package.wanted or derivation.outputs[0]
        if output not in derivation.outputs:
            raise RecipeError(
                f"instantiate {frame.package.name}: it has no output {output}, only {', '.join(derivation.outputs)}",
                reason="no-such-output",
            )
        return Instance(derivation, output)

    def _derivation(self, package: Package, spec: Spec, label: Label) -> Derivation:
        folder = self._loader.folder(package.name)
        inputs: dict[str, Input] = {}
        for name, wanted in spec.inputs.items():
            inputs.update(self._inputs(name, wanted, spec.at.get(name), folder))
        args = spec.args
        if spec.builder == "builtin:unpack":
            # The order archives are unpacked in is part of what is built; a JSON object would lose it.
            args = (*args, json.dumps(list(inputs), separators=(",", ":")))
        return Derivation(
            name=spec.name,
            builder=spec.builder,
            args=args,
            env=spec.env,
            inputs=inputs,
            outputs=spec.outputs,
            label=label,
            limits=spec.limits,
            parallel=spec.parallel,
        )

    def _inputs(self, name: str, wanted: Wanted, at: str | None, folder: Path) -> Iterator[tuple[str, Input]]:
        if isinstance(wanted, Debian):
            for package, pin in sorted(self._closure(wanted).items()):
                yield f"{name}-{package}", Input(_source(pin), "out", f"/forge/{name}-{package}")
            return
        node: Node
        output = "out"
        if isinstance(wanted, Package):
            instance = self._instances[wanted]
            node, output = instance.node, instance.output
        elif isinstance(wanted, Files):
            node = self._local_source(_below(folder, wanted.path))
        elif isinstance(wanted, ForgeFiles):
            node = self._local_source(_below(self._forge_root, wanted.path))
        else:
            node = _source(self._pin(wanted), executable=wanted.executable)
        yield name, Input(node, output, at or f"/forge/{name}")

    def _local_source(self, path: Path) -> LocalSource:
        if path not in self._local:
            self._local[path] = LocalSource(path.name, str(path), read_local_tree(path).id)
            self.declared.local_paths[str(path)] = path
        return self._local[path]

    def _pin(self, wanted: Fixed) -> Pin:
        known = self.declared.sources.setdefault(wanted.name, wanted)
        if known.locator != wanted.locator:
            raise RecipeError(
                f"declare source {wanted.name}: both {known.locator} and {wanted.locator}", reason="source-ambiguous"
            )
        pin = self._lock.sources.get(wanted.name)
        if pin is not None and pin.locator == wanted.locator:
            return pin
        if self._locking:
            return _placeholder(wanted.name, wanted.locator)
        raise _missing(wanted.name, wanted.locator, stale=pin is not None)

    def _closure(self, wanted: Debian) -> Mapping[str, Pin]:
        self.declared.userlands[wanted.name] = wanted
        found = self._lock.userlands.get(wanted.name)
        if found is not None and (found.suite, found.architecture, found.packages) == (
            wanted.suite,
            wanted.architecture,
            wanted.packages,
        ):
            return found.closure
        if self._locking:
            return {package: _placeholder(package, f"debian:{package}") for package in wanted.packages}
        raise _missing(f"userland {wanted.name}", f"{wanted.suite}: {' '.join(wanted.packages)}", stale=bool(found))


def validate_option(recipe: Recipe, name: str, value: OptionValue, file: Path) -> Any:
    """`value` as the option's annotation wants it; raises RecipeError (`no-such-option`, `bad-option`)."""
    if name not in recipe.options:
        known = ", ".join(sorted(recipe.options)) or "none"
        raise RecipeError(
            f"set option {name} of {recipe.name}: it does not exist",
            detail=f"Options: {known}.",
            reason="no-such-option",
        )
    default = recipe.options[name]
    annotation = recipe.function.__annotations__.get(name, type(default))
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    # pydantic takes longer to import than a small graph takes to evaluate.
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise RecipeError(
            f"set option {name} of {recipe.name} to {value!r}: {error.errors()[0]['msg']}",
            detail=f"The default is {default!r}.",
            reason="bad-option",
            file=file,
        ) from error


def _below(folder: Path, path: str) -> Path:
    joined = folder / path
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise RecipeError(f"declare files {path}: not below {folder.name}", reason="local-files-outside")
    return joined


def _source(pin: Pin, *, executable: bool = False) -> Source:
    # Debian versions have characters (`~`, `:`) that names in a store do not need.
    name = "".join(character if character.isalnum() or character in "._+-" else "_" for character in pin.name)
    return Source(name, pin.locator, pin.blake3, pin.size, pin.sha256, executable, pin.mirrors)


def _placeholder(name: str, locator: str) -> Pin:
    return Pin(name, locator, _PLACEHOLDER, _PLACEHOLDER, 0)  # type: ignore[arg-type]


def _missing(name: str, locator: str, *, stale: bool) -> LockError:
    state = "is pinned to something else" if stale else "is not pinned"
    return LockError(
        f"instantiate: {name} ({locator}) {state} in forge.lock",
        detail=f"Run `forge lock` (or `forge lock --update {name.rpartition(' ')[2]}`).",
        reason="pin-stale" if stale else "pin-missing",
    )
