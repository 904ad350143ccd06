"""Build traces: the outputs of an action key, with the builder that made them and the preimage of the key."""

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
    """One output: its tree and the bytes of its content."""

    tree: TreeId
    size: int


@dataclass(frozen=True, slots=True)
class TraceSignature:
    """A signature over the trace's fingerprint, with the public key that made it as NAME:BASE64."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Trace:
    """One row of the build trace. `preimage` hashes to `key`.

    `started` is in seconds since the epoch; `seconds` is the wall time of the build. These facts about the build never
    enter an identity.
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
        """The canonical bytes that a signature covers: builder, key, label and outputs, but no times or memory."""
        outputs: dict[str, canonical.Json] = {
            name: {"size": output.size, "tree": output.tree} for name, output in self.outputs.items()
        }
        label = json.loads(self.preimage)["label"]
        claim = {"builder": self.builder, "key": self.key, "label": label, "outputs": outputs, "schema": SCHEMA}
        return canonical.encode(claim)


def stem(name: str) -> str:
    """The name of a build without its version, fit to be part of a path. All versions of a package share it."""
    plain = _VERSION.sub("", _STEM_CHARACTERS.sub("_", name))[:100]
    return plain.lstrip("._+-") or "unnamed"
