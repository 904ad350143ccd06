"""The command tree: which commands there are, in which module each lies, and the line of help each has in its group.

A command's module is imported when that command runs. `--help`, `--version` and shell completion answer from the table
alone, for importing every command takes longer than most of them run.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from mmojo_forge import __version__
from mmojo_forge.engine.locations import USER_FOLDER
from mmojo_forge.errors import ExitCode, ForgeError

if TYPE_CHECKING:
    from mmojo_forge.engine.session import UserFolders


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """Where a command is (`module:function` below `mmojo_forge.cli`), or which commands a group has."""

    where: str
    short_help: str
    commands: Mapping[str, CommandEntry] | None = None


_APE: Mapping[str, CommandEntry] = MappingProxyType(
    {
        "inspect": CommandEntry("ape.inspect:inspect", "Show what is in a file."),
        "extract": CommandEntry("ape.extract:extract", "Take out one slice or zip entry, or all."),
        "args": CommandEntry("ape.args:args", "Show or change the arguments in a file."),
        "assimilate": CommandEntry("ape.extract:assimilate", "Write a copy that is a native program."),
    }
)
_CACHE: Mapping[str, CommandEntry] = MappingProxyType(
    {
        "push": CommandEntry("cache.push:push", "Upload built targets to a cache."),
        "pull": CommandEntry("cache.push:pull", "Download targets; build nothing."),
        "status": CommandEntry("cache.status:status", "Show what each cache has."),
        "challenge": CommandEntry("cache.status:challenge", "Rebuild, and compare with the caches."),
        "serve": CommandEntry("cache.serve:serve", "Serve a cache over HTTP."),
        "gc": CommandEntry("cache.gc:gc", "Remove old content from a cache."),
        "key": CommandEntry("cache.key:key", "Manage signing and trusted keys."),
    }
)
_STORE: Mapping[str, CommandEntry] = MappingProxyType(
    {
        "path": CommandEntry("store.transfer:path", "Print where the store or a target lies."),
        "verify": CommandEntry("store.repair:verify", "Compare all content with its hashes."),
        "repair": CommandEntry("store.repair:repair", "Verify, and restore what is damaged."),
        "gc": CommandEntry("store.gc:gc", "Remove what nothing keeps alive."),
        "roots": CommandEntry("store.gc:roots", "List the links that keep results alive."),
        "du": CommandEntry("store.gc:du", "Show how much room the store takes."),
        "export": CommandEntry("store.transfer:export", "Write targets to one file."),
        "import": CommandEntry("store.transfer:import_", "Read a file that export wrote."),
        "add-source": CommandEntry("store.transfer:add", "Add a source that you downloaded."),
    }
)
COMMANDS: Mapping[str, CommandEntry] = MappingProxyType(
    {
        "realize": CommandEntry("target.realize:realize", "Build, download or find targets."),
        "plan": CommandEntry("target.realize:plan", "Show what realize would do."),
        "list": CommandEntry("target.listing:list_", "List all targets."),
        "show": CommandEntry("target.show:show", "Show a target's derivation."),
        "info": CommandEntry("target.show:info", "Show what a finished target or file is."),
        "sbom": CommandEntry("target.sbom:sbom", "Write a target's bill of materials."),
        "log": CommandEntry("target.show:log", "Print the log of a build."),
        "shell": CommandEntry("target.show:shell", "Enter the sandbox of a failed build."),
        "lock": CommandEntry("target.lock:lock", "Pin the sources that recipes declare."),
        "doctor": CommandEntry("target.doctor:doctor", "Check whether this machine can build."),
        "package": CommandEntry("target.package:package", "Pack a server with its model."),
        "ape": CommandEntry("", "Inspect and change packaged files.", _APE),
        "bench": CommandEntry("target.bench:bench", "Measure tokens per second, side by side."),
        "check": CommandEntry("target.check:check", "Rebuild under variations, and compare."),
        "challenge": CommandEntry("cache.status:challenge", "Rebuild, and compare with the caches."),
        "sign": CommandEntry("target.sign:sign", "Sign files."),
        "verify": CommandEntry("target.sign:verify", "Check the signatures of files."),
        "cache": CommandEntry("", "Share results with other builders.", _CACHE),
        "store": CommandEntry("", "Look at the store, and maintain it.", _STORE),
        "completion": CommandEntry("completion:completion", "Print a shell's completion script."),
    }
)
ALIASES: Mapping[str, str] = MappingProxyType({"realise": "realize"})


class LazyGroup(click.Group):
    """A group whose commands are imported when they run, and listed without."""

    def __init__(self, *arguments: Any, entries: Mapping[str, CommandEntry], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._entries = entries

    def list_commands(self, _context: click.Context) -> list[str]:
        """The names in the order of the help."""
        return list(self._entries)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The command, its module imported now."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.commands:
            return LazyGroup(name, entries=entry.commands, help=entry.short_help)
        module, _, function = entry.where.partition(":")
        command = getattr(importlib.import_module(f"mmojo_forge.cli.{module}"), function)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with its line of help; nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.short_help) for name, entry in self._entries.items()])

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands and options that begin with `incomplete`; nothing is imported."""
        names = [name for name in self._entries if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self._entries[name].short_help) for name in names]
        return [*found, *click.Command.shell_complete(self, context, incomplete)]

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; an unknown one is an error that names those nearest to it."""
        if args and args[0] not in self._entries and args[0] not in ALIASES and not args[0].startswith("-"):
            # Imported only to be helpful about a typing error.
            import difflib

            near = difflib.get_close_matches(args[0], self._entries, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", context)
        return super().resolve_command(context, args)


class _Forge(LazyGroup):
    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, ALIASES.get(name, name))


@click.group(
    cls=_Forge,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a build failed, 2 usage or input error, 3 the environment cannot do it.",
)
@click.version_option(__version__, prog_name="forge")
@click.option("-C", "folder", type=click.Path(exists=True, file_okay=False), help="Run as if started in this folder.")
@click.pass_context
def forge(context: click.Context, folder: str | None) -> None:
    """Build single-file LLM servers from llama.cpp, reproducibly and without root."""
    # What a command works with takes longer to import than `--help` takes to print.
    from mmojo_forge.engine.session import Session

    here = Path(folder).resolve() if folder else _current_folder()
    context.obj = Session(dict(os.environ), here, _user_folders)
    context.call_on_close(context.obj.close)


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise ForgeError(
            f"enter the current folder: {error.strerror}",
            detail="Change to a folder that is there, or name one with -C.",
            reason="no-current-folder",
        ) from error


def _user_folders() -> UserFolders:
    """Where the user's configuration and caches lie; raises NoHomeError (`no-home`)."""
    # Not for commands that only look at a file.
    import platformdirs

    from mmojo_forge.engine.session import NoHomeError, UserFolders

    user = platformdirs.PlatformDirs(USER_FOLDER, appauthor=False)
    try:
        return UserFolders(user.user_config_path, user.user_cache_path)
    except RuntimeError as error:
        raise NoHomeError(
            "find the user's configuration: there is no home folder",
            detail="Set HOME, or both XDG_CONFIG_HOME and XDG_CACHE_HOME, to an absolute path.",
            reason="no-home",
        ) from error


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
        click.echo("forge: interrupted", err=True)
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
        click.echo(json.dumps({"error": fields}), err=True)
        return
    marker = "error:"
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        marker = "\033[1;31merror:\033[0m"
    click.echo(f"{marker} {error.message}", err=True)
    for line in error.detail.splitlines():
        click.echo(f"  {line}", err=True)
