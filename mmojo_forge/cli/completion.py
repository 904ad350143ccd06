"""`forge completion SHELL`: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script with which a shell completes forge's commands and options.

    \b
    bash, in ~/.bashrc:
      eval "$(forge completion bash)"
    zsh, in ~/.zshrc:
      eval "$(forge completion zsh)"
    fish, once:
      forge completion fish > ~/.config/fish/completions/forge.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    # click derives the variable's name from the program's: the scripts set it, and `run` looks for it.
    click.echo(kind(context.find_root().command, {}, "forge", "_FORGE_COMPLETE").source())
