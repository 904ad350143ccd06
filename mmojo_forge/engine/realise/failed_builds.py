"""Failed builds: kept as they were left, the latest of each name, so that one can step into the sandbox and look."""

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
from mmojo_forge.executor.request import BuildRequest, Mount
from mmojo_forge.executor.sandbox import SandboxCommand
from mmojo_forge.files import write_atomically
from mmojo_forge.model.digest import ActionKey
from mmojo_forge.store.scratch import remove_tree

REQUEST = "request.json"
_KEY = "action-key"


class Enterable(Protocol):
    """An executor whose sandbox a person can step into."""

    def shell_command(self, request: BuildRequest, argv: tuple[str, ...] = ()) -> SandboxCommand:
        """The command that starts `argv`, or a shell, in the sandbox of the request."""


def keep(scratch: Path, kept: Path, request: BuildRequest, key: ActionKey) -> None:
    """Move the build in `scratch` to `kept`, in place of an older one, with all that is needed to enter it."""
    document = {
        "argv": request.argv,
        "env": dict(request.env),
        "mounts": [[str(mount.source), mount.at] for mount in request.mounts],
        "log": str(request.log),
    }
    write_atomically(scratch / REQUEST, json.dumps(document).encode())
    write_atomically(scratch / _KEY, key.encode())
    kept.parent.mkdir(parents=True, exist_ok=True)
    forget(kept)
    scratch.rename(kept)


def forget(kept: Path) -> None:
    """Remove a kept build, if there is one: it was built in the meantime."""
    # Builds leave folders that nobody may write to, which shutil.rmtree does not get past.
    with contextlib.suppress(FileNotFoundError):
        remove_tree(str(kept.parent), kept.name)


def key_of(kept: Path) -> ActionKey | None:
    """The action key of the build that is kept there, if one is."""
    try:
        return ActionKey((kept / _KEY).read_text(encoding="utf-8"))
    except OSError:
        return None


def request_of(kept: Path) -> BuildRequest:
    """The request of a kept build, as it has to be run to enter its sandbox; raises EngineError (`no-failed-build`)."""
    try:
        document = json.loads((kept / REQUEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(
            f"enter the failed build of {kept.name}: none is kept",
            detail="Builds are kept when they fail, the latest of each name.",
            reason="no-failed-build",
        ) from error
    return BuildRequest(
        name=kept.name,
        argv=tuple(document["argv"]),
        env=document["env"],
        mounts=tuple(Mount(Path(source), at) for source, at in document["mounts"]),
        work=kept / "build",
        out=kept / "out",
        log=Path(document["log"]),
    )


def with_terminal(request: BuildRequest) -> BuildRequest:
    """The request for a person: the same, with a terminal's name and a prompt."""
    return replace(request, env={**request.env, "TERM": "xterm-256color", "PS1": f"[{request.name}] \\w \\$ "})


def prepare_to_enter(request: BuildRequest, argv: Sequence[str], executor: Enterable) -> SandboxCommand:
    """The command that takes this process into the sandbox, in which `argv` or a shell is started.

    From now on this process has what a build is started with: umask, personality, and the command's descriptors open.
    """
    command = executor.shell_command(request, tuple(argv))
    for descriptor in command.descriptors:
        os.set_inheritable(descriptor, True)
    os.umask(0o022)
    personality.take_on(personality.USUAL)
    return command
