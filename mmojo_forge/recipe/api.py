"""What recipes are written with: plain values that say what is wanted, and do nothing.

A recipe is a function. Its parameters without defaults name its inputs (other packages; `llama_cpp` means the
package `llama-cpp`), those with defaults are its options. It returns a Spec, which the evaluator turns into a
derivation once the inputs are instantiated:

    @recipe("hello")
    def hello(zig: Package, userland: Package, *, greeting: str = "hello") -> Spec:
        return build("hello", userland=userland, inputs={"zig": zig}, phases={"build": "..."})

A parameter called `host` receives the facts of this machine, and labels the result host-specific. What the type of
an option cannot say of its values, the function says by raising BadOption.

Host facts: what a recipe that takes a `host` parameter may learn of this machine, and is labelled with.

What recipes say that `forge check` must leave as it is, and why.
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
    """A fact that is not known of this machine."""


@dataclass(slots=True)
class Host:
    """Facts by name (`cpu.features`, `gpu` …: engine/host_facts.py). Every one that is read is noted for the label."""

    facts: Mapping[str, str]
    used: dict[str, str] = field(default_factory=dict)

    def fact(self, name: str) -> str:
        """The fact's value; raises HostFactError for one that this machine does not give.

        `no-such-fact`: there is none of this name here. `unknown-cpu`: nothing is known of this machine's CPU.
        """
        try:
            value = self.facts[name]
        except KeyError:
            known = ", ".join(sorted(self.facts))
            raise HostFactError(
                f"read host fact {name}: not known here", detail=f"Known: {known}.", reason="no-such-fact"
            ) from None
        self.used[name] = value
        return value

    def label(self) -> Label:
        """Host-specific by the facts used; by the machine's kind alone if none was read."""
        used = self.used or {"host": self.facts.get("os", "unknown")}
        return Label(tuple(sorted(used.items())))


_CHOICE = tuple(aspect for aspect in Aspect if aspect not in INHERENT)


def aspects_of(name: str, reasons: Mapping[str, str]) -> dict[Aspect, str]:
    """The reasons by aspect, which recipes write with `_` for `-`; `name` is what the recipe builds.

    Raises RecipeError (`no-such-aspect`, `aspect-without-reason`).
    """
    return {_aspect(name, word): _reason(name, word, reason) for word, reason in reasons.items()}


def _aspect(name: str, word: str) -> Aspect:
    for aspect in _CHOICE:
        if word.replace("_", "-") == aspect.value:
            return aspect
    inherent = sorted(aspect.value for aspect in INHERENT)
    raise RecipeError(
        f"declare {name}: checked without {word}, which is no aspect that a check can leave as it is",
        detail=f"Those that it can: {', '.join(aspect.value.replace('-', '_') for aspect in _CHOICE)}. "
        f"Every rebuild has another {', '.join(inherent)}.",
        reason="no-such-aspect",
    )


def _reason(name: str, word: str, reason: str) -> str:
    # Recipes are checked by nobody's type checker; and it is told in one line.
    said = " ".join(reason.split()) if isinstance(reason, str) else ""
    if not said:
        raise RecipeError(
            f"declare {name}: checked without {word}, and not why",
            detail=f'The reason is told with the verdict: checked_without({word}="the reason").',
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
    """Raised by a recipe for the value of an option that makes no sense; `hint` says which do.

    Whoever evaluates the recipe gets a RecipeError (`bad-option`)."""

    def __init__(self, option: str, value: OptionValue, problem: str, *, hint: str = "") -> None:
        super().__init__(f"option {option} is {value!r}: {problem}")
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Package:
    """Another recipe's result, by name: `package` or `package.variant`, with options, and one of its outputs."""

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
        """The same package, but this output of it instead of the first."""
        return replace(self, wanted=output)


@dataclass(frozen=True, slots=True)
class Fixed:
    """One file whose content is pinned in forge.lock under `name`; `locator` says where to look for it.

    The locator is in the grammar of `fetch`, the mirrors are URLs that are tried after it. With `sha256` and `size` it
    is pinned without being downloaded. Recipes use the kinds below.
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
        # Security updates lie in an archive of their own, below a folder that the main one does not have.
        archive = "debian-security" if path.startswith("pool/updates/") else "debian"
        super().__init__(path.rpartition("/")[2], f"{archive}:{path}", executable)


class Npm(Fixed):
    """The tarball of one version of an npm package."""

    __slots__ = ()

    def __init__(self, package: str, version: str, executable: bool = False) -> None:
        name = f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
        super().__init__(name, f"npm:{package}@{version}", executable)


class Url(Fixed):
    """A file on the web, with mirrors that are tried in turn; `file` is its name where the URL does not end in it.

    With the `sha256` and `size` (bytes) that its project publishes, `forge lock` pins it without downloading it, and
    whoever has the file brings it: `forge store add-source FILE`.
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
                f"declare source {name}: SHA-256 and size go together: both, or none", reason="source-half-known"
            )
        super().__init__(name, f"url:{url}", executable, mirrors, sha256, size)


class Git(Fixed):
    """The files of one commit of a git repository, as one tar archive."""

    __slots__ = ()

    def __init__(self, url: str, commit: str, executable: bool = False) -> None:
        repository = url.rstrip("/").rpartition("/")[2].removesuffix(".git")
        super().__init__(f"{repository}-{commit[:12]}.tar", f"git:{url}#{commit}", executable)


class File(Fixed):
    """A file that somebody brings by hand, for it is not to be had otherwise: `forge store add-source FILE`."""

    __slots__ = ()

    def __init__(self, name: str, executable: bool = False) -> None:
        super().__init__(name, f"file:{name}", executable)


@dataclass(frozen=True, slots=True)
class Debian:
    """Debian packages and all they depend on, as one userland; the closure is resolved by `forge lock`."""

    name: str
    suite: str
    packages: tuple[str, ...]
    architecture: str = "amd64"


@dataclass(frozen=True, slots=True)
class Files:
    """A file or folder that lies beside the recipe: patches, our own sources."""

    path: str


@dataclass(frozen=True, slots=True)
class LibFiles(Files):
    """A file or folder that lies in `recipes/lib`, whichever recipe asks: what modules there have as `Files`."""


@dataclass(frozen=True, slots=True)
class ForgeFiles:
    """A file or folder of forge itself, which some builds run inside the sandbox (the APE linker)."""

    path: str


@dataclass(frozen=True, slots=True)
class NpmClosure:
    """The npm packages that a package-lock.json says a project needs on Linux, x86-64, glibc: what `npm ci` installs.

    `lock` is the file, or an archive that has it at `path`. `exclude` are patterns of package names that are left out,
    with all that only they need. `forge lock` reads the file and pins each package under the closure's `name`.
    """

    name: str
    lock: Fixed | Files
    path: str = ""
    exclude: tuple[str, ...] = ()


Wanted = Package | Fixed | Debian | NpmClosure | Files | ForgeFiles


@dataclass(frozen=True, slots=True)
class Spec:
    """A derivation in the making: everything but the identity of its inputs. `at` overrides where inputs lie;
    `portable` says that it is for any machine, so that no input may be host-specific."""

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
        # Recipes are checked by nobody's type checker, and here their line is still known.
        for what, table in (("inputs", self.inputs), ("env", self.env), ("at", self.at)):
            _check_table(self.name, what, table)
        for what, words in (("args", self.args), ("outputs", self.outputs)):
            if not isinstance(words, tuple) or not all(isinstance(word, str) for word in words):
                raise _wrong_type(self.name, what, words, "a tuple of texts")
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
        """The same, but an input that is host-specific is an error."""
        return replace(self, portable=True)

    def for_systems(self, *systems: str) -> Spec:
        """The same; its outputs run on these, as `forge list` tells. What is not said is that of the inputs that are in
        the outputs. Changes no identity."""
        return replace(self, systems=systems)

    def made_of(self, *components: Component) -> Spec:
        """The same; its sources consist of these, as a bill of materials tells. Changes no identity."""
        return replace(self, components=(*self.components, *components))

    def containing(self, *inputs: str, **parts: tuple[str, ...]) -> Spec:
        """The same; these inputs are in its outputs (linked, packed), of the others only the components that are
        named, and nothing of what is not said. For bills of materials; changes no identity."""
        return replace(self, contents={**(self.contents or {}), **dict.fromkeys(inputs, ALL), **parts})

    def checked_without(self, **reasons: str) -> Spec:
        """The same; `forge check` leaves these aspects as they are (docs/proof.md), for the reasons given:
        `shifted_clock="…"`. Changes no identity. Raises RecipeError (`no-such-aspect`, `aspect-without-reason`)."""
        return replace(self, check_exemptions={**self.check_exemptions, **aspects_of(self.name, reasons)})


def _check_table(name: str, what: str, table: object) -> None:
    if not isinstance(table, Mapping):
        raise _wrong_type(name, what, table, "a table")


def _check_texts(name: str, what: str, table: Mapping[str, object]) -> None:
    for key, value in table.items():
        if not isinstance(key, str) or not isinstance(value, str):
            wrong = value if isinstance(key, str) else key
            raise _wrong_type(name, f"{what}[{key!r}]", wrong, "text")


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
        return f"A package is a parameter of the recipe, or Package({wanted!r}); a file beside it is Files({wanted!r})."
    if isinstance(wanted, Spec | Recipe):
        return 'What another recipe gives is Package("its-name").'
    return "An input is a Package, a source (Pypi, DebianFile, Url …) or Files."


Returned = Spec | Package

PART = "part"
GROUPS = ("server", "kit", "module", "library", "example", PART)
"""What a recipe may call its targets; those in `toolchains/` are toolchains."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe function with its target name; `variants` are further targets that preset options.

    `inputs` are its parameters without defaults: the packages it is built from (and perhaps `host`); `options` are
    those with defaults. For `forge list`, and part of no identity: `group` is one of GROUPS, `ran` says by target where
    it has been run and what it did there, in the words of whoever ran it.
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
    """Make a function the recipe of the target `name` (`package` or `package.variant`)."""

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
    """A build by bash: phases of shell text, run in order in /build, each output left in /forge/out/<output>.

    The userland lies at /usr; every other input at /forge/<input name> unless `at` says otherwise. `allowed_leaks`
    names, with the reason, what outputs may tell of the machine though they are called reproducible: `kernel version`.
    """
    _check_table(name, "phases", phases)
    _check_texts(name, "phases", phases)
    if not isinstance(inputs, Mapping | None):
        raise _wrong_type(name, "inputs", inputs, "a table")
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
    """A tree unpacked from archives by forge's own extraction, one after the other, in order.

    `subpath` keeps only what lies below it. `debian_usr` is for Debian packages that together make a
    root file system: /bin and the like are merged into /usr, absolute symlinks become relative, and /usr is the
    result. `symlinks` (path: target) are added at the end, for what Debian's maintainer scripts would have made.
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
    # What is not asked for is not told, so that an option that is added later changes no key.
    options = {name: value for name, value in given.items() if value}
    return Spec(name=name, builder="builtin:unpack", args=(canonical.encode(options).decode(),), inputs=inputs)


def forge_files(path: str) -> ForgeFiles:
    """A file or folder of forge's own package, as an input."""
    return ForgeFiles(path)


def quote(text: str) -> str:
    """`text` as one word of POSIX shell."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
