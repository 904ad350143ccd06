"""Writes forge.outputs: the expected tree of each reproducible target.

An entry is a target, its derivation and the tree. `forge realize` compares its results with the entries of the same
derivations. `forge lock --outputs` writes entries; `forge lock` does not, so that a new version changes only pins.

An entry is *stale* when its target has another derivation now. It stays until the target is built and written again,
because somebody who merges changes has rarely built all targets. An entry never changes silently to another tree of
the same derivation: forge.outputs exists to detect exactly that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmojo_forge.engine.errors import EngineError, NotBuilt
from mmojo_forge.engine.evaluation import evaluate, evaluate_all
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import make_plan
from mmojo_forge.engine.realise.run import UnexpectedOutput, first_difference
from mmojo_forge.engine.workspace import Request, Workspace
from mmojo_forge.model.lockfile import ExpectedOutput, Lock
from mmojo_forge.recipe.evaluate import Instance
from mmojo_forge.recipe.loader import Loader
from mmojo_forge.store.protocol import Store


@dataclass(frozen=True, slots=True)
class OutputsReport:
    """Targets whose entry in forge.outputs deserves attention. All fields are sorted.

    - `stale`: the target has another derivation now, or cannot be evaluated here.
    - `unused`: the target does not exist, or is host-specific.
    - `unexpected`: this store has another tree for the same derivation.
    """

    stale: tuple[str, ...]
    unused: tuple[str, ...]
    unexpected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutputsUpdate:
    """How forge.outputs changed, by target.

    `accepted` entries had another tree for the same derivation; `changed` entries had another derivation. `stale`
    entries were kept, `dropped` ones removed. `written` is true if a file changed.
    """

    outputs: Mapping[str, ExpectedOutput]
    new: tuple[str, ...]
    changed: tuple[str, ...]
    accepted: tuple[str, ...]
    stale: tuple[str, ...]
    dropped: tuple[str, ...]
    written: bool


def compare_outputs(
    expected: Mapping[str, ExpectedOutput], instances: Mapping[str, Instance], targets: Collection[str], store: Store
) -> OutputsReport:
    """How the `expected` outputs differ from the targets and from this store.

    `targets` are all targets of the workspace; `instances` has those that can be evaluated here.
    """
    unused = _unused(expected, instances, targets)
    return OutputsReport(_stale(expected, instances, unused), unused, _unexpected(expected, _built(instances, store)))


def update_outputs(
    workspace: Workspace, store: Store, targets: Sequence[str] = (), *, accept: bool = False
) -> OutputsUpdate:
    """Write forge.outputs: the tree of each reproducible target that is built here; other entries are kept.

    With `targets`, only those change, and each must be built. Raises EngineError (`not-built`, `host-specific`).
    Unless `accept`, raises UnexpectedOutput, and writes nothing, if a tree differs from the expected one of the same
    derivation.
    """
    loader = Loader(workspace.root)
    lock = workspace.read_lock()
    instances = _named(workspace, lock, targets) if targets else evaluate_all(workspace, lock, tolerant=True).instances
    built = _built(instances, store)
    _check_built(targets, instances, built)
    # Read the file after everything slow is done, because another process may be writing it too.
    before = workspace.read_outputs(lock)
    unexpected = _unexpected(before, built)
    if unexpected and not accept:
        raise _refused(unexpected, before, built, store)
    dropped = () if targets else _unused(before, instances, loader.targets())
    after = {target: output for target, output in {**before, **built}.items() if target not in dropped}
    written = workspace.write_outputs(after)
    # Older versions of forge kept the expected outputs in forge.lock; remove them there.
    if lock.outputs:
        written |= workspace.write_lock(replace(lock, outputs={}))
    differing = [target for target in built if target in before and before[target] != built[target]]
    return OutputsUpdate(
        after,
        tuple(sorted(built.keys() - before.keys())),
        tuple(sorted(set(differing) - set(unexpected))),
        unexpected,
        () if targets else _stale(after, instances, ()),
        dropped,
        written,
    )


def _named(workspace: Workspace, lock: Lock, targets: Iterable[str]) -> Mapping[str, Instance]:
    loader = Loader(workspace.root)
    for target in targets:
        # Also refuses TARGET^OUTPUT: an entry is for what `forge realize TARGET` gives.
        loader.find(target)
    return evaluate(workspace, Request.parse(targets), lock).instances


def _built(instances: Mapping[str, Instance], store: Store) -> dict[str, ExpectedOutput]:
    """The output of each reproducible target that this store knows."""
    graph = Graph.of_outputs((instance.node, instance.output) for instance in instances.values())
    resolved = make_plan(graph, store).resolved
    return {
        target: ExpectedOutput(target, instance.node.id, resolved[instance.node.id][instance.output])
        for target, instance in instances.items()
        if instance.node.label.reproducible and instance.output in resolved.get(instance.node.id, ())
    }


def _check_built(
    targets: Iterable[str], instances: Mapping[str, Instance], built: Mapping[str, ExpectedOutput]
) -> None:
    for target in targets:
        label = instances[target].node.label
        if not label.reproducible:
            raise EngineError(
                f"lock --outputs {target}: it is {label}",
                detail="Only reproducible targets have the same output on every machine.",
                reason="host-specific",
            )
        if target not in built:
            raise NotBuilt("lock --outputs", target, [target])


def _stale(
    expected: Mapping[str, ExpectedOutput], instances: Mapping[str, Instance], unused: Collection[str]
) -> tuple[str, ...]:
    return tuple(
        target
        for target in sorted(expected.keys() - set(unused))
        if target not in instances or instances[target].node.id != expected[target].derivation
    )


def _unused(
    expected: Mapping[str, ExpectedOutput], instances: Mapping[str, Instance], targets: Collection[str]
) -> tuple[str, ...]:
    local = {target for target, instance in instances.items() if not instance.node.label.reproducible}
    return tuple(target for target in sorted(expected) if target not in targets or target in local)


def _unexpected(expected: Mapping[str, ExpectedOutput], built: Mapping[str, ExpectedOutput]) -> tuple[str, ...]:
    both = ((target, expected[target], built[target]) for target in sorted(expected.keys() & built.keys()))
    return tuple(target for target, old, new in both if old.derivation == new.derivation and old.tree != new.tree)


def _refused(
    targets: Sequence[str], before: Mapping[str, ExpectedOutput], built: Mapping[str, ExpectedOutput], store: Store
) -> UnexpectedOutput:
    differences = "\n".join(
        f"{target}: {built[target].tree} instead of {before[target].tree}. "
        f"{first_difference(store, before[target].tree, built[target].tree)}"
        for target in targets
    )
    names = " ".join(targets)
    return UnexpectedOutput(
        f"lock --outputs: the output of {names} differs from what forge.outputs expects of the same derivation",
        detail=f"{differences}\nNothing was written. Possible causes: forge.outputs was edited by hand; this machine "
        "or the one that wrote it is broken or compromised; the recipe is not reproducible. `forge check --bisect "
        "TARGET` finds what a build depends on.\n"
        f"To accept the outputs in this store: `forge lock --outputs --accept {names}`.",
        reason="unexpected-output",
    )
