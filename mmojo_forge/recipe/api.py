"""The values that recipes are written with. They declare, and have no effects.

A recipe is a function. Parameters without defaults name its inputs, which are other packages (`llama_cpp` means the
package `llama-cpp`). Parameters with defaults are its options. The function returns a Spec; the evaluator turns it
into a derivation once the inputs are instantiated:

    @recipe("hello")
    def hello(zig: Package, userland: Package, *, greeting: str = "hello") -> Spec:
        return build("hello", userland=userland, inputs={"zig": zig}, phases={"build": "..."})

A parameter called `host` receives a Host: the facts of this machine. It labels the result host-specific. A recipe
raises BadOption for a value that the option's type allows but the recipe does not.

The parts: Host; the check exemptions (`aspects_of`); what an input can be (`Wanted`: packages, pinned sources, files);
Spec; Recipe with its decorator; and `build` and `unpack`, which make the usual specs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from mmojo_forge.errors import ForgeError
from mmojo_forge.model import canonical
from mmojo_forge.model.derivation import ALL, INHERENT, Aspect, Component, Label, Limits, Notice
from mmojo_forge.recipe.errors import RecipeError


class HostFactError(ForgeError):
    """A host fact that forge does not know for this machine."""


@dataclass(slots=True)
class Host:
    """Facts by name (`cpu.features`, `gpu` …: engine/host_facts.py). `used` records each fact that is read."""

    facts: Mapping[str, str]
    used: dict[str, str] = field(default_factory=dict)

    def fact(self, name: str) -> str:
        """The fact's value; raises HostFactError (`no-such-fact`, or `unknown-cpu` from reading the CPU's facts)."""
        try:
            value = self.facts[name]
        except KeyError:
            known = ", ".join(sorted(self.facts))
            raise HostFactError(
                f"read host fact {name}: unknown on this machine",
                detail=f"Known facts: {known}.",
                reason="no-such-fact",
            ) from None
        self.used[name] = value
        return value

    def label(self) -> Label:
        """A host-specific label with the facts that were read; with the operating system alone if none was."""
        used = self.used or {"host": self.facts.get("os", "unknown")}
        return Label(tuple(sorted(used.items())))


_CHOICE = tuple(aspect for aspect in Aspect if aspect not in INHERENT)


def aspects_of(name: str, reasons: Mapping[str, str]) -> dict[Aspect, str]:
    """The reasons by aspect. Recipes write an aspect with `_` for `-`; `name` is the name of the recipe's spec.

    Raises RecipeError (`no-such-aspect`, `aspect-without-reason`).
    """
    return {_aspect(name, word): _reason(name, word, reason) for word, reason in reasons.items()}


def _aspect(name: str, word: str) -> Aspect:
    for aspect in _CHOICE:
        if word.replace("_", "-") == aspect.value:
            return aspect
    inherent = sorted(aspect.value for aspect in INHERENT)
    raise RecipeError(
        f"declare {name}: checked_without({word}=…): no such aspect, or a check cannot leave it out",
        detail=f"Aspects that can be left out: {', '.join(aspect.value.replace('-', '_') for aspect in _CHOICE)}. "
        f"Every rebuild varies {', '.join(inherent)}.",
        reason="no-such-aspect",
    )


def _reason(name: str, word: str, reason: str) -> str:
    # Nobody runs a type checker over recipes. Verdicts print the reason on one line.
    said = " ".join(reason.split()) if isinstance(reason, str) else ""
    if not said:
        raise RecipeError(
            f"declare {name}: checked_without({word}=…): the reason is missing",
            detail=f'`forge check` prints it with the verdict: checked_without({word}="the reason").',
            reason="aspect-without-reason",
        )
    return said


__all__ = [
    "BadOption",
    "Component",
    "Debian",
    "DebianFile",
    "File",
    "Files",
    "Git",
    "Host",
    "Limits",
    "Notice",
    "Npm",
    "NpmClosure",
    "Package",
    "Pypi",
    "Recipe",
    "Spec",
    "Url",
    "build",
    "forge_files",
    "quote",
    "recipe",
    "unpack",
]

OptionValue = str | int | bool


class BadOption(ValueError):
    """Raised by a recipe for a value that its option cannot have; `hint` says which values it can.

    The evaluator turns it into a RecipeError (`bad-option`)."""

    def __init__(self, option: str, value: OptionValue, problem: str, *, hint: str = "") -> None:
        super().__init__(f"option {option} is {value!r}: {problem}")
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Package:
    """A reference to a target (`package` or `package.variant`), with options to set and an output (None: the first)."""

    name: str
    options: tuple[tuple[str, OptionValue], ...] = ()
    wanted: str | None = None

    def variant(self, variant: str) -> Package:
        """The sibling `package.variant`."""
        return Package(f"{self.name.partition('.')[0]}.{variant}", self.options, self.wanted)

    def with_options(self, **options: OptionValue) -> Package:
        """The same package with these options set."""
        return Package(self.name, tuple(sorted({**dict(self.options), **options}.items())), self.wanted)

    def output(self, output: str) -> Package:
        """The same package, with this output instead of the first."""
        return replace(self, wanted=output)


@dataclass(frozen=True, slots=True)
class Fixed:
    """One file whose content is pinned in forge.lock under `name`; `locator` says where to look for it.

    mmojo_forge/fetch/README.md has the grammar of locators. Mirrors are URLs that are tried after it. If `sha256` and
    `size` (bytes) are set, `forge lock` pins the file without downloading it. Recipes use the subclasses below.
    """

    name: str
    locator: str
    executable: bool = False
    mirrors: tuple[str, ...] = ()
    sha256: str = ""
    size: int = 0


class Pypi(Fixed):
    """One file of a release on the Python package index."""

    __slots__ = ()

    def __init__(self, project: str, version: str, file: str, executable: bool = False) -> None:
        super().__init__(file, f"pypi:{project}=={version}/{file}", executable)


class DebianFile(Fixed):
    """One file of Debian's pool, for instance an upstream source archive: `pool/main/o/openssl/…`."""

    __slots__ = ()

    def __init__(self, path: str, executable: bool = False) -> None:
        # Security updates have an archive of their own. Only that one has a folder pool/updates/.
        archive = "debian-security" if path.startswith("pool/updates/") else "debian"
        super().__init__(path.rpartition("/")[2], f"{archive}:{path}", executable)


class Npm(Fixed):
    """The tarball of one version of an npm package."""

    __slots__ = ()

    def __init__(self, package: str, version: str, executable: bool = False) -> None:
        name = f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
        super().__init__(name, f"npm:{package}@{version}", executable)


class Url(Fixed):
    """A file on the web, with mirrors that are tried in turn; `file` is its name if the URL does not end in the name.

    If `sha256` and `size` (bytes) are set, `forge lock` pins the file without downloading it. A user who has the file
    can then add it by hand: `forge store add-source FILE`.
    """

    __slots__ = ()

    def __init__(
        self,
        url: str,
        mirrors: tuple[str, ...] = (),
        file: str = "",
        executable: bool = False,
        sha256: str = "",
        size: int = 0,
    ) -> None:
        name = file or url.rpartition("/")[2]
        if bool(sha256) != bool(size):
            raise RecipeError(
                f"declare source {name}: sha256 and size must both be set, or neither", reason="source-half-known"
            )
        super().__init__(name, f"url:{url}", executable, mirrors, sha256, size)


class Git(Fixed):
    """The files of one commit of a git repository, as one tar archive."""

    __slots__ = ()

    def __init__(self, url: str, commit: str, executable: bool = False) -> None:
        repository = url.rstrip("/").rpartition("/")[2].removesuffix(".git")
        super().__init__(f"{repository}-{commit[:12]}.tar", f"git:{url}#{commit}", executable)


class File(Fixed):
    """A file that forge cannot download. The user adds it by hand: `forge store add-source FILE`."""

    __slots__ = ()

    def __init__(self, name: str, executable: bool = False) -> None:
        super().__init__(name, f"file:{name}", executable)


@dataclass(frozen=True, slots=True)
class Debian:
    """Debian packages with all their dependencies, as one userland. `forge lock` resolves the closure."""

    name: str
    suite: str
    packages: tuple[str, ...]
    architecture: str = "amd64"


@dataclass(frozen=True, slots=True)
class Files:
    """A file or folder beside the recipe: patches, our own sources."""

    path: str


@dataclass(frozen=True, slots=True)
class LibFiles(Files):
    """A file or folder in `recipes/lib`, whichever recipe asks. Modules there import it under the name `Files`."""


@dataclass(frozen=True, slots=True)
class ForgeFiles:
    """A file or folder of forge itself, for builds that run it in the sandbox (the APE linker)."""

    path: str


@dataclass(frozen=True, slots=True)
class NpmClosure:
    """The npm packages that `npm ci` would install from a package-lock.json on Linux, x86-64, glibc.

    `lock` is the file, or an archive that has it at `path`. `exclude` lists patterns of package names. Packages that
    match are skipped, and so are packages that only they need. `forge lock` reads the file and pins each package under
    the closure's `name`.
    """

    name: str
    lock: Fixed | Files
    path: str = ""
    exclude: tuple[str, ...] = ()


Wanted = Package | Fixed | Debian | NpmClosure | Files | ForgeFiles


@dataclass(frozen=True, slots=True)
class Spec:
    """A derivation in the making: everything but the identity of its inputs.

    `at` maps inputs to their paths in the sandbox. If `portable` is set, no input may be host-specific.
    """

    name: str
    builder: str
    args: tuple[str, ...]
    inputs: Mapping[str, Wanted]
    env: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("out",)
    at: Mapping[str, str] = field(default_factory=dict)
    parallel: bool = False
    limits: Limits = Limits()
    allowed_leaks: Mapping[str, str] = field(default_factory=dict)
    portable: bool = False
    components: tuple[Component, ...] = ()
    contents: Mapping[str, tuple[str, ...]] | None = None
    systems: tuple[str, ...] = ()
    check_exemptions: Mapping[Aspect, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Nobody runs a type checker over recipes. Here the traceback still has the recipe's line.
        for what, table in (("inputs", self.inputs), ("env", self.env), ("at", self.at)):
            _check_table(self.name, what, table)
        for what, words in (("args", self.args), ("outputs", self.outputs)):
            if not isinstance(words, tuple) or not all(isinstance(word, str) for word in words):
                raise _wrong_type(self.name, what, words, "a tuple of str")
        for what, table in (("env", self.env), ("at", self.at)):
            _check_texts(self.name, what, table)
        for name, wanted in self.inputs.items():
            if not isinstance(wanted, Package | Fixed | Debian | NpmClosure | Files | ForgeFiles):
                raise RecipeError(
                    f"declare {self.name}: the input {name} is of type {type(wanted).__name__}",
                    detail=_input_hint(wanted),
                    reason="recipe-bad-input",
                )

    def for_any_machine(self) -> Spec:
        """The same spec; a host-specific input is an error."""
        return replace(self, portable=True)

    def for_systems(self, *systems: str) -> Spec:
        """The same spec; its outputs run on these systems, which `forge list` shows. Changes no identity.

        Without it, the systems are those of the inputs that the outputs contain.
        """
        return replace(self, systems=systems)

    def made_of(self, *components: Component) -> Spec:
        """The same spec; its sources consist of these components. For the SBOM; changes no identity."""
        return replace(self, components=(*self.components, *components))

    def containing(self, *inputs: str, **parts: tuple[str, ...]) -> Spec:
        """The same spec; its outputs contain these inputs whole (linked, packed). For the SBOM; changes no identity.

        `parts` maps further inputs to the components that the outputs contain. Inputs not named here are not contained.
        """
        return replace(self, contents={**(self.contents or {}), **dict.fromkeys(inputs, ALL), **parts})

    def checked_without(self, **reasons: str) -> Spec:
        """The same spec; `forge check` does not vary these aspects (docs/proof.md): `shifted_clock="the reason"`.

        Changes no identity. Raises RecipeError (`no-such-aspect`, `aspect-without-reason`).
        """
        return replace(self, check_exemptions={**self.check_exemptions, **aspects_of(self.name, reasons)})


def _check_table(name: str, what: str, table: object) -> None:
    if not isinstance(table, Mapping):
        raise _wrong_type(name, what, table, "a dict")


def _check_texts(name: str, what: str, table: Mapping[str, object]) -> None:
    for key, value in table.items():
        if not isinstance(key, str) or not isinstance(value, str):
            wrong = value if isinstance(key, str) else key
            raise _wrong_type(name, f"{what}[{key!r}]", wrong, "str")


_EXAMPLES: Mapping[str, str] = MappingProxyType(
    {"env": '{"LEVEL": "3"}', "inputs": '{"zig": zig}', "outputs": '("out",)', "phases": '{"compile": "make"}'}
)


def _wrong_type(name: str, what: str, value: object, wanted: str) -> RecipeError:
    example = _EXAMPLES.get(what.partition("[")[0])
    return RecipeError(
        f"declare {name}: {what} is {value!r:.60}, of type {type(value).__name__}, not {wanted}",
        detail=f"For example: {what.partition('[')[0]}={example}." if example else "",
        reason="recipe-bad-type",
    )


def _input_hint(wanted: object) -> str:
    if isinstance(wanted, str):
        return f"For a package, add a parameter or write Package({wanted!r}). For a file, write Files({wanted!r})."
    if isinstance(wanted, Spec | Recipe):
        return 'Refer to another recipe by name: Package("its-name").'
    return "An input is a Package, a source (Pypi, DebianFile, Url …) or Files."


Returned = Spec | Package

PART = "part"
GROUPS = ("server", "kit", "module", "library", "example", PART)
"""Values of a recipe's `group`, by which `forge list` sorts. Recipes in `toolchains/` are toolchains."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe function with its target name; `variants` are further targets that preset options.

    `inputs` are its parameters without defaults: the packages it is built from, and perhaps `host`. `options` are its
    parameters with defaults. `group` and `ran` are for `forge list` and change no identity. `group` is one of GROUPS.
    `ran` says for each target where somebody ran it and what it did there.
    """

    name: str
    function: Callable[..., Returned]
    variants: Mapping[str, Mapping[str, OptionValue]] = field(default_factory=dict)
    group: str = PART
    ran: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = field(init=False)
    options: Mapping[str, OptionValue] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", self._parameters_without_defaults())
        object.__setattr__(self, "options", self._parameters_with_defaults())

    def _parameters_without_defaults(self) -> tuple[str, ...]:
        code = self.function.__code__
        positional = code.co_varnames[: code.co_argcount]
        keyword_only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        defaulted = len(self.function.__defaults__ or ())
        with_default = (*positional[len(positional) - defaulted :], *(self.function.__kwdefaults__ or {}))
        return tuple(name for name in (*positional, *keyword_only) if name not in with_default)

    def _parameters_with_defaults(self) -> dict[str, OptionValue]:
        code = self.function.__code__
        defaults = self.function.__defaults__ or ()
        names = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
        return {**dict(zip(names, defaults, strict=True)), **(self.function.__kwdefaults__ or {})}

    @property
    def summary(self) -> str:
        """The first line of the recipe's docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]


def recipe(
    name: str,
    *,
    variants: Mapping[str, Mapping[str, OptionValue]] | None = None,
    group: str = PART,
    ran: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Returned]], Recipe]:
    """A decorator that makes a function the recipe of the target `name` (`package` or `package.variant`)."""

    def declare(function: Callable[..., Returned]) -> Recipe:
        return Recipe(name, function, variants or {}, group, ran or {})

    return declare


def build(
    name: str,
    *,
    userland: Wanted,
    phases: Mapping[str, str],
    inputs: Mapping[str, Wanted] | None = None,
    env: Mapping[str, str] | None = None,
    outputs: tuple[str, ...] = ("out",),
    at: Mapping[str, str] | None = None,
    parallel: bool = False,
    limits: Limits = Limits(),
    allowed_leaks: Mapping[str, str] | None = None,
) -> Spec:
    """A spec for a build with bash: it runs the phases in order in /build. They write to /forge/out/<output>.

    The userland is at /usr, every other input at /forge/<input name> unless `at` has another path. `allowed_leaks` maps
    kinds of host references (`kernel version`) that reproducible outputs may contain to the reason.
    """
    _check_table(name, "phases", phases)
    _check_texts(name, "phases", phases)
    if not isinstance(inputs, Mapping | None):
        raise _wrong_type(name, "inputs", inputs, "a dict")
    script = "".join(f"printf 'forge-phase: %s\\n' {quote(phase)}\n{text.strip()}\n" for phase, text in phases.items())
    return Spec(
        name=name,
        builder="/bin/bash",
        args=("-eu", "-o", "pipefail", "-c", script),
        inputs={**(inputs or {}), "userland": userland},
        env=env or {},
        outputs=outputs,
        at={"userland": "/usr", **(at or {})},
        parallel=parallel,
        limits=limits,
        allowed_leaks=allowed_leaks or {},
    )


def unpack(
    name: str,
    *archives: Wanted,
    strip_components: int = 0,
    subpath: str = "",
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    debian_usr: bool = False,
    symlinks: Mapping[str, str] | None = None,
) -> Spec:
    """A spec for a tree that forge's own extraction unpacks from archives, in the order given.

    `subpath` keeps only what is below it. `debian_usr` is for Debian packages that together make a root file system:
    it merges /bin and the like into /usr, makes absolute symlinks relative, and takes /usr as the result. `symlinks`
    (path: target) are added last, in place of links that Debian's maintainer scripts would make.
    """
    inputs = {f"archive-{index:03}": archive for index, archive in enumerate(archives)}
    given: dict[str, canonical.Json] = {
        "exclude": exclude,
        "include": include,
        "debian_usr": debian_usr,
        "strip_components": strip_components,
        "subpath": subpath,
        "symlinks": symlinks or {},
    }
    # Options that are not set are left out, so that a new option changes no existing action key.
    options = {name: value for name, value in given.items() if value}
    return Spec(name=name, builder="builtin:unpack", args=(canonical.encode(options).decode(),), inputs=inputs)


def forge_files(path: str) -> ForgeFiles:
    """A file or folder of forge's own package, as an input."""
    return ForgeFiles(path)


def quote(text: str) -> str:
    """`text` as one word of POSIX shell."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
