"""The linker as a command, for build steps that have this package's source and nothing else.

python3 -m mmojo_forge.ape link SPEC OUT
python3 -m mmojo_forge.ape inspect FILE [--verify]
python3 -m mmojo_forge.ape extract FILE NAME OUT
python3 -m mmojo_forge.ape assimilate FILE SYSTEM [OUT]
python3 -m mmojo_forge.ape append FILE NAME PATH [--mapped]
python3 -m mmojo_forge.ape package ORDER OUT [--format ape|exe|folder|zip|oci|oci-tar]...
python3 -m mmojo_forge.ape image ORDER OUT [--archive] [--tag TAG] [--argument=WORD]...
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmojo_forge.ape.errors import ApeError, OciError
from mmojo_forge.ape.oci.image import ImageOptions, write_packaged_image
from mmojo_forge.ape.packaging.gather import gather
from mmojo_forge.ape.packaging.order import PackageOrder, read_order
from mmojo_forge.ape.packaging.outputs import Format, choose_outputs
from mmojo_forge.ape.packaging.package import plan_package, write_package
from mmojo_forge.ape.read.container import describe, read_container
from mmojo_forge.ape.read.extract import extract
from mmojo_forge.ape.write.edit import append, assimilate
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import expand_asset, read_spec


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m mmojo_forge.ape", description="Links and reads APE files.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("link", help="make an APE from an order")
    command.add_argument("spec", type=Path)
    command.add_argument("out", type=Path)
    command = commands.add_parser("inspect", help="print what an APE holds, as JSON")
    command.add_argument("file", type=Path)
    command.add_argument("--verify", action="store_true", help="read it all and check every hash")
    command = commands.add_parser("extract", help="take out one slice or zip entry")
    command.add_argument("file", type=Path)
    command.add_argument("name")
    command.add_argument("out", type=Path)
    command = commands.add_parser("assimilate", help="make it a native ELF")
    command.add_argument("file", type=Path)
    command.add_argument("system")
    command.add_argument("out", type=Path, nargs="?")
    command = commands.add_parser("append", help="add a file or a folder as assets")
    command.add_argument("file", type=Path)
    command.add_argument("name")
    command.add_argument("path", type=Path)
    command.add_argument("--mapped", action="store_true", help="stored at a 64 KiB boundary")
    command = commands.add_parser("package", help="package models, arguments, pages and files with a program")
    command.add_argument("order", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--format", action="append", choices=[form.value for form in Format], help="ape if not given")
    command = commands.add_parser("image", help="the same as a container image, for each Linux it has slices for")
    command.add_argument("order", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--archive", action="store_true", help="a tar instead of a folder")
    command.add_argument("--tag", default="latest")
    command.add_argument("--argument", action="append", default=[], help="a word that the program is started with")
    return parser


def _run(args: argparse.Namespace) -> None:
    match args.command:
        case "link":
            link(read_spec(args.spec), args.out)
        case "inspect":
            print(json.dumps(describe(read_container(args.file, verify=args.verify)), indent=1))
        case "extract":
            extract(args.file, args.name, args.out)
        case "assimilate":
            assimilate(args.file, args.system, args.out)
        case "append":
            append(args.file, expand_asset(args.name, args.path, mapped=args.mapped))
        case "package":
            _package(read_order(args.order), args.out, args.format or [Format.APE])
        case "image":
            options = ImageOptions(args.tag, command=tuple(args.argument))
            contents = gather(read_order(args.order))
            write_packaged_image(contents, options, args.out, lambda _count: None, archive=args.archive)


def _package(order: PackageOrder, out: Path, formats: Sequence[str]) -> None:
    contents = gather(order)
    outputs = choose_outputs(out, [Format(form) for form in formats], order.name, contents.program)
    # Whoever runs a build syncs what comes out of it.
    write_package(plan_package(contents, outputs), lambda _done, _total: None, durable=False)


def main(argv: Sequence[str]) -> int:
    """Runs one command; 0 when done, 2 with one message when the input is at fault."""
    try:
        _run(_parser().parse_args(argv))
    except (ApeError, OciError) as error:
        print(f"error[{error.reason}]: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
