"""Evaluation: turns targets into derivations. The result depends only on recipe files, lock, options and host facts.

The Evaluator walks the graph with an explicit stack, because closures may be deeper than Python's recursion limit:

1. It calls the target's recipe with its input packages (by name) and options; the recipe returns a Spec.
2. It pushes each package of the Spec that is not instantiated yet. A package that is on the stack already is a cycle.
3. When all inputs are instantiated, it replaces declarations by their pins and makes the derivation.

Overrides holds the options that a user sets. `validate_option` and `check_declaration` check values against the
annotations of the recipe's parameters. Declared collects what `forge lock` has to pin.
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
    """The options that a user sets, by package, and which of them took effect."""

    def __init__(self, wanted: Mapping[str, Mapping[str, str]]) -> None:
        self._wanted = wanted
        self._heeded: set[tuple[str, str]] = set()

    def of(self, name: str) -> Mapping[str, str]:
        """The options set for the recipe `name`."""
        return self._wanted.get(name, {})

    def called(self, package: Package) -> None:
        """Record a call of the package's recipe. The user's options take effect, except those that the package sets."""
        fixed = dict(package.options)
        self._heeded.update((package.name, option) for option in self.of(package.name) if option not in fixed)

    def check(self, called: Collection[str]) -> None:
        """Raise RecipeError (`unused-setting`, `overruled-setting`) if an option took no effect.

        `called` has the names of all recipes that were called.
        """
        for name, options in self._wanted.items():
            for option, value in options.items():
                if (name, option) not in self._heeded:
                    raise _unused(name, option, value, called)


def _unused(name: str, option: str, value: str, called: Collection[str]) -> RecipeError:
    if name in called:
        reason, cause = "overruled-setting", f"the recipe that uses {name} sets {option} itself"
        hint = f"Set the option on the recipe that uses {name}, or realize {name} alone."
    else:
        near = difflib.get_close_matches(name, list(called), n=4, cutoff=0.6)
        reason, cause = "unused-setting", f"no requested target uses {name}"
        hint = f"Did you mean {' or '.join(near)}?" if near else "`forge show TARGET` shows the inputs of a target."
    return RecipeError(f"set {name}:{option}={value}: {cause}", detail=hint, reason=reason)


def validate_option(recipe: Recipe, name: str, value: OptionValue, file: Path) -> Any:
    """`value` in the type of the option's annotation; raises RecipeError (`no-such-option`, `bad-option`)."""
    if name not in recipe.options:
        known = ", ".join(sorted(recipe.options)) or "none"
        raise RecipeError(
            f"set option {name} of {recipe.name}: no such option",
            detail=f"Options: {known}.",
            reason="no-such-option",
        )
    default = recipe.options[name]
    annotation = recipe.function.__annotations__.get(name, type(default))
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    # Imported here, because importing pydantic takes longer than evaluating a small graph.
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
    """Raise RecipeError for a bad parameter of a recipe.

    `unknown-target`: the parameter names no package. `option-bad-default`: the default is no valid value of the option.
    """
    for name in recipe.inputs:
        package = name.replace("_", "-")
        if name != "host" and package not in packages:
            near = difflib.get_close_matches(package, packages, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(known.replace('-', '_') for known in near)}?" if near else ""
            raise _declared_wrong(
                recipe, name, "it has no default, and no package has this name", hint, "unknown-target"
            )
    for name, default in recipe.options.items():
        annotation = recipe.function.__annotations__.get(name)
        choices = get_args(annotation) if get_origin(annotation) is Literal else ()
        if type(default) not in (str, int, bool):
            cause = f"its default {default!r} is of type {type(default).__name__}"
            raise _declared_wrong(recipe, name, cause, "An option is of type str, int or bool.", "option-bad-default")
        if choices and default not in choices:
            hint = f"Choices: {', '.join(map(str, choices))}."
            raise _declared_wrong(
                recipe, name, f"its default {default!r} is not one of the choices", hint, "option-bad-default"
            )


def _declared_wrong(recipe: Recipe, name: str, cause: str, hint: str, reason: str) -> RecipeError:
    file, line = line_of(recipe, name)
    return RecipeError(
        f"declare {recipe.name}: parameter {name}: {cause}", detail=hint, reason=reason, file=file, line=line
    )


def line_of(recipe: Recipe, word: str) -> tuple[Path, int]:
    """The line of the recipe's function that mentions a parameter or a package; else the function's first line."""
    code = recipe.function.__code__
    file = Path(code.co_filename)
    pattern = re.compile(rf"(?<![\w.-])({re.escape(word)}|{re.escape(word.replace('-', '_'))})(?![\w-])")
    # The search skips the first line, which has the recipe's own name in `@recipe(…)`.
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()[code.co_firstlineno :]
    found = (code.co_firstlineno + 1 + index for index, line in enumerate(lines) if pattern.search(line))
    return file, next(found, code.co_firstlineno)


_PLACEHOLDER = "0" * 64


@dataclass(frozen=True, slots=True)
class Instance:
    """An instantiated target: its derivation, and the output that the target means."""

    node: Derivation
    output: str


@dataclass(slots=True)
class Declared:
    """The declarations of all evaluated recipes, by their names in forge.lock: what `forge lock` has to pin.

    `packages` lists these names for each package whose recipe declares them.
    """

    sources: dict[str, Fixed] = field(default_factory=dict)
    userlands: dict[str, Debian] = field(default_factory=dict)
    npm: dict[str, source_trees.Declaration] = field(default_factory=dict)
    packages: dict[str, list[str]] = field(default_factory=dict)
    local_paths: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Target:
    """A target's recipe, and what all calls of it share, looked up once."""

    recipe: Recipe
    file: Path
    folder: Path
    options: Mapping[str, OptionValue]
    arguments: Mapping[str, Package]
    wants_host: bool


@dataclass(slots=True)
class _Frame:
    """A package on the evaluation stack: what its recipe returned, and the packages to instantiate before it."""

    folder: Path
    answer: Spec | Package
    label: Label
    pending: Iterator[Package]


class Evaluator:
    """Instantiates targets of one workspace against one lock.

    With `locking`, placeholders replace pins that the lock lacks, so that `declared` becomes complete.
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
        """All instances so far, by the package that asked for them."""
        return self._instances

    def check_overrides(self) -> None:
        """Raise RecipeError (`unused-setting`, `overruled-setting`) if a user's option took no effect so far."""
        self._overrides.check(self._targets)

    def recipe_files(self) -> list[Path]:
        """The recipe files and library modules read so far, and the library's folder if any module was read."""
        return self._loader.loaded_files()

    def _begin(self, package: Package) -> _Frame:
        target = self._target(package.name)
        answer, label = self._call(package, target)
        wants = (answer,) if isinstance(answer, Package) else answer.inputs.values()
        pending = iter([wanted for wanted in wants if isinstance(wanted, Package)])
        return _Frame(target.folder, answer, label, pending)

    @contextmanager
    def _located(self, package: Package, asking: Package, wanted: Package) -> Iterator[None]:
        """Give a RecipeError without a file the line of `package`'s recipe that mentions `wanted`.

        For an output that does not exist (`no-such-output`), the line is that of the recipe of `asking`.
        """
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
            arguments = {key: Package(key.replace("_", "-")) for key in recipe.inputs if key != "host"}
            file, folder = self._loader.file(name), self._loader.folder(name)
            self._targets[name] = _Target(recipe, file, folder, options, arguments, "host" in recipe.inputs)
        return self._targets[name]

    def _call(self, package: Package, target: _Target) -> tuple[Spec | Package, Label]:
        recipe, file, lib = target.recipe, target.file, self._loader.library.folder
        self._overrides.called(package)
        # Options that the calling recipe sets win over the user's, which win over presets and defaults.
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
                f"evaluate recipe {package.name}: it returned {type(answer).__name__}, not a Spec",
                reason="recipe-bad-result",
                file=file,
            )
        return answer, host.label() if host else REPRODUCIBLE

    def _finish(self, package: Package, frame: _Frame) -> Instance:
        if isinstance(frame.answer, Package):
            meant = self._instances[frame.answer]
            node = meant.node
            if not frame.label.reproducible:
                # The recipe chose this package by host facts, so the result is host-specific too.
                node = replace(node, label=frame.label.joined([node.label]))
            return Instance(node, package.wanted or meant.output)
        derivation = self._derivation(frame, frame.answer)
        output = package.wanted or derivation.outputs[0]
        if output not in derivation.outputs:
            raise RecipeError(
                f"instantiate {package.name}: no output {output}; its outputs are {', '.join(derivation.outputs)}",
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
            # The order of the archives decides the result. Canonical JSON sorts object keys, so this is a list.
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
                f"declare source {wanted.name}: two locators, {known.locator} and {wanted.locator}",
                reason="source-ambiguous",
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
                f"instantiate {spec.name}: a build cannot have the npm closure {wanted.name} as its input",
                detail="Make a node_modules folder of it first: node_modules(NAME, closure) in another recipe.",
                reason="npm-closure-misplaced",
            )
        if isinstance(wanted.lock, Fixed):
            self.declared.packages.setdefault(folder.name, []).append(wanted.lock.name)
        origin = self._source(wanted.lock, folder)
        if isinstance(origin, Derivation) or (isinstance(wanted.lock, Fixed) and wanted.lock.sha256):
            raise RecipeError(
                f"instantiate {spec.name}: {source_trees.name_of(wanted.lock)} is pinned without a download, "
                "but forge needs its package-lock.json",
                detail="Remove sha256 and size from its declaration, so that `forge lock` downloads and reads it.",
                reason="npm-lock-unread",
            )
        declaration = source_trees.Declaration(wanted, origin)
        if self.declared.npm.setdefault(wanted.name, declaration) != declaration:
            raise RecipeError(
                f"declare npm closure {wanted.name}: two different declarations", reason="source-ambiguous"
            )
        found = self._lock.npm.get(wanted.name)
        if found is not None and declaration.is_met_by(found):
            try:
                return found.packages()
            except NodeModulesError:
                # A merge can damage these lines. `forge lock` writes them anew, so it must not fail on them.
                if not self._locking:
                    raise
        if self._locking:
            return ()
        raise _missing(
            f"npm closure {wanted.name}", wanted.path or source_trees.name_of(wanted.lock), stale=found is not None
        )


def _contents(spec: Spec, inputs: Mapping[str, Input]) -> Mapping[str, tuple[str, ...]] | None:
    """The spec's contents by the names of the derivation's inputs.

    A userland or npm closure is one input of the spec and becomes several inputs of the derivation.
    """
    if spec.contents is None:
        return None
    names: dict[str, tuple[str, ...]] = {}
    for name, components in spec.contents.items():
        if name not in spec.inputs:
            raise RecipeError(
                f"instantiate {spec.name}: containing({name!r}) names no input",
                detail=f"Its inputs: {', '.join(spec.inputs)}.",
                reason="no-such-input",
            )
        expanded = (key for key in inputs if key.startswith(f"{name}-") and key not in spec.inputs)
        names.update(dict.fromkeys([name] if name in inputs else expanded, components))
    return names


def _check_portable(name: str, label: Label, inputs: Mapping[str, Input]) -> None:
    labels = {"its recipe": label, **{f"its input {key}": edge.node.label for key, edge in inputs.items()}}
    for what, input_label in labels.items():
        if not input_label.reproducible:
            raise RecipeError(
                f"instantiate {name}: {what} is {input_label}",
                detail=f"{name} is for any machine, so its recipe and inputs must all be reproducible.",
                reason="host-specific-input",
            )


def _cycle(stack: Iterable[Package], package: Package) -> RecipeError:
    path = [waiting.name for waiting in stack]
    cycle = [*path[path.index(package.name) :], package.name]
    return RecipeError(f"instantiate {package.name}: cycle {' → '.join(cycle)}", reason="recipe-cycle")


def _below(folder: Path, path: str) -> Path:
    joined = folder / path
    outside = Path(path).is_absolute() or ".." in Path(path).parts
    if outside or not joined.parent.resolve().is_relative_to(folder.resolve()):
        raise RecipeError(f"declare files {path}: the path leads out of {folder.name}", reason="local-files-outside")
    return joined


def is_pin_of(pin: Pin, wanted: Fixed) -> bool:
    """Whether the pin has the declared locator, and the declared sha256 and size if the recipe sets them."""
    declared = (wanted.sha256 or pin.sha256, wanted.size or pin.size)
    return pin.locator == wanted.locator and (pin.sha256, pin.size) == declared


def source_of(pin: Pin, *, executable: bool = False) -> Source | Derivation:
    """The node of a pinned file: a source, or a derivation that downloads it while the pin has no BLAKE3 yet."""
    # Debian versions have characters (`~`, `:`) that names in the store must not have.
    name = "".join(character if character.isalnum() or character in "._+-" else "_" for character in pin.name)
    if not pin.measured:
        return downloading(Download(name, pin.locator, pin.sha256, pin.size, executable, pin.mirrors))
    return Source(name, pin.locator, pin.blake3, pin.size, pin.sha256, executable, pin.mirrors)


def _placeholder(name: str, locator: str) -> Pin:
    return Pin(name, locator, _PLACEHOLDER, _PLACEHOLDER, 0)  # type: ignore[arg-type]


def _missing(name: str, locator: str, *, stale: bool) -> LockError:
    state = "differs from its pin" if stale else "has no pin"
    return LockError(
        f"instantiate: {name} ({locator}) {state} in forge.lock",
        detail=f"Run `forge lock` (or `forge lock --update {name.rpartition(' ')[2]}`).",
        reason="pin-stale" if stale else "pin-missing",
    )
