"""The peer: Debian's nix-bin on graphs of the same shape, with the same static busybox, in its own store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench.measure import run

EXPRESSIONS = """
{{ n ? 60, salt ? "" }}:
let
  busybox = builtins.path {{ path = {busybox}; name = "busybox"; }};
  node = name: text: inputs: derivation {{
    inherit name inputs;
    system = "x86_64-linux";
    builder = "${{busybox}}/bin/busybox";
    args = [ "sh" "-c" "echo ${{text}} > $out" ];
  }};
in rec {{
  below = k: if k > 1 then [ (link (k - 1)) ] else [];
  link = k: node "chain-${{toString k}}" "${{toString k}} ${{salt}}" (below k);
  chain = link n;
  leaves = builtins.genList (k: node "leaf-${{toString k}}" "${{toString k}} ${{salt}}" []) n;
  wide = node "wide" "x" leaves;
}}
"""


class NixSide:
    """nix-build with a sandbox and no build users; its store is below one folder."""

    def __init__(self, scratch: Path, busybox: Path) -> None:
        self.root = scratch / "nix"
        self.root.mkdir(parents=True)
        # busybox picks its applet by its file name, so it lies in a folder under its own name.
        copied = self.root / "tree" / "bin" / "busybox"
        copied.parent.mkdir(parents=True)
        shutil.copyfile(busybox, copied)
        copied.chmod(0o755)
        (self.root / "default.nix").write_text(EXPRESSIONS.format(busybox=self.root / "tree"))
        self.environment = {
            **os.environ,
            "NIX_STORE_DIR": str(self.root / "store"),
            "NIX_STATE_DIR": str(self.root / "state"),
            "NIX_LOG_DIR": str(self.root / "log"),
            "NIX_CONF_DIR": str(self.root / "conf"),
            "NIX_REMOTE": "",
            "HOME": str(self.root),
        }

    @staticmethod
    def is_here() -> bool:
        """Whether Debian's nix-bin is installed."""
        return shutil.which("nix-build") is not None

    def build(self, attribute: str, n: int, salt: str) -> str:
        """Build an attribute of the expressions above."""
        return run(
            ["nix-build", "--option", "sandbox", "true", "--option", "build-users-group", "",
             "--option", "substituters", "", "--cores", "1",
             "--max-jobs", str(os.cpu_count() or 1), "--no-out-link", "-Q", "--argstr", "salt", salt,
             "--arg", "n", str(n), "-A", attribute, self.root / "default.nix"],
            self.environment,
            self.root,
        )  # fmt: skip

    def add(self, path: Path) -> str:
        """Add a tree to the store."""
        return run(["nix-store", "--add", path], self.environment, self.root)

    def copy(self, direction: str, place: str, path: str) -> str:
        """Copy a store path to or from a binary cache."""
        command = ["nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", direction]
        return run([*command, place, path], self.environment, self.root)

    def delete(self, path: str) -> str:
        """Remove a store path."""
        return run(["nix-store", "--delete", path], self.environment, self.root)
