"""Evaluation: targets in, derivations out. Pure given the recipe files, the lock and the options.

The graph is walked with an explicit stack, since closures may be deeper than Python's own:

1. call the recipe of a target with its input packages (by name) and options; it answers with a Spec;
2. push every package the Spec wants that is not instantiated yet (one that is on the stack already is a cycle);
3. when all are there, replace declarations by their pins and make the derivation.

Options of recipes: what a user sets of which recipe, and values as their annotations want them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import (
    REPRODUCIBLE,
    Derivation,
    Download,
    Input,
    Label,
    LocalSource,
    Source,
    downloading,
)
from mmojo_forge.model.lockfile import Lock, LockError, Pin
from mmojo_forge.model.node_modules import NodeModulesError, NpmPackage
from mmojo_forge.recipe import loader as loading
from mmojo_forge.recipe import source_trees
from mmojo_forge.recipe.api import (
    Debian,
    Files,
    Fixed,
    ForgeFiles,
    Host,
    LibFiles,
    NpmClosure,
    OptionValue,
    Package,
    Recipe,
    Spec,
)
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.recipe.loader import Loader
from mmojo_forge.recipe.local_files import read_local_tree


class Overrides:
    """What a user sets, by package and option, and what of it came to something."""

    def __init__(self, wanted: Mapping[str, Mapping[str, str]]) -> None:
        self._wanted = wanted
        self._heeded: set[tuple[str, str]] = set()

    def of(self, name: str) -> Mapping[str, str]:
        """What is set of the recipe `name`."""
        return self._wanted.get(name, {})

    def called(self, package: Package) -> None:
        """Notes that the package's recipe is called: what is set of it counts, but for what the package sets itself."""
        stands = dict(package.options)
        self._heeded.update((package.name, option) for option in self.of(package.name) if option not in stands)

    def check(self, called: Collection[str]) -> None:
        """Raises RecipeError (`unused-setting`, `overruled-setting`) for what is set and came to nothing, given all
        recipes called."""
        for name, options in self._wanted.items():
            for option, value in options.items():
                if (name, option) not in self._heeded:
                    raise _unused(name, option, value, called)


def _unused(name: str, option: str, value: str, called: Collection[str]) -> RecipeError:
    if name in called:
        reason, cause = "overruled-setting", f"what is made of {name} here sets {option} by itself"
        hint = f"Set it of what asks for {name}, or realize {name} by itself."
    else:
        near = difflib.get_close_matches(name, list(called), n=4, cutoff=0.6)
        reason, cause = "unused-setting", f"{name} is no part of what is asked for"
        hint = f"Did you mean {' or '.join(near)}?" if near else "`forge show TARGET` shows what a target is made of."
    return RecipeError(f"set {name}:{option}={value}: {cause}", detail=hint, reason=reason)


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


def check_declaration(recipe: Recipe, packages: Collection[str]) -> None:
    """Raises RecipeError for a parameter that names no package (`unknown-target`) or has a default that is no value of
    its option (`option-bad-default`)."""
    for name in recipe.inputs:
        package = name.replace("_", "-")
        if name != "host" and package not in packages:
            near = difflib.get_close_matches(package, packages, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(one.replace('-', '_') for one in near)}?" if near else ""
            raise _declared_wrong(recipe, name, "it has no default and names no package", hint, "unknown-target")
    for name, default in recipe.options.items():
        annotation = recipe.function.__annotations__.get(name)
        choices = get_args(annotation) if get_origin(annotation) is Literal else ()
        if type(default) not in (str, int, bool):
            cause = f"its default {default!r} is of type {type(default).__name__}"
            raise _declared_wrong(
                recipe, name, cause, "Options are text, whole numbers, True or False.", "option-bad-default"
            )
        if choices and default not in choices:
            hint = f"Choices: {', '.join(map(str, choices))}."
            raise _declared_wrong(recipe, name, f"its default {default!r} is no choice", hint, "option-bad-default")


def _declared_wrong(recipe: Recipe, name: str, cause: str, hint: str, reason: str) -> RecipeError:
    file, line = line_of(recipe, name)
    return RecipeError(
        f"declare {recipe.name}: parameter {name}: {cause}", detail=hint, reason=reason, file=file, line=line
    )


def line_of(recipe: Recipe, word: str) -> tuple[Path, int]:
    """Where the recipe's function speaks of a parameter or a package; else where it begins."""
    code = recipe.function.__code__
    file = Path(code.co_filename)
    pattern = re.compile(rf"(?<![\w.-])({re.escape(word)}|{re.escape(word.replace('-', '_'))})(?![\w-])")
    # The name of the recipe itself stands in its first line.
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()[code.co_firstlineno :]
    found = (code.co_firstlineno + 1 + index for index, line in enumerate(lines) if pattern.search(line))
    return file, next(found, code.co_firstlineno)


_PLACEHOLDER = "0" * 64


@dataclass(frozen=True, slots=True)
class Instance:
    """A target, instantiated: the derivation, and which of its outputs the target means."""

    node: Derivation
    output: str


@dataclass(slots=True)
class Declared:
    """What the recipes that were evaluated declare, by lock name: what `forge lock` has to pin.

    `packages` has those names by the package whose recipe declares them.
    """

    sources: dict[str, Fixed] = field(default_factory=dict)
    userlands: dict[str, Debian] = field(default_factory=dict)
    npm: dict[str, source_trees.Declaration] = field(default_factory=dict)
    packages: dict[str, list[str]] = field(default_factory=dict)
    local_paths: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Target:
    """A target's recipe, and what every call of it has in common, looked up once."""

    recipe: Recipe
    file: Path
    folder: Path
    options: Mapping[str, OptionValue]
    arguments: Mapping[str, Package]
    wants_host: bool


@dataclass(slots=True)
class _Frame:
    """A package on the evaluation stack: what its recipe answered, and the packages to be instantiated before it."""

    folder: Path
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
        self._overrides = Overrides(overrides or {})
        self._locking = locking
        self._targets: dict[str, _Target] = {}
        self._instances: dict[Package, Instance] = {}
        self._local: dict[Path, LocalSource] = {}

    def instantiate(self, target: Package) -> Instance:
        """The derivation and output that `target` means; raises RecipeError, LockError or DerivationError."""
        if target in self._instances:
            return self._instances[target]
        stack = {target: self._begin(target)}
        while stack:
            package, frame = next(reversed(stack.items()))
            for wanted in frame.pending:
                if wanted in self._instances:
                    continue
                if wanted in stack:
                    raise _cycle(stack, wanted)
                with self._located(package, package, wanted):
                    stack[wanted] = self._begin(wanted)
                break
            else:
                stack.popitem()
                asking = next(reversed(stack), package)
                with self._located(package, asking, package):
                    self._instances[package] = self._finish(package, frame)
        return self._instances[target]

    def instances(self) -> Mapping[Package, Instance]:
        """All that was instantiated so far, by what it was asked for as."""
        return self._instances

    def check_overrides(self) -> None:
        """Raises RecipeError (`unused-setting`, `overruled-setting`) for an option set that nothing so far heeds."""
        self._overrides.check(self._targets)

    def recipe_files(self) -> list[Path]:
        """The recipe files and modules of the library that were read, and the library's folder if there were any."""
        return self._loader.loaded_files()

    def _begin(self, package: Package) -> _Frame:
        target = self._target(package.name)
        answer, label = self._call(package, target)
        wants = (answer,) if isinstance(answer, Package) else answer.inputs.values()
        pending = iter([wanted for wanted in wants if isinstance(wanted, Package)])
        return _Frame(target.folder, answer, label, pending)

    @contextmanager
    def _located(self, package: Package, asking: Package, wanted: Package) -> Iterator[None]:
        """Says of an error of which nobody knows the file that the package's recipe has led to it, where it speaks of
        what is wanted; or the recipe that asks for an output that there is not."""
        try:
            yield
        except RecipeError as error:
            blamed = asking if error.reason == "no-such-output" else package
            error.found_at(*line_of(self._target(blamed.name).recipe, wanted.name))
            raise

    def _target(self, name: str) -> _Target:
        if name not in self._targets:
            recipe, preset = self._loader.find(name)
            check_declaration(recipe, self._loader.packages())
            options = {**preset, **self._overrides.of(name)}
            arguments = {one: Package(one.replace("_", "-")) for one in recipe.inputs if one != "host"}
            file, folder = self._loader.file(name), self._loader.folder(name)
            self._targets[name] = _Target(recipe, file, folder, options, arguments, "host" in recipe.inputs)
        return self._targets[name]

    def _call(self, package: Package, target: _Target) -> tuple[Spec | Package, Label]:
        recipe, file, lib = target.recipe, target.file, self._loader.library.folder
        self._overrides.called(package)
        # What a recipe sets on purpose stands; what a user sets takes the place of defaults and presets.
        given = {**target.options, **dict(package.options)}
        options = {name: validate_option(recipe, name, value, file) for name, value in given.items()}
        host = Host(self._host_facts()) if target.wants_host else None
        arguments: Mapping[str, object] = {**target.arguments, "host": host} if host else target.arguments
        try:
            answer = recipe.function(**arguments, **options)
        except ForgeError as error:
            loading.locate(error, error, file, lib)
            raise
        except Exception as error:
            raise loading.failure(f"evaluate recipe {package.name}", error, file, lib) from error
        if not isinstance(answer, Spec | Package):
            raise RecipeError(
                f"evaluate recipe {package.name}: a {type(answer).__name__} came back, not a Spec",
                reason="recipe-bad-result",
                file=file,
            )
        return answer, host.label() if host else REPRODUCIBLE

    def _finish(self, package: Package, frame: _Frame) -> Instance:
        if isinstance(frame.answer, Package):
            meant = self._instances[frame.answer]
            node = meant.node
            if not frame.label.reproducible:
                # What stands for another package, by options taken from host facts, is as host-specific as they are.
                node = replace(node, label=frame.label.joined([node.label]))
            return Instance(node, package.wanted or meant.output)
        derivation = self._derivation(frame, frame.answer)
        output = package.wanted or derivation.outputs[0]
        if output not in derivation.outputs:
            raise RecipeError(
                f"instantiate {package.name}: it has no output {output}, only {', '.join(derivation.outputs)}",
                reason="no-such-output",
            )
        return Instance(derivation, output)

    def _derivation(self, frame: _Frame, spec: Spec) -> Derivation:
        inputs: dict[str, Input] = {}
        args = spec.args
        for name, wanted in spec.inputs.items():
            at = spec.at.get(name) or f"/forge/{name}"
            if isinstance(wanted, Debian | Fixed | NpmClosure):
                self.declared.packages.setdefault(frame.folder.name, []).append(wanted.name)
            if isinstance(wanted, Package):
                instance = self._instances[wanted]
                inputs[name] = Input(instance.node, instance.output, at)
            elif isinstance(wanted, Debian):
                for package, pin in sorted(self._closure(wanted).items()):
                    inputs[f"{name}-{package}"] = Input(source_of(pin), "out", f"/forge/{name}-{package}")
            elif isinstance(wanted, NpmClosure):
                tarballs, layout = source_trees.inputs_of(self._npm_packages(wanted, frame.folder, spec), name)
                inputs.update(tarballs)
                args = (*args, layout)
            else:
                inputs[name] = Input(self._source(wanted, frame.folder), "out", at)
        if spec.builder == "builtin:unpack":
            # The order archives are unpacked in is part of what is built; a JSON object would lose it.
            args = (*args, json.dumps(list(inputs), separators=(",", ":")))
        if spec.portable:
            _check_portable(spec.name, frame.label, inputs)
        return Derivation(
            name=spec.name,
            builder=spec.builder,
            args=args,
            env=spec.env,
            inputs=inputs,
            outputs=spec.outputs,
            label=frame.label,
            limits=spec.limits,
            parallel=spec.parallel,
            allowed_leaks=spec.allowed_leaks,
            components=spec.components,
            contents=_contents(spec, inputs),
            systems=spec.systems,
            check_exemptions=spec.check_exemptions,
        )

    def _source(self, wanted: Fixed | Files | ForgeFiles, folder: Path) -> Source | LocalSource | Derivation:
        if isinstance(wanted, Files):
            folder = self._loader.library.folder if isinstance(wanted, LibFiles) else folder
            return self._local_source(_below(folder, wanted.path))
        if isinstance(wanted, ForgeFiles):
            return self._local_source(_below(self._forge_root, wanted.path))
        return source_of(self._pin(wanted), executable=wanted.executable)

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
        if pin is not None and is_pin_of(pin, wanted):
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

    def _npm_packages(self, wanted: NpmClosure, folder: Path, spec: Spec) -> tuple[NpmPackage, ...]:
        if spec.builder != source_trees.BUILDER:
            raise RecipeError(
                f"instantiate {spec.name}: the npm closure {wanted.name} is no input of a build",
                detail="Make a folder of it first: node_modules(NAME, closure) in a recipe of its own.",
                reason="npm-closure-misplaced",
            )
        if isinstance(wanted.lock, Fixed):
            self.declared.packages.setdefault(folder.name, []).append(wanted.lock.name)
        origin = self._source(wanted.lock, folder)
        if isinstance(origin, Derivation) or (isinstance(wanted.lock, Fixed) and wanted.lock.sha256):
            raise RecipeError(
                f"instantiate {spec.name}: {source_trees.name_of(wanted.lock)} is pinned unread, and its "
                "package-lock.json is needed",
                detail="Declare it without sha256: `forge lock` has to read it.",
                reason="npm-lock-unread",
            )
        declaration = source_trees.Declaration(wanted, origin)
        if self.declared.npm.setdefault(wanted.name, declaration) != declaration:
            raise RecipeError(f"declare npm closure {wanted.name}: twice, and differently", reason="source-ambiguous")
        found = self._lock.npm.get(wanted.name)
        if found is not None and declaration.is_met_by(found):
            try:
                return found.packages()
            except NodeModulesError:
                # `forge lock` is how lines that a merge has spoilt are mended.
                if not self._locking:
                    raise
        if self._locking:
            return ()
        raise _missing(
            f"npm closure {wanted.name}", wanted.path or source_trees.name_of(wanted.lock), stale=found is not None
        )


def _contents(spec: Spec, inputs: Mapping[str, Input]) -> Mapping[str, tuple[str, ...]] | None:
    """What the spec says is in its outputs, by the names of the derivation's inputs, of which some of the spec's have
    several."""
    if spec.contents is None:
        return None
    names: dict[str, tuple[str, ...]] = {}
    for name, components in spec.contents.items():
        if name not in spec.inputs:
            raise RecipeError(
                f"instantiate {spec.name}: it is said to contain {name}, which is none of its inputs",
                detail=f"Its inputs: {', '.join(spec.inputs)}.",
                reason="no-such-input",
            )
        several = (one for one in inputs if one.startswith(f"{name}-") and one not in spec.inputs)
        names.update(dict.fromkeys([name] if name in inputs else several, components))
    return names


def _check_portable(name: str, label: Label, inputs: Mapping[str, Input]) -> None:
    labels = {"its recipe": label, **{f"its input {key}": edge.node.label for key, edge in inputs.items()}}
    for what, one in labels.items():
        if not one.reproducible:
            raise RecipeError(
                f"instantiate {name}: {what} is {one}",
                detail=f"{name} is for any machine, so that all it is made of must be reproducible.",
                reason="host-specific-input",
            )


def _cycle(stack: Iterable[Package], package: Package) -> RecipeError:
    path = [each.name for each in stack]
    cycle = [*path[path.index(package.name) :], package.name]
    return RecipeError(f"instantiate {package.name}: cycle {' → '.join(cycle)}", reason="recipe-cycle")


def _below(folder: Path, path: str) -> Path:
    joined = folder / path
    outside = Path(path).is_absolute() or ".." in Path(path).parts
    if outside or not joined.parent.resolve().is_relative_to(folder.resolve()):
        raise RecipeError(f"declare files {path}: not below {folder.name}", reason="local-files-outside")
    return joined


def is_pin_of(pin: Pin, wanted: Fixed) -> bool:
    """Whether the pin is one of what is declared: of that locator, and of that content if the recipe says which."""
    declared = (wanted.sha256 or pin.sha256, wanted.size or pin.size)
    return pin.locator == wanted.locator and (pin.sha256, pin.size) == declared


def source_of(pin: Pin, *, executable: bool = False) -> Source | Derivation:
    """The node of a pinned file: a source; or, while nobody has had it, the derivation that downloads it."""
    # Debian versions have characters (`~`, `:`) that names in a store do not need.
    name = "".join(character if character.isalnum() or character in "._+-" else "_" for character in pin.name)
    if not pin.measured:
        return downloading(Download(name, pin.locator, pin.sha256, pin.size, executable, pin.mirrors))
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
