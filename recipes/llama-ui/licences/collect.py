"""Collects the licences of what is in a page that was bundled by Vite.

    python3 collect.py BUNDLED PROJECT SITE EXPECTED OUT

BUNDLED lists the files that the bundle is made of, as vite-plugin-bundled.ts writes them; EXPECTED the names of the
packages that the recipe says are in it, one per line. Leaves LICENSES.json and LICENSES.txt in OUT, or ends with 1 and
says which names the recipe has to gain or lose. Standard library only.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "node_modules"
TEXTS = re.compile(r"(?i)(licen[cs]e|copying|notice|unlicense|patents)([.-].*)?")
VENDORED = Path("src", "lib", "vendors")
# Modules that are made during the build, by the package that has their text.
MADE = {"vite/": "vite", "commonjsHelpers.js": "vite", "/@vite-plugin-pwa/": "vite-plugin-pwa"}
WORKBOX = re.compile(r"workbox:([a-z-]+):[0-9]")
PLUGIN = re.compile(r"@plugin\s+['\"]([^'\"]+)['\"]")

Row = dict[str, Any]


def find_packages(bundled: list[str], project: Path, site: Path, locked: dict[str, Row]) -> set[str]:
    """The places of the packages in the page, as package-lock.json has them."""
    places = {place for file in bundled for place in package_of(file, locked)}
    for source in [*site.glob("sw.js"), *site.glob("workbox-*.js")]:
        places.update(f"{FOLDER}/workbox-{part}" for part in WORKBOX.findall(source.read_text()))
    if f"{FOLDER}/workbox-expiration" in places:
        places.add(f"{FOLDER}/idb")
    for style in project.joinpath("src").rglob("*.css"):
        places.update(f"{FOLDER}/{name}" for name in PLUGIN.findall(style.read_text()) if not name.startswith("."))
    return places


def package_of(file: str, locked: dict[str, Row]) -> Iterator[str]:
    """The place of the package that a module is of, if it is of one."""
    for beginning, package in MADE.items():
        if file.startswith(beginning):
            yield f"{FOLDER}/{package}"
    at = file.find(f"/{FOLDER}/")
    if at >= 0:
        parts = file[at + 1 :].split("/")
        places = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
        yield next(place for place in places if place in locked)


def describe(project: Path, place: str, row: Row) -> Row:
    """A package: what package-lock.json says of it, and the licence texts that its publisher packed."""
    folder = project / place
    texts = sorted(path.name for path in folder.iterdir() if path.is_file() and TEXTS.fullmatch(path.name))
    return {
        "name": row.get("name") or place.rpartition(f"{FOLDER}/")[2],
        "version": row["version"],
        "licence": row.get("license", ""),
        "integrity": row["integrity"],
        "texts": [(folder / text).read_text("utf-8", "replace") for text in texts],
    }


def vendored(project: Path) -> Iterator[Row]:
    """What lies in the project's own source tree."""
    for folder in sorted(path for path in project.joinpath(VENDORED).iterdir() if path.is_dir()):
        texts = [path.read_text() for path in sorted(folder.iterdir()) if TEXTS.fullmatch(path.name)]
        yield {"name": folder.name, "version": "", "licence": "", "integrity": "", "texts": texts}


def render(rows: list[Row]) -> str:
    """One file to read: each text once, headed by all that it is for."""
    by_text: dict[str, list[str]] = {}
    for row in rows:
        title = f"{row['name']} {row['version']}".strip()
        for text in row["texts"] or [f"{row['licence']} (the package has no text of it)"]:
            by_text.setdefault(text.strip(), []).append(title)
    parts = sorted((", ".join(titles), text) for text, titles in by_text.items())
    return "\n\n".join(f"{'=' * 100}\n{titles}\n{'=' * 100}\n\n{text}" for titles, text in parts) + "\n"


def differences(found: set[str], expected: set[str]) -> Iterator[str]:
    """What the recipe's list has to gain or lose."""
    yield from (f"in the page, but not in BUNDLED: {name}" for name in sorted(found - expected))
    yield from (f"in BUNDLED, but not in the page: {name}" for name in sorted(expected - found))


def main(bundled: Path, project: Path, site: Path, expected: Path, out: Path) -> int:
    """Collect, compare, write."""
    locked = json.loads((project / "package-lock.json").read_text())["packages"]
    places = find_packages(bundled.read_text().splitlines(), project, site, locked)
    rows = [describe(project, place, locked[place]) for place in sorted(places)]
    wrong = list(differences({row["name"] for row in rows}, set(expected.read_text().split())))
    if wrong:
        print("the recipe's list of what is in the page is wrong:", *wrong, sep="\n  ")
        return 1
    rows = sorted([*rows, *vendored(project)], key=lambda row: (row["name"], row["version"]))
    rows = list({(row["name"], row["version"]): row for row in rows}.values())
    out.mkdir(parents=True)
    listed = [{key: value for key, value in row.items() if key != "texts"} for row in rows]
    (out / "LICENSES.json").write_text(json.dumps({"schema": 1, "packages": listed}, indent=1) + "\n")
    (out / "LICENSES.txt").write_text(render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
