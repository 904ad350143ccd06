"""Reading package-lock.json: what is installed, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.npm_lock import MAX_BYTES, LockedPackage, read_package_lock


def integrity(word: str) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(word.encode()).digest()).decode()


def entry(version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    return {"version": version, "integrity": integrity(version), "resolved": "https://elsewhere.example/x.tgz", **more}


def document(packages: dict[str, Any], root: dict[str, Any] | None = None, **more: Any) -> str:
    wanted = {path.rpartition("node_modules/")[2]: "*" for path in packages if path.count("node_modules/") == 1}
    project = {"name": "page", "devDependencies": wanted} if root is None else root
    return json.dumps({"name": "page", "lockfileVersion": 3, "packages": {"": project, **packages}, **more})


def read(packages: dict[str, Any], root: dict[str, Any] | None = None, exclude: tuple[str, ...] = ()) -> list[str]:
    return [package.path for package in read_package_lock(document(packages, root), "the lock", exclude)]


def refusal(text: str) -> str:
    with pytest.raises(FetchError) as caught:
        read_package_lock(text, "the lock")
    assert caught.value.message.startswith(("read the lock: ", "read locator"))
    return caught.value.reason


def test_a_package_is_what_the_lock_says_but_for_where_it_comes_from() -> None:
    packages = {
        "node_modules/@scope/thing": entry("1.2.3-rc.1", license="MIT", bin={"thing": "./bin/thing.js"}),
    }
    (found,) = read_package_lock(document(packages), "the lock")
    assert found == LockedPackage(
        "node_modules/@scope/thing", found.locator, integrity("1.2.3-rc.1"), "MIT", {"thing": "bin/thing.js"}
    )
    assert str(found.locator) == "npm:@scope/thing@1.2.3-rc.1"


def test_a_package_under_another_name_is_looked_for_under_its_own() -> None:
    packages = {"node_modules/string-width-cjs": entry("4.2.3", name="string-width")}
    (found,) = read_package_lock(document(packages), "the lock")
    assert (found.path, str(found.locator)) == ("node_modules/string-width-cjs", "npm:string-width@4.2.3")


@pytest.mark.parametrize(
    ("platform", "installed"),
    [
        ({}, True),
        ({"os": ["linux"], "cpu": ["x64"], "libc": ["glibc"]}, True),
        ({"os": "linux"}, True),
        ({"os": ["any"]}, True),
        ({"os": ["!win32"]}, True),
        ({"os": ["darwin", "linux"], "cpu": ["!arm64"]}, True),
        ({"os": ["darwin"]}, False),
        ({"os": ["!linux"]}, False),
        ({"cpu": ["arm64"]}, False),
        ({"cpu": ["wasm32"]}, False),
        ({"libc": ["musl"]}, False),
    ],
)
def test_of_optional_packages_those_for_our_platform_are_installed(platform: dict[str, Any], installed: bool) -> None:
    packages = {"node_modules/native": entry(optional=True, **platform)}
    assert read(packages) == (["node_modules/native"] if installed else [])


def test_what_only_a_package_for_another_platform_needs_is_not_installed() -> None:
    packages = {
        "node_modules/native-win": entry(optional=True, os=["win32"], dependencies={"registry": "*"}),
        "node_modules/registry": entry(optional=True),
    }
    assert read(packages, {"optionalDependencies": {"native-win": "*"}}) == []


def test_a_needed_package_for_another_platform_is_refused() -> None:
    assert refusal(document({"node_modules/fsevents": entry(os=["darwin"])})) == "npm-lock-platform"


def test_dependencies_are_those_that_node_would_find() -> None:
    """b is found beside its user first, then further out; nothing else is installed."""
    packages = {
        "node_modules/a": entry(dependencies={"b": "*", "c": "*"}),
        "node_modules/a/node_modules/b": entry("2.0.0", dependencies={"c": "*"}),
        "node_modules/b": entry("1.0.0"),
        "node_modules/c": entry(),
        "node_modules/nobody": entry(),
    }
    assert read(packages, {"dependencies": {"a": "*"}}) == [
        "node_modules/a",
        "node_modules/a/node_modules/b",
        "node_modules/c",
    ]


def test_peers_are_installed_unless_they_are_optional_or_left_out() -> None:
    packages = {
        "node_modules/a": entry(
            peerDependencies={"b": "*", "c": "*", "absent": "*"}, peerDependenciesMeta={"c": {"optional": True}}
        ),
        "node_modules/b": entry(),
        "node_modules/c": entry(),
    }
    assert read(packages, {"dependencies": {"a": "*"}}) == ["node_modules/a", "node_modules/b"]


def test_circles_of_packages_are_installed_once() -> None:
    packages = {
        "node_modules/a": entry(dependencies={"b": "*"}),
        "node_modules/b": entry(dependencies={"a": "*"}),
    }
    assert read(packages) == ["node_modules/a", "node_modules/b"]


def test_excluded_names_are_left_out_with_all_that_only_they_need() -> None:
    packages = {
        "node_modules/@test/runner": entry(dependencies={"shared": "*", "browser": "*"}),
        "node_modules/browser": entry(),
        "node_modules/shared": entry(),
        "node_modules/page": entry(dependencies={"shared": "*"}),
    }
    assert read(packages, {"dependencies": {"@test/runner": "*", "page": "*"}}, ("@test/*",)) == [
        "node_modules/page",
        "node_modules/shared",
    ]


def test_links_workspaces_and_what_lies_in_other_tarballs_are_no_sources() -> None:
    packages = {
        "node_modules/mine": {"resolved": "packages/mine", "link": True},
        "packages/mine": {"version": "1.0.0"},
        "node_modules/npm": entry(dependencies={"bundled": "*"}),
        "node_modules/npm/node_modules/bundled": {"version": "1.0.0", "inBundle": True},
    }
    assert read(packages, {"dependencies": {"mine": "*", "npm": "*"}}) == ["node_modules/npm"]


@pytest.mark.parametrize("given", [None, "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "sha512-", "sha512-AAAA", "md5-x"])
def test_a_package_without_a_strong_hash_is_refused(given: str | None) -> None:
    package = {"version": "1.0.0", "resolved": "git+ssh://git@example.org/x.git#abc"}
    assert refusal(document({"node_modules/x": {**package, **({"integrity": given} if given else {})}})) == (
        "npm-lock-no-integrity"
    )


def test_of_several_hashes_the_sha512_counts() -> None:
    (found,) = read_package_lock(
        document({"node_modules/x": entry(integrity=f"sha1-AAAA {integrity('x')}")}), "the lock"
    )
    assert found.integrity == integrity("x")


@pytest.mark.parametrize(
    "path",
    [
        "node_modules/../../etc",
        "node_modules/a/../b",
        "node_modules/.bin",
        "node_modules/a/node_modules/..",
        "node_modules/a\n",
        "node_modules/@scope",
        "node_modules/" + "a" * 1100,
        "node_modules/a" + "/node_modules/a" * 60,
    ],
)
def test_a_place_outside_of_node_modules_is_refused(path: str) -> None:
    name = path.removeprefix("node_modules/")
    assert refusal(document({path: entry()}, {"dependencies": {name: "*"}})) == "npm-lock-bad-path"


def test_only_places_in_node_modules_are_looked_at() -> None:
    packages = {"elsewhere/a": entry(), "/node_modules/c": entry("2.0.0"), "node_modules/c": entry()}
    assert read(packages, {"dependencies": {"c": "*"}}) == ["node_modules/c"]


@pytest.mark.parametrize(
    "bins",
    [
        {"a/b": "x.js"},
        {"..": "x.js"},
        {"": "x.js"},
        {"-rf": "x.js"},
        {"x": "../x.js"},
        {"x": "/bin/sh"},
        {"x": "a/../../x"},
        {"x": "."},
        {"x": ""},
        {"x": "x\n"},
        "x.js",
    ],
)
def test_a_command_that_is_no_file_of_its_package_is_refused(bins: Any) -> None:
    assert refusal(document({"node_modules/x": entry(bin=bins)})) == "npm-lock-malformed"


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("", "locator-invalid"),
        ("latest", "locator-invalid"),
        ("1.0.0/../2", "locator-invalid"),
        (1, "npm-lock-malformed"),
    ],
)
def test_a_version_that_is_none_is_refused(version: Any, reason: str) -> None:
    assert refusal(document({"node_modules/x": {**entry(), "version": version}})) == reason


@pytest.mark.parametrize("version", [1, 2, 4, "3", None, True, 3.5])
def test_other_formats_of_the_lock_are_refused(version: Any) -> None:
    assert refusal(document({}, lockfileVersion=version)) == "npm-lock-version"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[" * 100_000,
        '{"lockfileVersion": 3, "lockfileVersion": 3, "packages": {"": {}}}',
        '{"lockfileVersion": 3, "packages": {"": {}, "node_modules/a": {}, "node_modules/a": {}}}',
        '{"lockfileVersion": 3, "packages": {}}',
        '{"lockfileVersion": 3, "packages": {"": {"dependencies": ["a"]}}}',
        '{"lockfileVersion": 3}',
    ],
)
def test_what_is_no_lock_is_refused(text: str) -> None:
    assert refusal(text) == "npm-lock-malformed"


def test_what_is_json_but_no_object_is_refused() -> None:
    assert refusal("[]") == "npm-lock-version"


def test_a_lock_that_lacks_a_dependency_is_refused() -> None:
    assert refusal(document({"node_modules/a": entry(dependencies={"b": "*"})})) == "npm-lock-incomplete"
    assert read({"node_modules/a": entry(dependencies={"b": "*"}, optionalDependencies={"b": "*"})}) == [
        "node_modules/a"
    ]


def test_a_lock_beyond_all_measure_is_refused() -> None:
    assert refusal(" " * (MAX_BYTES + 1)) == "npm-lock-too-large"


@pytest.mark.parametrize(
    ("given", "licence"),
    [
        ("MIT", "MIT"),
        ({"type": "ISC"}, "ISC"),
        (["MIT"], ""),
        (None, ""),
        ("a\nb", ""),
        ("'''", "'''"),
        ("x" * 999, ""),
    ],
)
def test_a_licence_is_one_printable_line_or_nothing(given: Any, licence: str) -> None:
    (found,) = read_package_lock(document({"node_modules/x": entry(license=given)}), "the lock")
    assert found.licence == licence
