"""What the recipe function `apply_patches` runs in the sandbox: a source tree in, the tree with our changes on it out.

    python3 patcher.py SOURCE PATCHES OUT

A folder of patches holds `*.patch` files, applied in the order of their names, and perhaps `files/`, whole new files
at the paths they have in the tree. Each patch begins with a head: lines `Subject:`, `Why:` and `Upstream:`.

A patch that does not apply leaves the others to be tried, so that one run tells of all of them; what fits of it is
applied, so that those after it fail for reasons of their own. Ends with 1 and a summary, one indented line per file
and hunk, if anything is wrong. Standard library only, and GNU patch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SUMMARY = "patches that do not apply:"
FIELDS = ("Subject", "Why", "Upstream")
NEW_FILES = "files"
# Nothing is guessed: no other context than the patch's, no other format, no question, no file taken from elsewhere.
PATCH = ("patch", "--unified", "--strip=1", "--fuzz=0", "--force", "--binary", "--get=0", "--no-backup-if-mismatch")

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_PATCHED = re.compile(r"(?:patching|checking) (?:file|symbolic link) (.*?)(?: \((?:renamed|copied) from .*\))?")
_FAILED = re.compile(r"Hunk #(\d+) FAILED")


@dataclass(slots=True)
class Hunk:
    """One change to a file: its header, and where it stands in the patch."""

    header: str
    line: int


@dataclass(slots=True)
class Section:
    """What a patch does to one file, named as in the tree; `new` if the patch makes it."""

    path: str
    new: bool
    hunks: list[Hunk] = field(default_factory=list)


def main(source: Path, patches: Path, out: Path) -> int:
    """Make the patched tree at `out`; 0, or 1 after a summary of what is wrong."""
    names = sorted((path.name for path in patches.iterdir()), key=lambda name: (name == NEW_FILES, name))
    wrong = {name: found for name in names if (found := list(refusals(patches / name)))}
    if not wrong:
        shutil.copytree(source, out, symlinks=True)
        make_writable(out)
        for name in names:
            if found := list(apply(patches / name, out)):
                wrong[name] = found
    if wrong:
        print("\n".join(summary(wrong, patches)))
    return 1 if wrong else 0


def summary(wrong: Mapping[str, list[str]], patches: Path) -> Iterator[str]:
    """The lines that a maintainer is to read: each patch that does not apply, and below it where and why."""
    yield f"\n{SUMMARY}"
    for name, reasons in wrong.items():
        subject = read_head(patches / name).get("Subject", "") if (patches / name).is_file() else ""
        yield f"  {name}{f' ({subject})' if subject else ''}"
        yield from (f"    {reason}" for reason in reasons)


def refusals(path: Path) -> Iterator[str]:
    """Why this member of a folder of patches is none, before anything is tried."""
    if path.is_symlink() or path.is_dir() != (path.name == NEW_FILES):
        yield f"not a regular file, or {NEW_FILES} is no folder"
    elif path.name == NEW_FILES:
        yield from (f"{file}: not a regular file" for file in walk(path) if (path / file).is_symlink())
    elif path.suffix == ".patch":
        missing = [name for name in FIELDS if not read_head(path).get(name)]
        if missing:
            yield f"its head, the text above the first file, has no {', '.join(f'{name}:' for name in missing)}"
        yield from (f"{one.path}: no hunk (@@ … @@)" for one in read_sections(path) if not one.hunks)
    elif path.name != "README.md":
        yield f"neither a patch (*.patch) nor {NEW_FILES}/"


def read_head(patch: Path) -> dict[str, str]:
    """The fields of the head: `Subject` with what stands after the colon, and so on."""
    lines = read_lines(patch)
    head: dict[str, str] = {}
    for index, line in enumerate(lines):
        if line.startswith("diff --git ") or starts_section(lines, index):
            break
        name, colon, value = line.partition(":")
        if colon and name in FIELDS and value.strip():
            head.setdefault(name, value.strip())
    return head


def read_sections(patch: Path) -> list[Section]:
    """What a unified diff does to which file; of what cannot be understood, `patch` itself will tell."""
    lines = read_lines(patch)
    sections: list[Section] = []
    index = 0
    while index < len(lines):
        if starts_section(lines, index):
            sections.append(section(lines[index], lines[index + 1]))
            index += 2
        elif sections and (match := _HUNK.match(lines[index])):
            sections[-1].hunks.append(Hunk(lines[index], index + 1))
            old, new = (1 if count is None else int(count) for count in match.groups())
            index = end_of_hunk(lines, index + 1, old, new)
        else:
            index += 1
    return sections


def starts_section(lines: list[str], index: int) -> bool:
    """Whether the two lines that name a file, before and after, stand here."""
    return lines[index].startswith("--- ") and "".join(lines[index + 1 : index + 2]).startswith("+++ ")


def section(before: str, after: str) -> Section:
    """The section below the lines `--- a/x` and `+++ b/x`."""
    names = [line[4:].split("\t")[0].strip() for line in (before, after)]
    name = names[0] if names[1] == "/dev/null" else names[1]
    return Section(name.partition("/")[2], new=names[0] == "/dev/null")


def end_of_hunk(lines: list[str], index: int, old: int, new: int) -> int:
    """Where a hunk with so many lines of the old file and of the new one ends: `---` may be a line that it removes."""
    while index < len(lines) and (old > 0 or new > 0):
        kind = lines[index][:1]
        if kind not in ("", " ", "-", "+", "\\"):
            break
        old -= kind in ("", " ", "-")
        new -= kind in ("", " ", "+")
        index += 1
    return index


def read_lines(patch: Path) -> list[str]:
    """The lines of a patch, for reading; what is not UTF-8 is replaced."""
    return patch.read_bytes().decode("utf-8", "replace").split("\n")


def make_writable(tree: Path) -> None:
    """A tree from a store is read-only; let its owner write to all of it."""
    for folder, _, files in os.walk(tree):
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o200)


def apply(path: Path, tree: Path) -> Iterator[str]:
    """Apply one member of the folder of patches; what went wrong, nothing if it is all there now."""
    if path.name == NEW_FILES:
        for name in walk(path):
            yield from add_file(path / name, tree, name)
    elif path.suffix == ".patch":
        yield from apply_patch(path, tree)


def apply_patch(patch: Path, tree: Path) -> list[str]:
    """Apply one patch, as far as it applies; where it does not."""
    sections = read_sections(patch)
    if run_patch(patch, tree, "--dry-run").returncode and not run_patch(patch, tree, "--dry-run", "-R").returncode:
        print(f"{patch.name}: NOT NEEDED")
        return ["the source has all of it already: upstream may have taken it"]
    absent = [f"{one.path}: the file is not there" for one in sections if not one.new and is_absent(tree / one.path)]
    done = run_patch(patch, tree)
    print(f"{patch.name}: {'DOES NOT APPLY' if done.returncode else 'applied'}")
    if done.returncode == 0:
        return []
    print("".join(f"    {line}\n" for line in done.stdout.splitlines()), end="")
    return [*absent, *failures(sections, done.stdout)] or [done.stdout.strip().replace("\n", "; ")]


def is_absent(path: Path) -> bool:
    """Whether nothing of that name is there, not even a link."""
    return not os.path.lexists(path)


def run_patch(patch: Path, tree: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """GNU patch, with all that it says in one stream."""
    return subprocess.run(
        [*PATCH, *more, f"--directory={tree}", f"--input={patch.absolute()}"],
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def failures(sections: list[Section], said: str) -> Iterator[str]:
    """Where a patch failed, by file and hunk, from what `patch` said of it."""
    at: Section | None = None
    for line in said.splitlines():
        if match := _PATCHED.fullmatch(line):
            name = match[1].strip("'")
            at = next((one for one in sections if one.path == name), None)
        elif (match := _FAILED.match(line)) and at and int(match[1]) <= len(at.hunks):
            hunk = at.hunks[int(match[1]) - 1]
            yield f"{at.path}: hunk {match[1]} of {len(at.hunks)}, line {hunk.line} of the patch: {hunk.header}"
        elif line.startswith(("File ", "Invalid ", "Ignoring ", "patch: ****")):
            yield line


def walk(folder: Path) -> list[str]:
    """The files below a folder, sorted, as paths relative to it."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def add_file(file: Path, tree: Path, name: str) -> Iterator[str]:
    """Put a file of ours into the tree; why not, if something is there already or a link leads elsewhere."""
    target = tree / name
    behind = [parent for parent in Path(name).parents if (tree / parent).is_symlink()]
    if behind:
        yield f"{name}: the source has a symbolic link at {behind[0]}"
    elif any((tree / parent).is_file() for parent in Path(name).parents):
        yield f"{name}: the source has a file where a folder is needed"
    elif os.path.lexists(target):
        yield f"{name}: the source has a file of that name"
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        print(f"{NEW_FILES}/{name}: added")


if __name__ == "__main__":
    raise SystemExit(main(*(Path(argument) for argument in sys.argv[1:4])))
