"""Build traces: what an action key was built to, by whom, from which preimage."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mmojo_forge.model import canonical
from mmojo_forge.model.digest import ActionKey, TreeId

SCHEMA = 1
_VERSION = re.compile(r"-v?[0-9].*")
_STEM_CHARACTERS = re.compile(r"[^A-Za-z0-9._+-]")


@dataclass(frozen=True, slots=True)
class TraceOutput:
    """One named result: its tree and how many bytes of content it has."""

    tree: TreeId
    size: int


@dataclass(frozen=True, slots=True)
class TraceSignature:
    """Who vouches for a trace: a public key as NAME:BASE64, and its signature over the trace's fingerprint."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Trace:
    """One row of the build trace. `preimage` hashes to `key`; `log` names the kept log, if there is one.

    `started` is in seconds since the epoch, `seconds` the wall time of the build: facts about the build, which
    never enter an identity.
    """

    key: ActionKey
    name: str
    preimage: bytes
    outputs: Mapping[str, TraceOutput]
    builder: str = "local"
    started: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    signatures: tuple[TraceSignature, ...] = ()

    def fingerprint(self) -> bytes:
        """The canonical bytes that a signature covers: what is claimed, label included, nothing of when or where."""
        outputs: dict[str, canonical.Json] = {
            name: {"size": output.size, "tree": output.tree} for name, output in self.outputs.items()
        }
        label = json.loads(self.preimage)["label"]
        claim = {"builder": self.builder, "key": self.key, "label": label, "outputs": outputs, "schema": SCHEMA}
        return canonical.encode(claim)


def stem(name: str) -> str:
    """The name of what was built without its version, as a path's part: by it other versions are found."""
    plain = _VERSION.sub("", _STEM_CHARACTERS.sub("_", name))[:100]
    return plain.lstrip("._+-") or "unnamed"
