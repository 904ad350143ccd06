"""Values: canonical bytes, trees, derivations, the lock file."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.errors import ForgeError
from mmojo_forge.model import canonical
from mmojo_forge.model.canonical import Json
from mmojo_forge.model.derivation import REPRODUCIBLE, Derivation, DerivationError, Input, Label, Source, action_key
from mmojo_forge.model.digest import BlobDigest, Sha256, TreeId, blake3_hex
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry, TreeError

ZERO = BlobDigest("0" * 64)
ONE = BlobDigest("1" * 64)

NO_SURROGATES: tuple[Literal["Cs"], ...] = ("Cs",)
names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=NO_SURROGATES), min_size=1, max_size=8
).filter(lambda name: name not in {".", ".."})
json_values: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=NO_SURROGATES)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    layout: dict[str, TreeEntry] = {}
    for parts in draw(st.lists(st.lists(names, min_size=1, max_size=4), max_size=12)):
        parents = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        if any(layout[parent].kind is not EntryKind.DIRECTORY for parent in parents if parent in layout):
            continue
        for parent in parents:
            layout.setdefault(parent, TreeEntry(parent, EntryKind.DIRECTORY))
        path = "/".join(parts)
        kind = draw(st.sampled_from(EntryKind))
        digest = ZERO if kind in {EntryKind.FILE, EntryKind.EXECUTABLE} else None
        target = "x" if kind is EntryKind.SYMLINK else None
        size = draw(st.integers(0, 2**40)) if digest else 0
        layout.setdefault(path, TreeEntry(path, kind, digest, size, target))
    return Tree.of(layout.values())


@given(json_values)
def test_canonical_bytes_are_json_that_reads_back(value: Json) -> None:
    assert json.loads(canonical.encode(value)) == value


@given(st.dictionaries(st.text(st.characters(max_codepoint=127)), st.integers(0, 9)))
def test_key_order_does_not_matter(value: dict[str, int]) -> None:
    assert canonical.encode(value) == canonical.encode(dict(reversed(value.items())))


def test_canonical_bytes_follow_rfc_8785() -> None:
    """The string of the RFC's section 3.2.3 example, and control characters as 3.2.2.2 wants them."""
    value = {"string": '€$\u000f\nA\'B"\\\\"/', "literals": [None, True, False]}
    expected = '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical.encode(value) == expected.encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1.5, "canonical-type"),
        (2**53, "canonical-integer"),
        ({"é": 1}, "canonical-key"),
        ("\ud800", "canonical-surrogate"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Json, reason: str) -> None:
    with pytest.raises(ForgeError) as caught:
        canonical.encode(value)
    assert caught.value.reason == reason


@pytest.mark.parametrize("keys", [("b", "a"), ("a", "é")])
def test_a_template_with_keys_out_of_canonical_order_is_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(ForgeError) as caught:
        canonical.template(*keys)
    assert caught.value.reason == "canonical-key"


@given(trees())
def test_a_tree_reads_back_from_its_manifest(tree: Tree) -> None:
    assert Tree.parse(tree.encode()) == tree
    assert Tree.parse(tree.encode()).id == tree.id == blake3_hex(tree.encode())


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([TreeEntry("a/b", EntryKind.DIRECTORY)], "tree-no-parent"),
        ([TreeEntry("a", EntryKind.FILE, ZERO, 1), TreeEntry("a/b", EntryKind.FILE, ZERO, 1)], "tree-no-parent"),
        ([TreeEntry("/etc", EntryKind.DIRECTORY)], "tree-bad-name"),
        ([TreeEntry("..", EntryKind.DIRECTORY)], "tree-bad-name"),
        ([TreeEntry("a\0b", EntryKind.DIRECTORY)], "tree-bad-name"),
        ([TreeEntry("\udcff", EntryKind.DIRECTORY)], "tree-bad-name"),
        ([TreeEntry("x" * 256, EntryKind.DIRECTORY)], "tree-bad-name"),
        ([TreeEntry("a", EntryKind.DIRECTORY), TreeEntry("a", EntryKind.DIRECTORY)], "tree-order"),
        ([TreeEntry("a", EntryKind.SYMLINK, target="/etc/passwd")], "symlink-absolute"),
        ([TreeEntry("a", EntryKind.SYMLINK, target="../x")], "symlink-escapes"),
        ([TreeEntry("a", EntryKind.SYMLINK, target="")], "symlink-bad-target"),
        (
            [
                TreeEntry("d", EntryKind.DIRECTORY),
                TreeEntry("d/e", EntryKind.DIRECTORY),
                TreeEntry("d/e/up", EntryKind.SYMLINK, target="../.."),
                TreeEntry("escape", EntryKind.SYMLINK, target="d/e/up/../x"),
            ],
            "symlink-escapes",
        ),
        ([TreeEntry("a", EntryKind.FILE)], "tree-entry"),
        ([TreeEntry("a", EntryKind.DIRECTORY, ZERO, 1)], "tree-entry"),
        ([TreeEntry("a", EntryKind.FILE, BlobDigest("xyz"), 1)], "tree-entry"),
    ],
)
def test_a_tree_that_cannot_be_a_store_object_is_refused(entries: list[TreeEntry], reason: str) -> None:
    with pytest.raises(TreeError) as caught:
        Tree.of(entries)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (b"", "tree-malformed"),
        (b"[" * 100_000, "tree-malformed"),
        (b'{"entries":[["","d"]],"schema":2}', "tree-schema"),
        (b'{"schema":1,"entries":[["","d"]]}', "tree-not-canonical"),
        (b'{"entries":[["","d"],[1,"d"]],"schema":1}', "tree-malformed"),
        (b'{"entries":[["","z"]],"schema":1}', "tree-malformed"),
    ],
)
def test_a_manifest_that_is_not_canonical_is_refused(manifest: bytes, reason: str) -> None:
    with pytest.raises(TreeError) as caught:
        Tree.parse(manifest)
    assert caught.value.reason == reason


def source(name: str, digest: BlobDigest = ZERO) -> Source:
    return Source(name, f"url:https://example.org/{name}", digest, 3, Sha256("2" * 64))


def step(name: str, env: dict[str, str] | None = None, **inputs: Source | Derivation) -> Derivation:
    edges = {key: Input(node, "out", f"/forge/{key}") for key, node in inputs.items()}
    return Derivation(name, "/bin/sh", ("-c", "true"), env or {}, edges)


def test_a_derivation_id_depends_on_the_whole_graph_and_a_key_only_on_what_inputs_came_to() -> None:
    base, changed = step("base"), step("base", env={"COMMENT": "another"})
    above, above_changed = step("top", base=base), step("top", base=changed)
    assert above.id != above_changed.id
    built = {"base": TreeId("3" * 64)}
    assert action_key(above.preimage(built)) == action_key(above_changed.preimage(built))
    assert action_key(above.preimage(built)) != action_key(above.preimage({"base": TreeId("4" * 64)}))


def test_a_derivations_bytes_are_canonical_json_of_all_that_it_is() -> None:
    low = Derivation("low", "x", (), {}, {}, outputs=("out", "dev"), label=Label((("os", "naïve"),)))
    edges = {"low": Input(low, "dev", '/usr "low"'), "a": Input(source("a"), "out", "/forge/a")}
    node = Derivation("top", "/bin/sh", ("-c", "a\n"), {"Z": "%s", "A": "é"}, edges)
    expected: Json = {
        "args": ["-c", "a\n"],
        "builder": "/bin/sh",
        "env": {"A": "é", "Z": "%s"},
        "inputs": {
            "a": {"at": "/forge/a", "tree": source("a").tree},
            "low": {"at": '/usr "low"', "derivation": low.id, "output": "dev"},
        },
        "label": {"facts": {"os": "naïve"}, "reproducible": False},
        "name": "top",
        "outputs": ["out"],
        "schema": 1,
        "system": "x86_64-linux",
    }
    assert node.encode() == canonical.encode(expected)
    assert node.id == blake3_hex(node.encode())


def test_the_locator_of_a_source_is_no_part_of_any_identity() -> None:
    there, elsewhere = source("a"), Source("a", "url:https://mirror.example/a", ZERO, 3, Sha256("2" * 64))
    assert step("top", a=there).id == step("top", a=elsewhere).id


def test_limits_and_parallelism_are_no_part_of_the_identity() -> None:
    assert Derivation("a", "b", (), {}, {}, parallel=True).id == Derivation("a", "b", (), {}, {}).id


def test_a_host_specific_input_labels_all_above_it() -> None:
    host = Derivation("native", "/bin/sh", (), {}, {}, label=Label((("cpu.model", "x"),)))
    above = step("top", low=step("middle", native=host))
    assert above.label == Label((("cpu.model", "x"),))
    assert not above.label.reproducible
    assert step("other").label is REPRODUCIBLE


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Derivation("a/b", "x", (), {}, {}), "derivation-bad-name"),
        (lambda: Derivation("a", "x", (), {}, {}, outputs=()), "derivation-bad-output"),
        (lambda: Derivation("a", "x", (), {}, {}, outputs=("o", "o")), "derivation-bad-output"),
        (lambda: Derivation("a", "x", (), {"A=B": ""}, {}), "derivation-bad-env"),
        (lambda: Derivation("a", "x", (), {}, {"b": Input(source("s"), "out", "relative")}), "derivation-bad-input"),
        (lambda: Derivation("a", "x", (), {}, {"b": Input(source("s"), "out", "/a/../b")}), "derivation-bad-input"),
        (lambda: Derivation("a", "x", (), {}, {"b": Input(step("s"), "dev", "/b")}), "derivation-no-such-output"),
    ],
)
def test_a_build_step_that_cannot_be_described_is_refused(make: object, reason: str) -> None:
    assert callable(make)
    with pytest.raises(DerivationError) as caught:
        make()
    assert caught.value.reason == reason
