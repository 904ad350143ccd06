"""The JSON documents of an image (OCI image-spec 1.0: descriptor.md, config.md, manifest.md, image-index.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
# Uncompressed: what zlib makes of the same bytes depends on its version, and a model gains next to nothing.
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"

PORT: Final = 8080
# The user that many images call "nonroot".
USER: Final = 65532
_CREATED: Final = "1970-01-01T00:00:01Z"


@dataclass(frozen=True, slots=True)
class Platform:
    """A machine as images name it, and the system as slices do."""

    system: str
    architecture: str
    variant: str = ""

    def describe(self) -> dict[str, str]:
        """Its fields in an index and in a configuration."""
        variant = {"variant": self.variant} if self.variant else {}
        return {"architecture": self.architecture, "os": "linux", **variant}

    def __str__(self) -> str:
        return f"linux/{self.architecture}"


PLATFORMS: Final = (Platform("linux-x86_64", "amd64"), Platform("linux-aarch64", "arm64", "v8"))


@dataclass(frozen=True, slots=True)
class ImageBlob:
    """A blob of the image as others refer to it. `made_by` is what its layer's history says."""

    media_type: str
    sha256: str
    size: int
    made_by: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Its digest as documents write it."""
        return f"sha256:{self.sha256}"

    def describe(self, **more: Any) -> dict[str, Any]:
        """Its descriptor."""
        annotations = {"annotations": dict(self.annotations)} if self.annotations else {}
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **annotations, **more}


@dataclass(frozen=True, slots=True)
class Start:
    """How a container starts."""

    program: str
    command: tuple[str, ...]
    cache: str
    labels: Mapping[str, str]

    def describe(self) -> dict[str, Any]:
        """The `config` of a configuration."""
        return {
            "User": f"{USER}:{USER}",
            "ExposedPorts": {f"{PORT}/tcp": {}},
            # From inside a container nobody would reach a server that listens on the loopback address.
            "Env": ["LLAMA_ARG_HOST=0.0.0.0", f"XDG_CACHE_HOME={self.cache}"],
            "Entrypoint": [self.program],
            **({"Cmd": list(self.command)} if self.command else {}),
            "WorkingDir": "/",
            "Labels": dict(self.labels),
            "StopSignal": "SIGTERM",
        }


def encode(document: Mapping[str, Any]) -> bytes:
    """The document's bytes, always the same ones."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def config(platform: Platform, start: Start, layers: Sequence[ImageBlob]) -> bytes:
    """An image's configuration; layers are not compressed, so a layer's digest is its content's."""
    history = [{"created": _CREATED, "created_by": layer.made_by} for layer in layers]
    rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
    facts = {"created": _CREATED, "config": start.describe(), "rootfs": rootfs, "history": history}
    return encode({**platform.describe(), **facts})


def manifest(configuration: ImageBlob, layers: Sequence[ImageBlob], annotations: Mapping[str, str]) -> bytes:
    """The manifest of one platform's image."""
    described = {"config": configuration.describe(), "layers": [layer.describe() for layer in layers]}
    return encode({"schemaVersion": 2, "mediaType": MANIFEST, **described, "annotations": dict(annotations)})


def index(manifests: Sequence[tuple[Platform, ImageBlob]], annotations: Mapping[str, str]) -> bytes:
    """The index of one image for several platforms."""
    described = [blob.describe(platform=platform.describe()) for platform, blob in manifests]
    return encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": described, "annotations": dict(annotations)})


def layout(image: ImageBlob, tag: str) -> bytes:
    """The index.json of a layout that holds one image."""
    named = image.describe(annotations={"org.opencontainers.image.ref.name": tag})
    return encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]})
