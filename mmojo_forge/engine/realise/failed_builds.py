"""Keeps the latest failed build of each name, so that `forge shell` can enter its sandbox."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.executor import personality
from mmojo_forge.executor.request import BuildRequest
from mmojo_forge.executor.sandbox import SandboxCommand
from mmojo_forge.files import write_atomically
from mmojo_forge.model.digest import ActionKey
from mmojo_forge.store.scratch import remove_tree

REQUEST = "request.json"
_KEY = "action-key"


class Enterable(Protocol):
    """An executor whose sandbox the user can enter."""

    def shell_command(self, request: BuildRequest, argv: tuple[str, ...] = ()) -> SandboxCommand:
        """The command that starts `argv`, or a shell if it is empty, in the request's sandbox."""


def keep(scratch: Path, kept: Path, request: BuildRequest, key: ActionKey) -> None:
    """Move the build in `scratch` to `kept`, with the request to enter it again. Replaces an older one."""
    write_atomically(scratch / REQUEST, json.dumps(request.to_json()).encode())
    write_atomically(scratch / _KEY, key.encode())
    kept.parent.mkdir(parents=True, exist_ok=True)
    forget(kept)
    scratch.rename(kept)


def forget(kept: Path) -> None:
    """Remove a kept build, if there is one."""
    # Builds leave read-only folders, which shutil.rmtree cannot delete.
    with contextlib.suppress(FileNotFoundError):
        remove_tree(str(kept.parent), kept.name)


def key_of(kept: Path) -> ActionKey | None:
    """The action key of the build that is kept there; None if there is none."""
    try:
        return ActionKey((kept / _KEY).read_text(encoding="utf-8"))
    except OSError:
        return None


def request_of(kept: Path) -> BuildRequest:
    """The request of a kept build, to enter its sandbox again; raises EngineError (`no-failed-build`)."""
    try:
        document = json.loads((kept / REQUEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(
            f"enter the failed build of {kept.name}: there is none",
            detail="forge keeps the latest failed build of each name, until a build of that name succeeds.",
            reason="no-failed-build",
        ) from error
    # The build has moved since, and whoever steps into it has no limits.
    moved = {"name": kept.name, "work": str(kept / "build"), "out": str(kept / "out"), "limits": {}}
    return BuildRequest.from_json({**document, **moved})


def with_terminal(request: BuildRequest) -> BuildRequest:
    """The request for interactive use: with TERM and a prompt."""
    return replace(request, env={**request.env, "TERM": "xterm-256color", "PS1": f"[{request.name}] \\w \\$ "})


def prepare_to_enter(request: BuildRequest, argv: Sequence[str], executor: Enterable) -> SandboxCommand:
    """The command that starts `argv`, or a shell if it is empty, in the sandbox. The caller must execute it.

    Changes this process to what a build starts with: its umask, its personality, and the descriptors that the command
    inherits.
    """
    command = executor.shell_command(request, tuple(argv))
    for descriptor in command.descriptors:
        os.set_inheritable(descriptor, True)
    # The same umask and personality as in the sandbox contract (ARCHITECTURE.md).
    os.umask(0o022)
    personality.take_on(personality.USUAL)
    return command
