"""What `forge check` varies, by name: recipes speak of it, and reports do."""

from __future__ import annotations

from enum import StrEnum


class Aspect(StrEnum):
    """One thing that a build must not depend on."""

    PARALLELISM = "parallelism"
    AFFINITY = "cpu-affinity"
    TIME = "real-time"
    CLOCK = "shifted-clock"
    ORDER = "directory-order"
    BUILD_PATH = "build-path"
    STORE_PATH = "store-path"
    FILE_SYSTEM = "file-system"
    UMASK = "umask"
    ENVIRONMENT = "host-environment"
    LOCALE = "host-locale"
    TIME_ZONE = "host-time-zone"
    UID = "host-uid"
    HOSTNAME = "host-name"
    PERSONALITY = "kernel-personality"
    ASLR = "aslr"
    CPU_MODEL = "cpu-model"


# What changes with the place of the rebuild, which is always another one.
INHERENT = frozenset({Aspect.TIME, Aspect.BUILD_PATH, Aspect.STORE_PATH, Aspect.FILE_SYSTEM})
