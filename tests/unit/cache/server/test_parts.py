"""What the server of a cache is made of: which paths exist, who may, where it listens, what is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.cache.format import layout
from mmojo_forge.cache.server.failure import RequestRefused, ServeError
from mmojo_forge.cache.server.folder import AREA, Incoming, ServedFolder
from mmojo_forge.cache.server.objects import ObjectKind, folder_at, object_at
from mmojo_forge.cache.server.receiving import Quota
from mmojo_forge.cache.server.server import Address, TlsFiles, listen
from mmojo_forge.cache.server.tokens import Access, Tokens
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from tests.support.cache_serving import READ_TOKEN, TOKEN

HEX = "0123456789abcdef" * 4
SIGNER = "0123456789abcdef"


def failure(work: object) -> str:
    """The reason of the ServeError or Refusal that the work ends with."""
    assert callable(work)
    with pytest.raises((ServeError, RequestRefused)) as failed:
        work()
    assert isinstance(failed.value, ServeError | RequestRefused)
    return failed.value.reason


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "kind", "stored"),
        [
            (layout.INFO, ObjectKind.INFO, ""),
            ("collection.json", ObjectKind.MARK, ""),
            ("collection-unnamed.json", ObjectKind.UNNAMED, ""),
            (layout.tree_path(TreeId(HEX)), ObjectKind.TREES, ""),
            (layout.map_path(TreeId(HEX)), ObjectKind.MAPS, ""),
            (layout.pack_path(HEX), ObjectKind.PACKS, ""),
            (layout.name_path("libstdc++-13.2", TreeId(HEX)), ObjectKind.NAMES, ""),
            (layout.trace_path(ActionKey(HEX), SIGNER), ObjectKind.TRACES, ""),
            (layout.index_path(DerivationId(HEX), SIGNER), ObjectKind.INDEX, ""),
            (f"ac/{HEX}", ObjectKind.RESULTS, f"ac/01/{HEX}"),
            (f"cas/{HEX}", ObjectKind.BLOBS, f"cas/01/{HEX}"),
        ],
    )
    def test_what_the_layout_names_is_an_object(self, path: str, kind: ObjectKind, stored: str) -> None:
        found = object_at(path)
        assert found is not None
        assert (found.kind, found.path, found.stored) == (kind, path, stored or path)

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/",
            "trees",
            f"trees/{HEX}.zst",
            f"trees/02/{HEX}.zst",
            f"trees/01/{HEX}",
            f"trees/01/{HEX}.json",
            f"trees/01/{HEX}.{SIGNER}.zst",
            f"trees/01/{HEX.upper()}.zst",
            f"trees/01/{HEX}.zst/",
            f"trees//01/{HEX}.zst",
            f"/trees/01/{HEX}.zst",
            f"trees/01/{HEX}.zst\n",
            f"trees/01/../01/{HEX}.zst",
            f"trees/01/{'٠' * 64}.zst",
            f"packs/01/{HEX}.zst",
            f"packs/01/.{HEX}",
            f"traces/01/{HEX}.json",
            f"traces/01/{HEX}.{SIGNER}0.json",
            f"names/{HEX}",
            f"names//{HEX}",
            f"names/.hidden/{HEX}",
            f"names/zig-0.15/{HEX}",
            f"names/a/b/{HEX}",
            f"names/../{HEX}",
            f"ac/01/{HEX}",
            f"cas/{HEX}.zst",
            f"cas/{HEX[:-1]}",
            f"cache-info.json/01/{HEX}",
            f"cache-info.json/{HEX}",
            f"other/01/{HEX}",
            f".serving/01/{HEX}",
            f".incoming/{HEX}",
        ],
    )
    def test_everything_else_is_none(self, path: str) -> None:
        assert object_at(path) is None

    @given(st.text("./%\\0123456789abcdefnamesck+-_ \n", max_size=90))
    def test_whatever_is_one_is_plain_names(self, path: str) -> None:
        found = object_at(path)
        for part in (path if found else "cas").split("/"):
            assert part
            assert part[0].isalnum()

    @pytest.mark.parametrize("path", ["names", "names/zig", "names/libstdc++", "trees", "packs/ab", "traces/00"])
    def test_folders_of_the_layout_are_listed(self, path: str) -> None:
        assert folder_at(path)

    @pytest.mark.parametrize(
        "path",
        ["", "ac", "cas", "cas/ab", "cache-info.json", "names/.x", "names/a/b", "packs/xyz", "packs/ab/cd", ".serving"],
    )
    def test_no_others_are(self, path: str) -> None:
        assert not folder_at(path)


class TestTokens:
    def file(self, folder: Path, content: str, mode: int = 0o600) -> Path:
        file = folder / "tokens"
        file.write_text(content)
        file.chmod(mode)
        return file

    def test_those_in_the_file_are_held_and_no_others(self, tmp_path: Path) -> None:
        tokens = Tokens.read(self.file(tmp_path, f"# the builders\n{TOKEN}\n\n  {READ_TOKEN}= # the others\n"))
        assert tokens.holds(TOKEN)
        assert tokens.holds(f"{READ_TOKEN}=")
        assert not tokens.holds(READ_TOKEN)
        assert not tokens.holds("")
        assert not tokens.holds(TOKEN[:-1])

    def test_they_are_not_shown(self, tmp_path: Path) -> None:
        tokens = Tokens([TOKEN])
        assert TOKEN not in repr(tokens)
        assert TOKEN not in str(vars(tokens))

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
    def test_a_file_that_others_may_use_is_refused(self, tmp_path: Path, mode: int) -> None:
        file = self.file(tmp_path, TOKEN, mode)
        assert failure(lambda: Tokens.read(file)) == "serve-tokens"

    @pytest.mark.parametrize(
        "content", ["", "# nothing\n", "short", "with a space in the midst of it", "ü" * 20, "=" * 30]
    )
    def test_a_file_without_proper_tokens_is_refused(self, tmp_path: Path, content: str) -> None:
        file = self.file(tmp_path, content)
        assert failure(lambda: Tokens.read(file)) == "serve-tokens"

    def test_a_file_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        assert failure(lambda: Tokens.read(tmp_path / "none")) == "serve-tokens"
        assert failure(lambda: Tokens.read(tmp_path)) == "serve-tokens"

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            ([], "token-missing"),
            ([""], "token-wrong"),
            (["Bearer"], "token-wrong"),
            (["Bearer wrong-but-of-a-good-length"], "token-wrong"),
            ([f"Basic {TOKEN}"], "token-wrong"),
            ([f"Bearer {READ_TOKEN}"], "token-wrong"),
            ([f"Bearer {TOKEN}, Bearer {TOKEN}"], "token-wrong"),
            ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], "token-wrong"),
        ],
    )
    def test_writing_needs_a_writers_token(self, headers: list[str], reason: str) -> None:
        access = Access(Tokens([TOKEN]), Tokens([READ_TOKEN]))
        assert failure(lambda: access.check_writing(headers)) == reason
        access.check_writing([f"Bearer {TOKEN}"])
        access.check_writing([f"bearer  {TOKEN}"])

    def test_reading_needs_a_token_where_there_are_readers(self) -> None:
        access = Access(Tokens([TOKEN]), Tokens([READ_TOKEN]))
        assert failure(lambda: access.check_reading([])) == "token-missing"
        assert failure(lambda: access.check_reading(["Bearer wrong"])) == "token-wrong"
        access.check_reading([f"Bearer {READ_TOKEN}"])
        access.check_reading([f"Bearer {TOKEN}"])
        Access(Tokens([TOKEN])).check_reading([])

    def test_nobody_writes_where_there_are_no_writers(self) -> None:
        assert failure(lambda: Access().check_writing([f"Bearer {TOKEN}"])) == "token-wrong"


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:80", "::1", 80), ("localhost:65535", "localhost", 65535)],
    )
    def test_it_is_a_host_and_a_port(self, text: str, host: str, port: int) -> None:
        assert Address.parse(text) == Address(host, port)
        assert str(Address.parse(text)) == text

    @pytest.mark.parametrize(
        "text", ["", "8080", ":8080", "host", "host:", "host:65536", "::1:80", "http://host:80", "a b:1"]
    )
    def test_nothing_else_is_one(self, text: str) -> None:
        assert failure(lambda: Address.parse(text)) == "serve-listen"

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
    def test_this_machine_can_be_listened_to(self, host: str) -> None:
        listener, address = listen(Address(host, 0), guarded=False)
        listener.close()
        assert address.host == host
        assert address.port

    @pytest.mark.parametrize("host", ["0.0.0.0", "::"])
    def test_other_addresses_need_protection(self, host: str) -> None:
        assert failure(lambda: listen(Address(host, 0), guarded=False)) == "serve-plain"

    def test_other_addresses_can_be_listened_to_under_protection(self) -> None:
        listener, _ = listen(Address("0.0.0.0", 0), guarded=True)
        listener.close()

    def test_a_port_that_is_taken_is_an_error(self) -> None:
        listener, address = listen(Address("127.0.0.1", 0), guarded=False)
        with listener:
            assert failure(lambda: listen(address, guarded=False)) == "serve-listen"

    def test_a_host_that_is_not_here_is_an_error(self) -> None:
        assert failure(lambda: listen(Address("192.0.2.1", 0), guarded=True)) == "serve-listen"


def test_tls_needs_a_certificate_and_its_key(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    assert failure(TlsFiles(tmp_path / "cert.pem", tmp_path / "none.pem").context) == "serve-tls"


class TestFolder:
    def test_only_a_folder_can_be_served(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert failure(lambda: ServedFolder(tmp_path / "none", make=False)) == "serve-folder"
        assert failure(lambda: ServedFolder(tmp_path / "file", make=False)) == "serve-folder"

    def test_it_is_made_to_be_written(self, tmp_path: Path) -> None:
        folder = ServedFolder(tmp_path / "a" / "b", make=True)
        assert folder.is_there()
        (tmp_path / "a" / "b").rmdir()
        assert not folder.is_there()
        folder.close()

    def test_what_was_left_behind_is_removed_and_what_is_in_use_is_not(self, tmp_path: Path) -> None:
        root = os.open(tmp_path, os.O_RDONLY)
        dead = tmp_path / AREA / "dead"
        dead.mkdir(parents=True)
        (dead / "unfinished").write_bytes(b"x")
        (tmp_path / AREA / "foreign").touch()
        living = Incoming(root)
        name, descriptor = living.create()
        assert not dead.exists()
        second = Incoming(root)
        assert os.stat(name, dir_fd=living.descriptor).st_size == 0
        second.close()
        os.close(descriptor)
        living.close()
        assert [path.name for path in (tmp_path / AREA).iterdir()] == ["foreign"]
        os.close(root)


def test_a_quota_holds_what_is_taken_until_it_is_given_back() -> None:
    quota = Quota(100, 90)
    quota.take(10)
    assert failure(lambda: quota.take(1)) == "full"
    quota.give(5)
    quota.take(5)
    Quota(None).take(1 << 60)
