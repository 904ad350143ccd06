"""The own key and the lists of trusted ones."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmojo_forge.engine.trust.keys import KeyRing, KeysError
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.signature import PrivateKey


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    (tmp_path / "workspace").mkdir()
    return KeyRing(tmp_path / "config", tmp_path / "workspace")


def other(name: str = "bob") -> PrivateKey:
    return PrivateKey.generate(name)


def test_the_own_key_is_made_once_and_read_by_nobody_else(ring: KeyRing) -> None:
    first = ring.own()
    assert ring.own() == first
    assert stat.S_IMODE(ring.own_file.stat().st_mode) == 0o600
    assert [path.name for path in ring.folder.iterdir()] == ["builder.key"]


def test_first_starts_at_once_come_to_the_same_key(ring: KeyRing) -> None:
    with ThreadPoolExecutor(1) as pool:
        keys = list(pool.map(lambda _: KeyRing(ring.folder, ring.workspace).own(), range(4)))
    assert len(set(keys)) == 1


def test_a_key_with_a_name_replaces_none(ring: KeyRing) -> None:
    ring.own()
    with pytest.raises(KeysError) as caught:
        ring.generate("alice")
    assert caught.value.reason == "key-exists"


def test_the_own_key_is_trusted_once_it_is_there(ring: KeyRing) -> None:
    assert ring.trusted() == []
    assert ring.own().public in ring.trusted()


@pytest.mark.parametrize("for_all", [True, False])
def test_a_trusted_key_counts_until_it_is_revoked(ring: KeyRing, for_all: bool) -> None:
    bob = other().public
    path = ring.trust(bob, for_all=for_all)
    assert path.parent == (ring.workspace if for_all else ring.folder)
    assert ring.trusted() == [bob]
    ring.revoke("bob", "stolen")
    assert ring.trusted() == []
    assert [(one.key, one.revoked) for one in ring.listed()] == [(bob, "stolen")]


def test_a_key_revoked_in_one_list_does_not_count_by_the_other(ring: KeyRing) -> None:
    bob = other().public
    ring.trust(bob, for_all=True)
    ring.trust(bob, for_all=False)
    ring.revoke("bob", "")
    assert ring.trusted() == []


def test_the_own_key_can_be_revoked_too(ring: KeyRing) -> None:
    own = ring.own().public
    ring.trust(own, for_all=True)
    ring.revoke(own.name, "left the team")
    assert ring.trusted() == []


def test_revoking_an_unknown_key_is_an_error(ring: KeyRing) -> None:
    with pytest.raises(KeysError) as caught:
        ring.revoke("mallory", "")
    assert caught.value.reason == "no-such-key"


@pytest.mark.parametrize(
    "text", ["key = 1", "[key.bob]\npublic = 3", "[key.bob]\npublic = 'x'\nmore = 1", "[[", "[key.bob]\npublic = 'x'"]
)
def test_a_malformed_list_is_told(ring: KeyRing, text: str) -> None:
    (ring.workspace / "forge.keys").write_text(text)
    with pytest.raises(ForgeError) as caught:
        ring.trusted()
    assert caught.value.reason == "keys-malformed"


@pytest.mark.parametrize("content", [b"", b"bob", b"bob:AAAA\n", b"\xff\xfe", b"b\0b:AAAA"])
def test_an_own_key_that_is_none_is_told_with_its_file_and_stays(ring: KeyRing, content: bytes) -> None:
    ring.folder.mkdir()
    ring.own_file.write_bytes(content)
    with pytest.raises(KeysError) as caught:
        ring.own()
    assert caught.value.reason == "bad-key"
    assert str(ring.own_file) in caught.value.message
    assert ring.own_file.read_bytes() == content


@pytest.mark.parametrize("reason", ["", "left", 'a "quote"', "two\nlines\t\x1b[31m", "it's", "gone \udcff", "$HOME"])
def test_whatever_is_written_to_a_list_can_be_read(ring: KeyRing, reason: str) -> None:
    for name in ("bob", "b.o-b@home+1", "0"):
        ring.trust(other(name).public, for_all=True)
        ring.revoke(name, reason)
    expected = (reason or "revoked").encode("utf-8", "replace").decode()
    assert {one.revoked for one in ring.listed()} == {expected}


def test_a_list_that_is_a_link_stays_one_and_keeps_its_permissions(ring: KeyRing, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles"
    target.write_text("")
    target.chmod(0o640)
    ring.folder.mkdir()
    (ring.folder / "keys.toml").symlink_to(target)
    ring.trust(other().public, for_all=False)
    assert (ring.folder / "keys.toml").is_symlink()
    assert "[key.bob]" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
