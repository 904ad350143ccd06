"""A process that is killed at a chosen call of those that change something."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

from mmojo_forge.store.add import batch

Call = tuple[object, str]
"""What has the function, and its name there."""


def of_os(*names: str) -> tuple[Call, ...]:
    """These functions of `os`."""
    return tuple((os, name) for name in names)


STORE_CALLS = (
    *of_os("rename", "write", "link", "mkdir", "fchmod", "unlink", "symlink"),
    (batch, "rename_new"),
)
"""All by which a store changes anything."""


def in_child_killed_at(number: int, act: Callable[[], object], calls: Iterable[Call] = STORE_CALLS) -> bool:
    """Fork; the child kills itself at its n-th call of any of these. Whether it got that far."""
    child = os.fork()
    if child == 0:
        left = number

        def guard(original: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any, **keywords: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **keywords)

            return counted

        for place, name in calls:
            setattr(place, name, guard(getattr(place, name)))
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
