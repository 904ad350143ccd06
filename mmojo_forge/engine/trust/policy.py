"""Whom to believe: from what several builders say about one key to what counts. Pure.

Signatures were checked before. A claim about a `reproducible` output needs `agree` builders who say the same; whoever
says something else is told of, loudly, for one of them is broken or lies. What is host-specific need not come out twice
the same, so one builder is enough.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mmojo_forge.model.trace import Trace

Claim = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TrustVerdict:
    """The trace that counts, if any, and one trace for each of several claims that exclude each other."""

    accepted: Trace | None = None
    disputed: tuple[Trace, ...] = ()


def judge(traces: Sequence[Trace], *, agree: int = 1) -> TrustVerdict:
    """What to make of the traces of one key: accepted is the one claim that enough builders make."""
    if not traces:
        return TrustVerdict()
    if not is_reproducible(traces[0]):
        return TrustVerdict(traces[0])
    claims: dict[Claim, list[Trace]] = {}
    for trace in traces:
        claims.setdefault(claim_of(trace), []).append(trace)
    supported = [several for several in claims.values() if len(_builders(several)) >= agree]
    disputed = tuple(several[0] for several in claims.values()) if len(claims) > 1 else ()
    return TrustVerdict(supported[0][0] if len(supported) == 1 else None, disputed)


def claim_of(trace: Trace) -> Claim:
    """What the trace says, whoever says it: the tree of each output."""
    return tuple(sorted((name, output.tree) for name, output in trace.outputs.items()))


def is_reproducible(trace: Trace) -> bool:
    """Whether every machine must get the same bytes."""
    return bool(json.loads(trace.preimage)["label"]["reproducible"])


def describe(trace: Trace) -> str:
    """One line about who says what."""
    who = ", ".join(sorted(one.key.partition(":")[0] for one in trace.signatures)) or trace.builder
    return f"{who}: " + ", ".join(f"{name} {tree}" for name, tree in claim_of(trace))


def _builders(traces: Sequence[Trace]) -> set[str]:
    """The public keys that vouch for any of the traces, whatever they are called."""
    return {one.key.partition(":")[2] for trace in traces for one in trace.signatures}
