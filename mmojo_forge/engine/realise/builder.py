"""Makes one node valid: fetches a source, imports workspace files, or runs a builder and registers its outputs.

The code runs in worker threads. It uses the store, the executor and the fetcher; states and scheduling are in
`realise` and `schedule`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mmojo_forge.engine.errors import BadOutput, EngineError, Failure
from mmojo_forge.engine.plan import Resolution, Step
from mmojo_forge.engine.protocols import WantedTree
from mmojo_forge.engine.realise import builtins, failed_builds, host_references
from mmojo_forge.engine.services import Services
from mmojo_forge.errors import ExitCode, ForgeError
from mmojo_forge.executor import sandbox
from mmojo_forge.executor.request import BuildOutcome, BuildRequest, BuildResult, CancelSignal, Mount
from mmojo_forge.model.derivation import Derivation, Download, LocalSource, Node, Source, action_key
from mmojo_forge.model.digest import ActionKey, TreeId
from mmojo_forge.model.trace import Trace, TraceOutput, TraceSignature
from mmojo_forge.recipe.local_files import read_local_tree

LAST_LINES = 25
MOST_REFERENCES = 10
_DAY = 86_400


class BuildFailed(EngineError):
    """A builder failed; `failure` is what the user sees."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, detail=failure.detail, reason=failure.reason)
        self.failure = failure
        self.exit_code = failure.exit_code


class Builder:
    """Makes nodes valid. Safe to use from several threads."""

    def __init__(self, services: Services, stop: CancelSignal) -> None:
        self._services = services
        self._stop = stop
        self._store = services.store
        self._began = services.clock()
        self._secrets: tuple[float, tuple[host_references.HostReference, ...]] | None = None

    def make(
        self, step: Step, trees: Mapping[str, TreeId], jobs: int, wanted: Set[str] | None = None
    ) -> Resolution | None:
        """Make the step's node valid: all its outputs, or those in `wanted`.

        Returns the output trees of a derivation, None for a source. Raises ForgeError.
        """
        node = step.node
        started = self._services.clock()
        self._services.reporter.started(step)
        if isinstance(node, Derivation):
            resolution: Resolution | None = self._build_once(node, trees, jobs, wanted)
        else:
            self._import(node)
            resolution = None
        self._services.reporter.finished(node, self._services.clock() - started)
        return resolution

    def substitute(self, step: Step, outputs: Resolution, needed: Resolution) -> Resolution | None:
        """Fetch the `needed` outputs of a derivation from other stores.

        Returns all `outputs` when the needed ones are valid here; None if the other stores lack any of them.
        """
        node = step.node
        assert isinstance(node, Derivation)
        started = self._services.clock()
        self._services.reporter.started(step)
        sizes = {name: output.size for name, output in step.claim.outputs.items()} if step.claim else {}
        for name, tree in needed.items():
            if not self._receive(WantedTree(tree, node.name, name, sizes.get(name)), node):
                self._services.reporter.missed(node)
                return None
            self._store.checkout(tree, object_name(node.name, name))
        # Record the claim before the resolution. A result must never be known without its signer, because the signer's
        # key may be revoked later.
        if step.claim:
            self._store.record(step.claim)
        self._store.record_resolved({node.id: outputs})
        self._services.reporter.finished(node, self._services.clock() - started)
        return outputs

    def _receive(self, wanted: WantedTree, node: Node) -> bool:
        """Fetch the tree from another store; true if it is valid here afterwards."""
        substituter = self._services.substituter()
        if substituter is None:
            return False
        with self._lock(f"tree-{wanted.tree}", node):
            if self._store.valid_trees([wanted.tree]):
                return True
            reporter = self._services.reporter
            return substituter.fetch(wanted, lambda done, total: reporter.progress(node, done, total))

    def _import(self, node: Source | LocalSource) -> None:
        with self._lock(f"source-{node.tree}", node):
            if self._store.valid_trees([node.tree]):
                return
            if isinstance(node, Source):
                self._fetch(node)
            else:
                self._add_local(node)

    def _fetch(self, source: Source) -> None:
        if self._receive(WantedTree(source.tree, source.name, size=source.size), source):
            return
        destination = self._download(source, source, source.digest)
        self._store.add_file(
            destination, digest=source.digest, size=source.size, executable=source.executable, move=True
        )

    def _download(self, node: Node, file: Source | Download, name: str) -> Path:
        """Download and verify the file; returns its path. Partial content stays under `name` for the next attempt."""
        destination = self._services.directories.download(name)
        destination.parent.mkdir(parents=True, exist_ok=True)
        reporter = self._services.reporter
        self._services.fetcher().fetch(
            file, destination, on_progress=lambda done, total: reporter.progress(node, done, total)
        )
        return destination

    def _take(self, node: Derivation, wanted: Download, out: Path) -> BuildResult:
        started = self._services.clock()
        file = self._download(node, wanted, wanted.sha256)
        file.chmod(0o755 if wanted.executable else 0o644)
        file.rename(out)
        return BuildResult(BuildOutcome.SUCCEEDED, 0, self._services.clock() - started)

    def _add_local(self, source: LocalSource) -> None:
        path = Path(source.path)
        tree = read_local_tree(path)
        if tree.id != source.tree:
            raise EngineError(
                f"import {source.path}: the files changed after the recipe was evaluated", reason="local-files-changed"
            )
        self._store.add_tree(tree, lambda entry: (path / entry.path if entry.path else path).open("rb"))

    def _build_once(
        self, node: Derivation, trees: Mapping[str, TreeId], jobs: int, wanted: Set[str] | None
    ) -> Resolution:
        preimage = node.preimage(trees)
        key = action_key(preimage)
        with self._lock(key, node):
            # Another process may have built it while this one waited for the lock.
            known = self._store.lookup([key]).get(key)
            rows = known.outputs if known else {}
            needed = {row.tree for name, row in rows.items() if wanted is None or name in wanted}
            if known and self._store.valid_trees(needed) == needed:
                resolution: Resolution = {name: row.tree for name, row in rows.items()}
            else:
                resolution = self._build(node, trees, jobs, key, preimage)
            self._store.record_resolved({node.id: resolution})
        return resolution

    def _build(
        self, node: Derivation, trees: Mapping[str, TreeId], jobs: int, key: ActionKey, preimage: bytes
    ) -> Resolution:
        started = self._services.clock()
        outputs, result = self._run(node, trees, jobs, key)
        signer = self._services.signer()
        trace = Trace(
            key,
            node.name,
            preimage,
            outputs,
            builder=signer.name if signer else "local",
            started=started,
            seconds=self._services.clock() - started,
            peak_memory_bytes=result.peak_memory_bytes,
        )
        if signer:
            trace = replace(trace, signatures=(TraceSignature(str(signer.public), signer.sign(trace.fingerprint())),))
        self._store.record(trace)
        # Others cannot use unsigned traces, and a host-specific result rarely fits another machine.
        if trace.signatures and node.label.reproducible and (publisher := self._services.publisher()):
            publisher.built(node, trace)
        return {name: output.tree for name, output in outputs.items()}

    def rebuild(self, node: Derivation, trees: Mapping[str, TreeId], jobs: int) -> Resolution:
        """Build the derivation even if its result is known, and return the output trees. Records no trace."""
        outputs, _ = self._run(node, trees, jobs, action_key(node.preimage(trees)))
        return {name: output.tree for name, output in outputs.items()}

    def _run(
        self, node: Derivation, trees: Mapping[str, TreeId], jobs: int, key: ActionKey
    ) -> tuple[dict[str, TraceOutput], BuildResult]:
        with self._store.scratch(node.name) as scratch:
            out = scratch / "out"
            out.mkdir()
            if node.download:
                result = self._take(node, node.download, out / "out")
            elif node.is_builtin:
                result = builtins.run(node, self._inputs(node, trees), out)
            else:
                result = self._execute(node, trees, jobs, key, scratch)
            # A builtin's files are forge's own, so they can be moved. Outputs of a sandbox are copied.
            return self._register(node, out, move=node.is_builtin), result

    def _inputs(self, node: Derivation, trees: Mapping[str, TreeId]) -> dict[str, Path]:
        return {
            name: self._store.checkout(trees[name], object_name(edge.node.name, edge.output))
            for name, edge in node.inputs.items()
        }

    def _execute(
        self, node: Derivation, trees: Mapping[str, TreeId], jobs: int, key: ActionKey, scratch: Path
    ) -> BuildResult:
        work = scratch / "build"
        work.mkdir()
        request = BuildRequest(
            name=node.name,
            argv=(node.builder, *node.args),
            # FORGE_JOBS is no part of the action key: the number of cores must not change the output.
            env={**sandbox.sandbox_environment(), **node.env, "FORGE_JOBS": str(jobs)},
            mounts=tuple(Mount(path, node.inputs[name].at) for name, path in self._inputs(node, trees).items()),
            work=work,
            out=scratch / "out",
            log=self._store.log_path(key),
            limits=node.limits,
        )
        tail = _Tail()
        reporter = self._services.reporter

        def on_output(chunk: bytes) -> None:
            tail.add(chunk)
            reporter.output(node, chunk)

        executor = self._services.executor()
        result = executor.run(request, cancellation=self._stop, on_output=on_output)
        if not result.succeeded:
            kept = None
            # A cancelled build has nothing to investigate.
            if result.outcome is not BuildOutcome.CANCELLED:
                kept = self._services.directories.failed_build(node.name)
                failed_builds.keep(scratch, kept, request, key)
            raise BuildFailed(_failure(node, result, tail.lines(), request.log, kept))
        failed_builds.forget(self._services.directories.failed_build(node.name))
        return result

    def _register(self, node: Derivation, out: Path, *, move: bool) -> dict[str, TraceOutput]:
        outputs = {}
        for name in node.outputs:
            path = out / name
            if not os.path.lexists(path):
                raise BadOutput(
                    f"realize {node.name}: output {name} is missing: the build did not create /forge/out/{name}",
                    reason="output-missing",
                )
            if not node.is_builtin and node.label.reproducible:
                self._refuse_leaks(node, name, path)
            try:
                tree = self._store.add_path(path, move=move)
            except ForgeError as error:
                raise BadOutput(
                    f"realize {node.name}: output {name}: {error.message}", detail=error.detail, reason=error.reason
                ) from error
            self._store.checkout(tree.id, object_name(node.name, name))
            outputs[name] = TraceOutput(tree.id, tree.size)
        return outputs

    def _refuse_leaks(self, node: Derivation, output: str, path: Path) -> None:
        references = self._secrets_of_today()
        wanted = [reference for reference in references if reference.kind not in node.allowed_leaks]
        found = list(host_references.find_references(path, wanted))
        if found:
            raise BadOutput(
                f"realize {node.name}: output {output} contains data of the build machine: {found[0]}",
                detail="\n".join(
                    (
                        *(str(leak) for leak in found[1:MOST_REFERENCES]),
                        "A reproducible output must not contain where or when it was built. If this is harmless, "
                        f"allow it in the recipe: build(…, allowed_leaks={{{found[0].kind!r}: 'the reason'}}).",
                    )
                ),
                reason="output-leaks",
            )

    def _secrets_of_today(self) -> tuple[host_references.HostReference, ...]:
        # Computed once a day instead of for each of thousands of small builds. If two threads race here, both compute
        # the same value.
        now = self._services.clock()
        if self._secrets is None or now // _DAY != self._secrets[0]:
            self._secrets = (
                now // _DAY,
                host_references.references_of_this_machine(self._store.path, now, self._began),
            )
        return self._secrets[1]

    @contextmanager
    def _lock(self, key: str, node: Node) -> Iterator[None]:
        with self._store.lock(key, on_wait=lambda _seconds: self._services.reporter.waiting(node)):
            yield


def object_name(name: str, output: str) -> str:
    """The name of a store object: the node's name, plus the output's name unless that is `out`."""
    return name if output == "out" else f"{name}-{output}"


class _Tail:
    """The last lines of a stream, kept in bounded memory."""

    def __init__(self) -> None:
        self._bytes = b""

    def add(self, chunk: bytes) -> None:
        self._bytes = (self._bytes + chunk)[-16384:]

    def lines(self) -> tuple[str, ...]:
        text = self._bytes.decode("utf-8", "replace")
        return tuple(io.StringIO(text).read().splitlines()[-LAST_LINES:])


_OUTCOME_TEXT: Mapping[BuildOutcome, Callable[[Derivation, BuildResult], str]] = MappingProxyType(
    {
        BuildOutcome.FAILED: lambda _, result: f"the builder failed with exit code {result.exit_code}",
        BuildOutcome.SIGNALLED: lambda _, result: f"the builder was killed by signal {result.exit_code - 128}",
        BuildOutcome.WALL_LIMIT: lambda node, _: f"the build took longer than {node.limits.wall_seconds:.0f} s",
        BuildOutcome.SILENCE_LIMIT: lambda node, _: f"the build printed nothing for {node.limits.silent_seconds:.0f} s",
        BuildOutcome.MEMORY_LIMIT: lambda node, _: (
            f"the build used more than {node.limits.memory_bytes >> 20} MiB of memory"
        ),
        BuildOutcome.PROCESS_LIMIT: lambda node, _: f"the build had more than {node.limits.processes} processes",
        BuildOutcome.OUTPUT_LIMIT: lambda node, _: (
            f"the build wrote more than {node.limits.output_bytes >> 20} MiB or too many files"
        ),
        BuildOutcome.LOG_LIMIT: lambda node, _: f"the build logged more than {node.limits.log_bytes >> 20} MiB",
        BuildOutcome.CANCELLED: lambda _, __: "the build was stopped",
    }
)


def _failure(
    node: Derivation, result: BuildResult, last_lines: tuple[str, ...], log: Path, kept: Path | None
) -> Failure:
    return Failure(
        name=node.name,
        message=f"realize {node.name}: {_OUTCOME_TEXT[result.outcome](node, result)}",
        reason=f"build-{result.outcome.value}",
        last_lines=last_lines,
        log=log,
        kept=kept,
        exit_code=ExitCode.INTERRUPTED if result.outcome is BuildOutcome.CANCELLED else ExitCode.BUILD_FAILED,
    )
