"""Traces in bundles: entries as in caches (model/trace_entry.py), which nobody has to have signed.

A trace that came in a bundle says so: its builder is `imported:` and the name that the file gives. A signature covers
the name without that prefix.
"""

from __future__ import annotations

import json
from dataclasses import replace

from mmojo_forge.model import trace_entry
from mmojo_forge.model.digest import ActionKey
from mmojo_forge.model.trace import Trace
from mmojo_forge.model.trace_entry import EntryError
from mmojo_forge.store.bundle import BundleError, malformed

IMPORTED = "imported:"


def encode(trace: Trace) -> bytes:
    """The entry of a trace."""
    return trace_entry.encode(replace(trace, builder=trace.builder.removeprefix(IMPORTED)))


def parse(data: bytes, key: ActionKey) -> Trace:
    """The trace of an entry that is to be for `key`; raises BundleError (`bundle-malformed`, `bundle-wrong-trace`)."""
    try:
        trace = trace_entry.from_json(json.loads(data))
    except EntryError as error:
        if error.wrong_key:
            raise _wrong(key) from error
        raise malformed(f"trace {key} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise malformed(f"trace {key} cannot be read: {error}"[:300]) from error
    if trace.key != key:
        raise _wrong(key)
    return replace(trace, builder=IMPORTED + trace.builder)


def _wrong(key: ActionKey) -> BundleError:
    return BundleError(
        f"import bundle: trace {key} is not what its key is made of",
        detail="Somebody changed it; nothing of the bundle was taken in.",
        reason="bundle-wrong-trace",
    )
