"""`forge completion SHELL`: the script that makes a shell complete forge's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete forge's commands and options.

    \b
    bash, in ~/.bashrc:  eval "$(forge completion bash)"
    zsh, in ~/.zshrc:    eval "$(forge completion zsh)"
    fish:                forge completion fish > ~/.config/fish/completions/forge.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    # The variable is the one that click derives from the program's name.
    click.echo(kind(context.find_root().command, {}, "forge", "_FORGE_COMPLETE").source())
