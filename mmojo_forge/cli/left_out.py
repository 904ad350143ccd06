"""What a cache or a bundle does not get, as it may not be passed on: one line for both commands."""

from __future__ import annotations

from collections.abc import Sequence

import click


def tell(names: Sequence[str]) -> None:
    """Say on stderr what was left out, and how to have it; nothing if there is nothing."""
    if names:
        click.echo(
            f"left out, as it may not be passed on: {', '.join(names)}; --not-redistributable takes it along", err=True
        )
