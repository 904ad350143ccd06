"""Decides which trace of an action key to accept, when several builders signed traces for it. Pure.

Callers check the signatures first. A claim about a reproducible output needs `agree` builders with the same trees.
A builder who claims other trees is reported, because one of them is broken or compromised. A host-specific output may
differ between builds, so one builder is enough.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mmojo_forge.model.trace import Trace

Claim = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TrustVerdict:
    """The accepted trace, if any, and, if the builders disagree, one trace for each contradicting claim."""

    accepted: Trace | None = None
    disputed: tuple[Trace, ...] = ()


def judge(traces: Sequence[Trace], *, agree: int = 1) -> TrustVerdict:
    """The verdict on the traces of one key. A claim is accepted if it is the only one that enough builders make."""
    if not traces:
        return TrustVerdict()
    if not is_reproducible(traces[0]):
        return TrustVerdict(traces[0])
    claims: dict[Claim, list[Trace]] = {}
    for trace in traces:
        claims.setdefault(claim_of(trace), []).append(trace)
    # If several contradicting claims have enough builders, none of them is accepted.
    supported = [same for same in claims.values() if len(_builders(same)) >= agree]
    disputed = tuple(same[0] for same in claims.values()) if len(claims) > 1 else ()
    return TrustVerdict(supported[0][0] if len(supported) == 1 else None, disputed)


def claim_of(trace: Trace) -> Claim:
    """The tree of each output, regardless of the builder."""
    return tuple(sorted((name, output.tree) for name, output in trace.outputs.items()))


def is_reproducible(trace: Trace) -> bool:
    """Whether the trace's derivation is labelled reproducible: every machine must get the same bytes."""
    return bool(json.loads(trace.preimage)["label"]["reproducible"])


def describe(trace: Trace) -> str:
    """One line for a person: the signers, and the tree of each output."""
    who = ", ".join(sorted(signature.key.partition(":")[0] for signature in trace.signatures)) or trace.builder
    return f"{who}: " + ", ".join(f"{name} {tree}" for name, tree in claim_of(trace))


def _builders(traces: Sequence[Trace]) -> set[str]:
    """The public keys that signed any of the traces. Names do not count: one builder could use several."""
    return {signature.key.partition(":")[2] for trace in traces for signature in trace.signatures}
