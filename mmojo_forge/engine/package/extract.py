"""Re-exports the functions that take a packaged file apart, because the CLI may not import layers below the engine."""

from __future__ import annotations

from mmojo_forge.ape.packaging.names import SUPPORT
from mmojo_forge.ape.packaging.native import Taken, take_slice
from mmojo_forge.ape.read.extract import Extracted, extract, extract_all
from mmojo_forge.ape.write.edit import Assimilated, assimilate

__all__ = ["SUPPORT", "Assimilated", "Extracted", "Taken", "assimilate", "extract", "extract_all", "take_slice"]
