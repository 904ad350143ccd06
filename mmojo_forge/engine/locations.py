"""Where things lie: the workspace, its store, the user's configuration. On the no-op path, so little is imported."""

from __future__ import annotations

import os

LOCK_NAME = "forge.lock"


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


def store_folder(workspace: str, environment: dict[str, str]) -> str:
    """FORGE_STORE, else `store` of the user's configuration, else the workspace's own `store/`."""
    chosen = environment.get("FORGE_STORE") or _configured(environment).get("store")
    if isinstance(chosen, str) and chosen:
        return os.path.join(workspace, os.path.expanduser(chosen))
    return os.path.join(workspace, "store")


def configuration_file(environment: dict[str, str]) -> str:
    """The user's configuration file, after the XDG base directory specification."""
    base = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(base, "mmojo-forge", "config.toml")


def _configured(environment: dict[str, str]) -> dict[str, object]:
    path = configuration_file(environment)
    if not os.path.isfile(path):
        return {}
    # Most users have no such file, and tomllib is not free.
    import tomllib

    with open(path, "rb") as file:
        return tomllib.load(file)
