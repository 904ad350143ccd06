"""`forge challenge`: compares what each cache claims about a target with a rebuild on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mmojo_forge.engine.cache.substituter import Caches
from mmojo_forge.engine.difference import differing_paths
from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.evaluation import evaluate
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Resolution, input_trees, make_plan, resolution_of
from mmojo_forge.engine.realise.builder import Builder
from mmojo_forge.engine.realise.run import realise
from mmojo_forge.engine.realise.worker_pool import CancelToken
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.engine.workspace import Request, Workspace
from mmojo_forge.model.derivation import Derivation, action_key
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.trace import Trace
from mmojo_forge.model.tree import Tree
from mmojo_forge.store.protocol import Store

HERE = "this store"


class ChallengeOutcome(StrEnum):
    """How a claim compares with the reference. SILENT: the source has no claim."""

    MATCH = "match"
    MISMATCH = "mismatch"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class ChallengeAnswer:
    """What one builder claims, according to one source (a cache or this store).

    `outputs` are the claimed trees, `started` is the time of the build in seconds since the epoch. `differing` are the
    paths that differ from the reference, if both manifests are available.
    """

    source: str
    finding: ChallengeOutcome
    builder: str = ""
    outputs: Mapping[str, TreeId] | None = None
    started: float = 0.0
    differing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenged node. `reference` has the output trees that claims are compared with.

    They come from a rebuild if `rebuilt`, else from this store.
    """

    name: str
    key: ActionKey
    reference: Mapping[str, TreeId]
    rebuilt: bool
    answers: tuple[ChallengeAnswer, ...]

    @property
    def holds(self) -> bool:
        """Whether no claim contradicts the reference."""
        return all(answer.finding is not ChallengeOutcome.MISMATCH for answer in self.answers)


def challenge_request(
    workspace: Workspace,
    request: Request,
    caches: Caches,
    services: Services,
    settings: Settings,
    *,
    closure: bool,
    rebuild: bool,
) -> list[Challenge]:
    """A challenge for each target, with `closure` for each node below them too.

    Without `rebuild`, claims are compared with this store instead of a rebuild. Raises ForgeError, among others
    EngineError (`not-built`) if there is nothing to compare with.
    """
    graph = evaluate(workspace, request).graph
    nodes = [node for node in graph.derivations() if closure or node.id in graph.roots]
    resolved = _inputs_of(nodes, services, settings) if rebuild else make_plan(graph, services.store).resolved
    stop = CancelToken()
    try:
        builder = Builder(services, stop) if rebuild else None
        return [_challenge(node, resolved, caches, services, builder, settings.jobs) for node in nodes]
    finally:
        stop.close()


def _inputs_of(
    nodes: Sequence[Derivation], services: Services, settings: Settings
) -> Mapping[DerivationId, Resolution]:
    """Make the inputs of the nodes valid, by building or substitution."""
    inputs = ((edge.node, edge.output) for node in nodes for edge in node.inputs.values())
    plan = make_plan(Graph.of_outputs(inputs), services.store, services.substituter())
    return realise(plan, services, settings)


def _challenge(
    node: Derivation,
    resolved: Mapping[DerivationId, Resolution],
    caches: Caches,
    services: Services,
    builder: Builder | None,
    jobs: int,
) -> Challenge:
    trees = input_trees(node, resolved)
    if trees is None:
        raise EngineError(
            f"challenge {node.name}: its inputs are not built", detail="Build the target first.", reason="not-built"
        )
    key = action_key(node.preimage(trees))
    here = services.store.lookup([key]).get(key)
    if builder is not None:
        reference = builder.rebuild(node, trees, jobs)
    elif here is not None:
        reference = resolution_of(here)
    else:
        raise EngineError(
            f"challenge {node.name}: it is not built here",
            detail="Omit --no-rebuild: forge then builds it, to have something to compare with.",
            reason="not-built",
        )
    answers = [_answer(HERE, here, reference, caches, services)] if here is not None and builder is not None else []
    for source, traces in caches.claims(key).items():
        answers += [_answer(source, trace, reference, caches, services) for trace in traces]
        if not traces:
            answers.append(ChallengeAnswer(source, ChallengeOutcome.SILENT))
    return Challenge(node.name, key, reference, builder is not None, tuple(answers))


def _answer(source: str, trace: Trace, reference: Resolution, caches: Caches, services: Services) -> ChallengeAnswer:
    outputs = resolution_of(trace)
    same = dict(outputs) == dict(reference)
    return ChallengeAnswer(
        source,
        ChallengeOutcome.MATCH if same else ChallengeOutcome.MISMATCH,
        ", ".join(signature.key.partition(":")[0] for signature in trace.signatures) or trace.builder,
        outputs,
        trace.started,
        () if same else tuple(_differing(outputs, reference, caches, services)),
    )


def _differing(outputs: Resolution, reference: Resolution, caches: Caches, services: Services) -> Iterator[str]:
    for name, tree in outputs.items():
        ours = reference.get(name)
        if ours is None or ours == tree:
            continue
        here, there = _read(ours, caches, services.store), _read(tree, caches, services.store)
        if here is not None and there is not None:
            yield from (f"{name}/{path}" if path else name for path in differing_paths(there, here))


def _read(tree: TreeId, caches: Caches, store: Store) -> Tree | None:
    """The manifest, from this store or a cache: the store need not have all outputs. None if nobody has it."""
    return store.read_tree(tree) if store.has_tree(tree) else caches.read_manifest(tree)
