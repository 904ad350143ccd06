"""`python -m mmojo_forge` is the same as `forge`."""

from mmojo_forge.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
