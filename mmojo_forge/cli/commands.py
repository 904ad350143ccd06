"""The command tree: one module per command, imported when that command runs."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import click

from mmojo_forge import __version__
from mmojo_forge.cli.context import Context
from mmojo_forge.cli.lazy import LazyGroup
from mmojo_forge.errors import ExitCode, ForgeError

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "realize": "cmd_realize",
        "plan": "cmd_plan",
        "list": "cmd_list",
        "show": "cmd_show",
        "info": "cmd_info",
        "sbom": "cmd_sbom",
        "log": "cmd_log",
        "shell": "cmd_shell",
        "lock": "cmd_lock",
        "doctor": "cmd_doctor",
        "package": "cmd_package",
        "ape": "cmd_ape",
        "bench": "cmd_bench",
        "check": "cmd_check",
        "challenge": "cmd_challenge",
        "sign": "cmd_sign",
        "verify": "cmd_verify",
        "cache": "cmd_cache",
        "store": "cmd_store",
    }
)
ALIASES: Mapping[str, str] = MappingProxyType({"realise": "realize"})


class _Forge(LazyGroup):
    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, ALIASES.get(name, name))

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and args[0] not in ALIASES:
            # Imported only to be helpful about a typing error.
            import difflib

            near = difflib.get_close_matches(args[0], [*COMMANDS, *ALIASES], n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", context)
        return super().resolve_command(context, args)


@click.group(
    cls=_Forge,
    modules=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a build failed, 2 usage or input error, 3 the environment cannot do it.",
)
@click.version_option(__version__, prog_name="forge")
@click.option("-C", "folder", type=click.Path(exists=True, file_okay=False), help="Run as if started in this folder.")
@click.pass_context
def forge(context: click.Context, folder: str | None) -> None:
    """Build single-file LLM servers from llama.cpp, reproducibly and without root."""
    context.obj = Context(dict(os.environ), Path(folder).resolve() if folder else Path.cwd())
    context.call_on_close(context.obj.close)


def run(argv: Sequence[str]) -> int:
    """Run the command; the exit code. Every ForgeError ends here, as text or (with --json) as one JSON line."""
    # Graphs are large, acyclic and live to the end: looking for garbage in them doubles the time of a big plan.
    gc.set_threshold(200_000, 50, 100)
    # A service manager or a CI system that ends us means the same as Ctrl-C: stop the builds, leave a clean store.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = forge.main(args=list(argv), prog_name="forge", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.DONE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return ExitCode.INPUT_ERROR
    except (click.Abort, KeyboardInterrupt):
        print("forge: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; do not let the interpreter complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.DONE
    except ForgeError as error:
        tell(error, as_json="--json" in argv)
        return error.exit_code


def tell(error: ForgeError, *, as_json: bool) -> None:
    """Show an error on stderr."""
    if as_json:
        fields = {"message": error.message, "detail": error.detail, "reason": error.reason}
        print(json.dumps({"error": fields}), file=sys.stderr)
        return
    marker = "error:"
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        marker = "\033[1;31merror:\033[0m"
    print(f"{marker} {error.message}", file=sys.stderr)
    for line in error.detail.splitlines():
        print(f"  {line}", file=sys.stderr)
