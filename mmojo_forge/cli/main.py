"""The entry point: the no-op path first, then the whole command line; errors are told once, here."""

from __future__ import annotations

import os
import sys

from mmojo_forge.engine import noop


def main() -> int:
    """Run the command in argv; the exit code."""
    try:
        paths = noop.find_built(sys.argv[1:], dict(os.environ))
    except OSError:
        # What is in the way (the current folder was deleted, say), the whole command says better.
        paths = None
    if paths is not None:
        print("\n".join(paths))
        return 0
    if "site" not in sys.modules:
        # ./forge starts Python with -S, since finding installed packages costs a third of a no-op.
        import site

        site.main()
    # click, pydantic and rich take longer to import than the no-op path takes in all.
    from mmojo_forge.cli.command_tree import run

    return run(sys.argv[1:])
