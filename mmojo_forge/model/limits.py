"""Limits: the bounds within which one build may run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one build. No part of the identity: more patience does not change what is built."""

    wall_seconds: float = 4 * 3600
    silent_seconds: float = 1800
    memory_bytes: int = 16 << 30
    processes: int = 4096
    output_bytes: int = 16 << 30
    output_files: int = 500_000
    log_bytes: int = 256 << 20
