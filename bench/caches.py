"""The case `cache`: push and pull of a toolchain and of the server, against `nix copy` and `tar | zstd`.

Every pull is by a user with an empty store who has the lock file and trusts the builder's key. It ends when the result
is checked out. `nix copy` uses zstd, too: its default, xz, would take minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.forge import REPOSITORY
from bench.measure import Row, Timing, run, timed
from bench.nix import NixSide

_VERSIONS = '''
from mmojo_forge.recipe import Package, build, recipe

CHANGE = """
cp -a /forge/zig /forge/out/out
chmod -R u+w /forge/out/out
cd /forge/out/out
for file in $(find lib -name '*.zig' | sort | head -n 400 || true); do
  echo "// $VERSION" >> "$file"
done
"""


@recipe("versioned")
def versioned(zig: Package, userland: Package, *, version: str = "1.0"):
    phases = {"change": CHANGE}
    return build(
        f"versioned-{version}", userland=userland, phases=phases, inputs={"zig": zig}, env={"VERSION": version}
    )
'''


class Users:
    """Two users: A has everything in the store; the store of B is emptied before each pull."""

    def __init__(self, scratch: Path, peer: NixSide | None) -> None:
        self.peer = peer
        self.scratch = scratch / "cache"
        self.root = self.scratch / "workspace"
        shutil.copytree(
            REPOSITORY,
            self.root,
            ignore=shutil.ignore_patterns(".git", ".venv", "store", "out", "tests", "bench", "__pycache__"),
            symlinks=True,
        )
        (self.root / "recipes" / "versioned").mkdir()
        (self.root / "recipes" / "versioned" / "recipe.py").write_text(_VERSIONS)
        base = {**os.environ, "FORGE_VENV": os.environ.get("FORGE_VENV", str(REPOSITORY / ".venv"))}
        # A uses the key of the user who measures: it signed what the store already has.
        self.a = base
        self.b = {**base, "XDG_CONFIG_HOME": str(self.scratch / "b"), "FORGE_STORE": str(self.scratch / "store-b")}
        key = json.loads(self.ask(self.a, "cache", "key", "show", "--json"))["own"]
        self.ask(self.b, "cache", "key", "trust", "--user", key)

    def ask(self, environment: dict[str, str], *arguments: str) -> str:
        """What `./forge` prints in the environment of one of the users."""
        return run([REPOSITORY / "forge", "-C", self.root, *arguments], environment, self.root)

    def realize(self, target: str, *options: str) -> Path:
        """The path of the target in the store of A."""
        return Path(self.ask(self.a, "realize", "-q", "--no-link", target, *options).strip())

    def push(self, target: str, place: str, *options: str) -> dict[str, int]:
        """The counts of a push by A."""
        document = json.loads(self.ask(self.a, "cache", "push", "--to", place, "--json", target, *options))
        done: dict[str, int] = document["caches"][place]
        return done

    def pull(self, target: str, place: str, *options: str) -> None:
        """Pull the target into the store of B."""
        self.ask(self.b, "cache", "pull", "-q", "--no-link", "--from", place, target, *options)

    def forget(self) -> None:
        """Empty the store of B."""
        remove(Path(self.b["FORGE_STORE"]))


def remove(path: Path) -> None:
    """Remove a folder, even if it is read-only."""
    if path.exists():
        subprocess.run(["chmod", "-R", "u+w", str(path)], check=True)
        shutil.rmtree(path)


def cache(scratch: Path, peer: NixSide | None, *, quick: bool) -> Iterator[Row]:
    """Rows for push and pull over a folder and over a server on this machine."""
    if missing := [program for program in ("tar", "zstd") if shutil.which(program) is None]:
        raise SystemExit(f"bench cache: install the program {' and '.join(missing)}")
    users = Users(scratch, peer)
    runs = 2 if quick else 3
    zig, ape = users.realize("zig"), users.realize("mmojo-server.ape")
    yield from _folder(users, "zig", zig, runs)
    yield from _folder(users, "mmojo-server.ape", ape, runs)
    yield from _server(users, runs)
    yield from _versions(users)


def _folder(users: Users, target: str, tree: Path, runs: int) -> Iterator[Row]:
    place = users.scratch / "folder"
    ours: dict[str, list[float]] = {"push": [], "pull": []}
    nix: dict[str, list[float]] = {"push": [], "pull": []}
    tar: dict[str, list[float]] = {"push": [], "pull": []}
    for _ in range(runs):
        remove(place)
        ours["push"].append(timed(lambda: users.push(target, str(place))))
        users.forget()
        ours["pull"].append(timed(lambda: users.pull(target, str(place))))
        if users.peer:
            _add(nix, *_nix_copy(users.peer, tree, users.scratch))
        _add(tar, *_tar(tree, users.scratch))
    for what in ("push", "pull"):
        peer = Timing(tuple(nix[what])) if nix[what] else None
        name = f"{what} of {target}, folder"
        yield Row(name, Timing(tuple(ours[what])), peer, "nix copy, zstd", "0.8 ×")
        yield Row(name, Timing(tuple(ours[what])), Timing(tuple(tar[what])), "tar and zstd -3", "1.0 ×")


def _add(times: dict[str, list[float]], push: float, pull: float) -> None:
    times["push"].append(push)
    times["pull"].append(pull)


def _nix_copy(nix: NixSide, tree: Path, scratch: Path) -> tuple[float, float]:
    place = scratch / "nix-cache"
    remove(place)
    path = nix.add(tree).strip()
    url = f"file://{place}?compression=zstd"
    pushed = timed(lambda: nix.copy("--to", url, path))
    nix.delete(path)
    pulled = timed(lambda: nix.copy("--from", url, path))
    nix.delete(path)
    return pushed, pulled


def _tar(tree: Path, scratch: Path) -> tuple[float, float]:
    archive, out = scratch / "tree.tar.zst", scratch / "untarred"
    packing = f"tar -C {tree.parent} -cf - {tree.name} | zstd -3 -q -f -o {archive}"
    pushed = timed(lambda: run(["sh", "-c", packing], os.environ, scratch))
    out.mkdir()
    pulled = timed(lambda: run(["sh", "-c", f"zstd -dcq {archive} | tar -C {out} -xf -"], os.environ, scratch))
    remove(out)
    return pushed, pulled


@contextmanager
def _serving(users: Users, folder: Path) -> Iterator[str]:
    """Serve the folder and give the server's URL; a token allows writing."""
    token = users.scratch / "token"
    token.write_text("a-token-for-measuring-only-0123456789\n")
    token.chmod(0o600)
    command = [REPOSITORY / "forge", "-C", users.root, "cache", "serve", folder, "--listen", "127.0.0.1:0"]
    command += ["--token-file", token]
    with subprocess.Popen(
        [str(part) for part in command], env=users.a, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.send_signal(signal.SIGTERM)


def _server(users: Users, runs: int) -> Iterator[Row]:
    folder = users.scratch / "served"
    for target in ("zig", "mmojo-server.ape"):
        users.push(target, str(folder))
    with _serving(users, folder) as url:
        for target in ("zig", "mmojo-server.ape"):
            times = []
            for _ in range(runs):
                users.forget()
                times.append(timed(lambda target=target: users.pull(target, url)))  # type: ignore[misc]
            size = sum(path.stat().st_size for path in (folder / "packs").rglob("*") if path.is_file())
            bare = Timing(tuple(_bare_copies(folder, runs)))
            name = f"pull of {target}, server on this machine"
            yield Row(name, Timing(tuple(times)), bare, f"copying the cache's {size / 1e6:.0f} MB of packs", "")


def _bare_copies(folder: Path, runs: int) -> Iterator[float]:
    target = folder.with_name("copied")
    for _ in range(runs):
        remove(target)
        yield timed(lambda: shutil.copytree(folder / "packs", target))
    remove(target)


def _versions(users: Users) -> Iterator[Row]:
    """A row for the share of a second version that a push sends: 400 of 18,000 files changed."""
    place = users.scratch / "versions"
    sizes: dict[str, int] = {}
    for version in ("1.0", "1.1"):
        users.realize("versioned", "--set", f"version={version}")
        sizes[version] = users.push("versioned", str(place), "--set", f"version={version}")["sent_bytes"]
    share = sizes["1.1"] / sizes["1.0"]
    text = f"second version of a toolchain: {sizes['1.1'] / 1e6:.1f} of {sizes['1.0'] / 1e6:.1f} MB sent ({share:.0%})"
    yield Row(text, Timing((0.0,)), None, "", "20 %")
