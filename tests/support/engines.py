"""A store with all that is needed to realise graphs in it, with builders that are Python functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import make_plan
from mmojo_forge.engine.protocols import OnProgress, Signer, Substituter
from mmojo_forge.engine.realise.realise import Realisation
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.engine.services import Directories, Services, Settings
from mmojo_forge.executor.request import BuildOutcome, BuildRequest, BuildResult, CancelSignal
from mmojo_forge.model.derivation import Derivation, Download, Input, Node, Source
from mmojo_forge.model.digest import BlobDigest, Sha256, blake3_hex
from mmojo_forge.store.local import LocalStore

Build = Callable[[BuildRequest], None]


@dataclass
class FunctionExecutor:
    """Runs `argv[0]` as the name of a Python function; notes what it ran."""

    functions: Mapping[str, Build]
    ran: list[str] = field(default_factory=list)
    requests: list[BuildRequest] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(
        self,
        request: BuildRequest,
        *,
        cancellation: CancelSignal | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> BuildResult:
        with self.lock:
            self.ran.append(request.name)
            self.requests.append(request)
        if on_output:
            on_output(b"first line\nlast line\n")
        try:
            self.functions[request.argv[0]](request)
        except RuntimeError:
            return BuildResult(BuildOutcome.FAILED, 3, 0.0)
        return BuildResult(BuildOutcome.SUCCEEDED, 0, 0.0, 1000)


@dataclass
class DictFetcher:
    content: Mapping[str, bytes]
    fetched: list[str] = field(default_factory=list)

    def fetch(self, source: Source | Download, destination: Path, on_progress: OnProgress | None = None) -> None:
        self.fetched.append(source.name)
        destination.write_bytes(self.content[source.locator])

    def cancel(self) -> None:
        pass


def write_args(request: BuildRequest) -> None:
    """The output is a function of the arguments after the first, and of nothing else."""
    (request.out / "out").write_text(" ".join(request.argv[1:]))


def fail(request: BuildRequest) -> None:
    raise RuntimeError


def write_nothing(request: BuildRequest) -> None:
    pass


def copy_inputs(request: BuildRequest) -> None:
    (request.out / "out").write_bytes(b"+".join(mount.source.read_bytes() for mount in request.mounts))


FUNCTIONS = {"args": write_args, "fail": fail, "nothing": write_nothing, "copy": copy_inputs}


def source(content: bytes) -> Source:
    name = content.decode()
    return Source(name, f"url:{name}", BlobDigest(blake3_hex(content)), len(content), Sha256("0" * 64))


def node(name: str, *args: str, comment: str = "", **inputs: Node) -> Derivation:
    edges = {key: Input(value, "out", f"/forge/{key}") for key, value in inputs.items()}
    return Derivation(name, args[0] if args else "copy", args[1:], {"COMMENT": comment} if comment else {}, edges)


@dataclass
class Bench:
    """A store with all that is needed to realise graphs in it."""

    folder: Path
    store: LocalStore
    executor: FunctionExecutor = field(default_factory=lambda: FunctionExecutor(FUNCTIONS))
    fetcher: DictFetcher = field(default_factory=lambda: DictFetcher({}))
    reporter: Reporter = field(default_factory=Reporter)
    signer: Signer | None = None
    substituter: Substituter | None = None

    def services(self) -> Services:
        directories = Directories(self.folder / "store/downloads", self.folder / "store/failed")
        ticks = iter(range(10**9))
        return Services(
            self.store,
            lambda: self.executor,
            lambda: self.fetcher,
            self.reporter,
            lambda: float(next(ticks)),
            directories,
            lambda: self.signer,
            lambda: self.substituter,
        )

    def realise(self, *roots: Node, keep_going: bool = False, substitute_only: bool = False) -> dict[str, bytes]:
        """What each root came to."""
        plan = make_plan(Graph.of(roots), self.store, self.substituter)
        settings = Settings(4, 1 << 30, keep_going, substitute_only)
        resolved = Realisation(plan, self.services(), settings).run()
        return {
            root.name: self.store.checkout(resolved[root.id]["out"], root.name).read_bytes()
            for root in roots
            if isinstance(root, Derivation)
        }

    def ran(self) -> list[str]:
        """What was built since the last question."""
        names, self.executor.ran = self.executor.ran, []
        return names
