"""Pushes results to a cache, with the signed traces of their closure, and on request the closure's content.

    targets ──▶ plan ──▶ traces of the whole closure (index) + trees ──▶ CacheWriter: trees, entries, index

Every pushed trace is signed by its builder. Traces of local builds from before this machine had a key are signed now.
forge never signs what somebody else built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import BinaryIO

from mmojo_forge.cache.format.chunks import SMALL
from mmojo_forge.cache.format.info import CacheInfo
from mmojo_forge.cache.gc.gc_marker import push_beside
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.cache.write.chunk_writer import PushItem
from mmojo_forge.cache.write.writer import CacheWriter, OnSent, Pushed, PushMode
from mmojo_forge.engine.errors import EngineError, NotBuilt
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Plan, input_trees
from mmojo_forge.engine.protocols import Signer
from mmojo_forge.engine.realise.builder import object_name
from mmojo_forge.engine.sbom.redistribution import check_redistributable_graph, restricted
from mmojo_forge.model.derivation import Derivation, Node, action_key
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.signature import PublicKey
from mmojo_forge.model.trace import Trace, TraceSignature
from mmojo_forge.model.tree import EntryKind, TreeEntry
from mmojo_forge.store.bundle.records import IMPORTED
from mmojo_forge.store.protocol import OpenBlob, Store

__all__ = ["PushMode", "PushPlan", "Pushed", "pack", "push", "sign_own"]


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push uploads.

    `trees` maps trees to object names. `indexes` has the traces of each root's closure. `skipped` are the names of
    nodes that are not redistributable.
    """

    trees: Mapping[TreeId, str]
    traces: tuple[Trace, ...]
    indexes: Mapping[DerivationId, tuple[Trace, ...]]
    skipped: tuple[str, ...] = ()


def pack(
    plan: Plan,
    store: Store,
    signer: Signer,
    *,
    closure: bool,
    host_specific: bool = False,
    not_redistributable: bool = False,
) -> PushPlan:
    """The push of the roots of `plan`; with `closure`, of everything below them too.

    Nodes that are not redistributable are skipped unless `not_redistributable`. Raises EngineError (`not-built`,
    `host-specific`, `not-redistributable`, `trace-missing`, `unsigned-trace`), ContentsError.
    """
    roots = [node for root in plan.graph.roots if isinstance(node := plan.graph.nodes[root], Derivation)]
    withheld = {} if not_redistributable else restricted(plan.graph)
    _check_roots(roots, plan, host_specific=host_specific)
    check_redistributable_graph("push", roots, withheld)
    traces = _signed_traces(plan, store, signer)
    wanted: Sequence[Node] = list(plan.graph.nodes.values()) if closure else roots
    # Compares trees, not nodes, because another node may have produced a restricted tree.
    kept = {tree for node in plan.graph.nodes.values() if node.id in withheld for tree, _ in _trees_of(node, plan)}
    free = plan.valid - kept
    trees = {tree: name for node in wanted for tree, name in _trees_of(node, plan) if tree in free}
    indexes = {root.id: tuple(traces[node.id] for node in Graph.of([root]).derivations()) for root in roots}
    by_key = {trace.key: trace for index in indexes.values() for trace in index}
    skipped = tuple(sorted(node.name for node in wanted if node.id in withheld))
    return PushPlan(trees, tuple(by_key.values()), indexes, skipped)


def push(
    push_plan: PushPlan,
    transport: Transport,
    store: Store,
    signer: Signer,
    *,
    mode: PushMode = PushMode.TRUSTING,
    connections: int = 4,
    on_sent: OnSent = lambda _: None,
) -> Pushed:
    """Upload the plan to a cache. Others may push to it or collect it at the same time. Raises CacheError."""
    public = PublicKey.parse(str(signer.public))
    writer = CacheWriter(transport, connections=connections, on_sent=on_sent)
    writer.ensure_info(CacheInfo((public,)))
    items = [PushItem(store.read_tree(tree), name, _opener(store)) for tree, name in push_plan.trees.items()]

    def attempt(mode: PushMode) -> Pushed:
        return writer.push(items, push_plan.traces, push_plan.indexes, signer=public, mode=mode)

    return push_beside(transport, attempt, mode=mode)


def sign_own(trace: Trace, signer: Signer) -> Trace:
    """The trace, signed now if it is an unsigned trace of a local build; any other trace unchanged."""
    if trace.builder != "local" or trace.signatures:
        return trace
    named = replace(trace, builder=signer.name)
    return replace(named, signatures=(TraceSignature(str(signer.public), signer.sign(named.fingerprint())),))


def _check_roots(roots: Iterable[Derivation], plan: Plan, *, host_specific: bool) -> None:
    for node in roots:
        outputs = plan.resolved.get(node.id)
        if outputs is None or not plan.valid.issuperset(plan.graph.needed(node, outputs).values()):
            raise NotBuilt("push", node.name, [node.name])
        if not node.label.reproducible and not host_specific:
            raise EngineError(
                f"push {node.name}: it is {node.label}, so it suits only machines like this one",
                detail="To push it nevertheless, add --host-specific. Only machines with these facts will request it.",
                reason="host-specific",
            )


def _signed_traces(plan: Plan, store: Store, signer: Signer) -> dict[DerivationId, Trace]:
    keys: dict[ActionKey, Derivation] = {}
    for node in plan.graph.derivations():
        trees = input_trees(node, plan.resolved)
        if trees is not None:
            keys[action_key(node.preimage(trees))] = node
    known = store.lookup(list(keys))
    traces = {}
    for key, node in keys.items():
        trace = sign_own(store.signed(known[key]), signer) if key in known else None
        if trace is None or not trace.signatures:
            raise _untold(node, trace)
        traces[node.id] = replace(trace, builder=trace.builder.removeprefix(IMPORTED))
    return traces


def _untold(node: Derivation, trace: Trace | None) -> EngineError:
    if trace is None:
        return EngineError(
            f"push {node.name}: this store has no trace of its build",
            detail="The trace was lost. Remove the result from the store and build it again.",
            reason="trace-missing",
        )
    return EngineError(
        f"push {node.name}: its trace is not signed, and it was not built here ({trace.builder})",
        detail="Build it here. `forge check` compares a rebuild with the imported result.",
        reason="unsigned-trace",
    )


def _trees_of(node: Node, plan: Plan) -> Iterator[tuple[TreeId, str]]:
    if not isinstance(node, Derivation):
        yield node.tree, node.name
        return
    for name, tree in plan.resolved.get(node.id, {}).items():
        yield tree, object_name(node.name, name)


def _opener(store: Store) -> OpenBlob:
    """A function that opens content for the writer. The writer verifies it, so thousands of small files are verified
    only once."""

    @contextmanager
    def open_blob(entry: TreeEntry) -> Iterator[BinaryIO]:
        if entry.size <= SMALL:
            yield BytesIO(store.read_part(entry, 0, entry.size + 1))
            return
        assert entry.digest is not None
        with store.open_blob(entry.digest, executable=entry.kind is EntryKind.EXECUTABLE) as file:
            yield file

    return open_blob
