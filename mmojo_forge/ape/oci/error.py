"""What can be wrong with the order for an image, or with the place it should go to."""

from __future__ import annotations

from enum import StrEnum

from mmojo_forge.errors import ForgeError


class OciReason(StrEnum):
    """The machine-readable names of this package's failures."""

    NO_PLATFORM = "oci-no-platform"
    NAME = "oci-name"
    TAG = "oci-tag"
    LAYERS = "oci-too-many-layers"
    MODEL_INSIDE = "oci-model-inside"
    CHANGED = "oci-changed"
    IN_THE_WAY = "oci-in-the-way"


class OciError(ForgeError):
    """An image that cannot be made or written."""

    def __init__(self, message: str, *, detail: str = "", reason: OciReason) -> None:
        super().__init__(message, detail=detail, reason=str(reason))
