"""Where things lie: the workspace, its store, the configuration. On the no-op path, so little is imported.

Everything else is told by `platformdirs` where the user's folders are; importing that takes as long as the whole no-op
path. A test compares the answers.
"""

from __future__ import annotations

import os

LOCK_NAME = "forge.lock"
WORKSPACE_SETTINGS = "forge.toml"
WORKSPACE_KEYS = "forge.keys"
USER_SETTINGS = "config.toml"
USER_KEYS = "keys.toml"
USER_FOLDER = "mmojo-forge"


def find_workspace(start: str) -> str | None:
    """The folder with forge.lock that `start` lies in, or None."""
    folder = start
    while True:
        if os.path.isfile(os.path.join(folder, LOCK_NAME)):
            return folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def configuration_files(workspace: str, user: str) -> tuple[str, ...]:
    """Every file that configures forge in this workspace, whether it is there or not; `user` is the user's folder."""
    shared = (os.path.join(workspace, name) for name in (WORKSPACE_SETTINGS, WORKSPACE_KEYS))
    return (*shared, *(os.path.join(user, name) for name in (USER_SETTINGS, USER_KEYS)))


def user_folder(environment: dict[str, str]) -> str | None:
    """The folder of the user's configuration, after the XDG Base Directory Specification; None if that takes more."""
    base = environment.get("XDG_CONFIG_HOME", "")
    # "All paths set in these environment variables must be absolute": a relative one is to be ignored.
    if not base.startswith("/"):
        home = environment.get("HOME", "")
        if not home.startswith("/"):
            return None
        base = home.rstrip("/") + "/.config"
    return os.path.join(base, USER_FOLDER)


def store_folder(workspace: str, environment: dict[str, str], user: str) -> str | None:
    """Where the store lies as far as that is plain to see: None where the user's file needs to be looked at closely."""
    chosen: object = environment.get("FORGE_STORE")
    if not chosen:
        try:
            with open(os.path.join(user, USER_SETTINGS), "rb", opener=_without_waiting) as file:
                # Most users have no such file, and tomllib is not free.
                import tomllib

                chosen = tomllib.load(file).get("store", "")
        except (FileNotFoundError, NotADirectoryError):
            chosen = ""
        except (OSError, ValueError, RecursionError):
            return None
    return store_path(workspace, chosen) if isinstance(chosen, str) else None


def _without_waiting(path: str, flags: int) -> int:
    # A pipe without a writer would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


def store_path(workspace: str, chosen: str) -> str:
    """The store that FORGE_STORE or `store` of the user's file names; a relative path begins at the workspace."""
    return os.path.join(workspace, os.path.expanduser(chosen) if chosen else "store")
