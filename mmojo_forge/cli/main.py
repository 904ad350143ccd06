"""The entry point: it tries the no-op path first, and imports the whole command line only if that fails."""

from __future__ import annotations

import os
import sys

from mmojo_forge.engine import noop


def main() -> int:
    """Run the command in argv, and return its exit code."""
    try:
        paths = noop.find_built(sys.argv[1:], dict(os.environ))
    except OSError:
        # Somebody deleted the current folder, say. The whole command line reports such errors better.
        paths = None
    if paths is not None:
        print("\n".join(paths))
        return 0
    if "site" not in sys.modules:
        # ./forge starts Python with -S, because finding the installed packages costs a third of a no-op.
        import site

        site.main()
    # click, pydantic and rich take longer to import than the whole no-op path takes.
    from mmojo_forge.cli.command_tree import run

    return run(sys.argv[1:])
