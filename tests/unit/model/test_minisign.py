"""minisign's keys and signatures: agreed with the stock program both ways, and what is altered is told apart."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.engine.trust.signing import read_private_key, read_public_key, sign_file, signature_path, verify_file
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.minisign import MinisignKey, MinisignSignature, show_id
from mmojo_forge.model.signature import PrivateKey, PublicKey

MINISIGN = shutil.which("minisign")
needs_minisign = pytest.mark.skipif(MINISIGN is None, reason="minisign is not installed: apt-get install minisign")

# RFC 8032, 7.1, test 1.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
ALICE = PrivateKey.parse(f"alice:{base64.b64encode(SEED).decode()}")
BOB = PrivateKey.generate("bob")
TRUSTED = [MinisignKey.of(ALICE.public)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hello.ape"
    path.write_bytes(b"content")
    return path


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(ForgeError) as caught:
        call()
    assert caught.value.message
    return caught.value.reason


def minisign(*arguments: str | Path, expect: int = 0, **more: object) -> str:
    command = [MINISIGN or "minisign", *(str(one) for one in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == expect, done.stderr + done.stdout
    said: str = done.stdout + done.stderr
    return said


def test_what_is_written_is_the_same_each_time_and_readable_by_everybody(file: Path) -> None:
    """Golden: the key's id is made of the key, and nothing of the clock gets in."""
    path = sign_file(file, ALICE)
    assert path == file.with_name("hello.ape.minisig")
    assert path.read_text().splitlines() == [
        "untrusted comment: signature from forge, key 61A254A1DF31FE21",
        "RUQh/jHfoVSiYbktyWO/HD9KjrYD0aeOzM1QbFg85xnyYZhBrZEPXWcXm9m28mWv7RNWsuUsyafucZNoCyuzw9FuCsU4XBDAZA0=",
        "trusted comment: file:hello.ape\thashed",
        "K5AMI0F/IMmm1ZeB2A8eXdH0UpyxV/MXl50Z6rxjtxVn5J+q6EY1mYvwqPgBIgam+w7LIlobU2XH812UeAD+CA==",
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~current_umask()
    again = sign_file(file, ALICE, out=file.with_name("again"))
    assert again.read_bytes() == path.read_bytes()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_the_four_lines_are_those_of_the_format(file: Path) -> None:
    text = sign_file(file, ALICE, comment="version 1").read_text()
    first, signed, third, comment_signed = text.splitlines()
    assert first.startswith("untrusted comment: ")
    assert third == "trusted comment: version 1"
    data = base64.b64decode(signed)
    assert (data[:2], data[2:10], len(data)) == (b"ED", TRUSTED[0].id, 74)
    digest = hashlib.blake2b(b"content", digest_size=64).digest()
    assert ALICE.public.holds(digest, data[10:])
    assert ALICE.public.holds(data[10:] + b"version 1", base64.b64decode(comment_signed))


def test_what_was_signed_is_verified(file: Path) -> None:
    sign_file(file, ALICE, comment="version 1")
    found = verify_file(file, [MinisignKey.of(BOB.public), *TRUSTED])
    assert (found.key.key, found.comment) == (ALICE.public, "version 1")


@needs_minisign
def test_minisign_verifies_what_we_signed(file: Path) -> None:
    sign_file(file, ALICE, comment="größe 漢字")
    assert "größe 漢字" in minisign("-V", "-P", TRUSTED[0].text, "-m", file)
    public = file.with_name("key.pub")
    public.write_text(TRUSTED[0].dump())
    minisign("-V", "-H", "-p", public, "-m", file)
    file.write_bytes(b"c0ntent")
    minisign("-V", "-p", public, "-m", file, expect=1)


@needs_minisign
def test_minisign_names_the_key_as_we_do(file: Path) -> None:
    sign_file(file, BOB)
    assert show_id(MinisignKey.of(BOB.public).id) in minisign("-V", "-P", TRUSTED[0].text, "-m", file, expect=1)


@pytest.fixture
def theirs(tmp_path: Path) -> MinisignKey:
    """A key that minisign made, without a password."""
    minisign("-G", "-W", "-p", tmp_path / "their.pub", "-s", tmp_path / "their.key")
    return read_public_key(str(tmp_path / "their.pub"))


@needs_minisign
def test_we_verify_what_minisign_signed(file: Path, theirs: MinisignKey) -> None:
    minisign("-S", "-W", "-s", file.with_name("their.key"), "-t", "a comment", "-m", file)
    found = verify_file(file, [*TRUSTED, theirs])
    assert (found.key, found.comment) == (theirs, "a comment")
    line = file.with_name("their.pub").read_text().splitlines()[1]
    assert read_public_key(line) == theirs
    # Windows' line ends.
    path = signature_path(file)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert verify_file(file, [theirs]).comment == "a comment"


@needs_minisign
def test_the_older_kind_of_signature_is_refused(file: Path, theirs: MinisignKey) -> None:
    minisign("-S", "-W", "-l", "-s", file.with_name("their.key"), "-m", file)
    minisign("-V", "-p", file.with_name("their.pub"), "-m", file)
    assert reason_of(lambda: verify_file(file, [theirs])) == "legacy-signature"


def test_an_altered_file_is_refused(file: Path) -> None:
    sign_file(file, ALICE)
    for content in (b"Content", b"content ", b"conten", b""):
        file.write_bytes(content)
        assert reason_of(lambda: verify_file(file, TRUSTED)) == "bad-signature"


def rewrite(file: Path, number: int, change: Callable[[str], str]) -> None:
    path = signature_path(file)
    lines = path.read_text().splitlines()
    lines[number] = change(lines[number])
    path.write_text("\n".join(lines) + "\n")


def flip(at: int) -> Callable[[str], str]:
    def change(line: str) -> str:
        data = bytearray(base64.b64decode(line))
        data[at] ^= 1
        return base64.b64encode(data).decode()

    return change


@pytest.mark.parametrize(
    "number, change, reason",
    [
        (0, lambda _: "untrusted comment: whatever", None),
        (0, lambda _: "something", "signature-malformed"),
        (1, flip(0), "signature-malformed"),
        (1, flip(2), "unknown-signer"),
        (1, flip(10), "bad-signature"),
        (1, flip(73), "bad-signature"),
        (1, lambda line: line[:-4], "signature-malformed"),
        (1, lambda line: line + "!", "signature-malformed"),
        (2, lambda line: line + ".", "bad-comment-signature"),
        (2, lambda _: "trusted comment: ", "bad-comment-signature"),
        (2, lambda _: "comment", "signature-malformed"),
        (3, flip(5), "bad-comment-signature"),
        (3, lambda line: line[4:], "signature-malformed"),
        (3, lambda line: line + "\nmore", "signature-malformed"),
    ],
)
def test_an_altered_signature_is_refused(
    file: Path, number: int, change: Callable[[str], str], reason: str | None
) -> None:
    sign_file(file, ALICE)
    rewrite(file, number, change)
    if reason is None:
        verify_file(file, TRUSTED)
    else:
        assert reason_of(lambda: verify_file(file, TRUSTED)) == reason


def test_another_files_signature_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    sign_file(tmp_path / "other", ALICE, out=signature_path(file))
    assert reason_of(lambda: verify_file(file, TRUSTED)) == "bad-signature"


def test_a_comment_of_another_signature_of_the_same_key_is_refused(file: Path, tmp_path: Path) -> None:
    """The comment's signature covers the file's: comments cannot be exchanged between files."""
    (tmp_path / "other").write_bytes(b"other")
    sign_file(file, ALICE, comment="one")
    other = sign_file(tmp_path / "other", ALICE, comment="two").read_text().splitlines()
    rewrite(file, 2, lambda _: other[2])
    rewrite(file, 3, lambda _: other[3])
    assert reason_of(lambda: verify_file(file, TRUSTED)) == "bad-comment-signature"


def test_a_stranger_is_told_apart_from_a_forger(file: Path) -> None:
    sign_file(file, BOB)
    assert reason_of(lambda: verify_file(file, TRUSTED)) == "unknown-signer"
    assert reason_of(lambda: verify_file(file, [])) == "unknown-signer"
    # Whoever makes a key chooses its id.
    impostor = MinisignKey(MinisignKey.of(BOB.public).id, ALICE.public)
    assert reason_of(lambda: verify_file(file, [impostor])) == "bad-signature"
    assert verify_file(file, [impostor, MinisignKey.of(BOB.public)]).key.key == BOB.public


def test_a_revoked_key_counts_for_nothing(file: Path) -> None:
    sign_file(file, ALICE)
    assert reason_of(lambda: verify_file(file, TRUSTED, revoked=TRUSTED)) == "key-revoked"
    assert reason_of(lambda: verify_file(file, [], revoked=TRUSTED)) == "key-revoked"
    verify_file(file, TRUSTED, revoked=[MinisignKey.of(BOB.public)])


@pytest.mark.parametrize("comment", ["two\nlines", "\x1b[31mred", "x" * 8001, "\x00", "\u2028"])
def test_a_comment_is_one_line_that_can_be_shown(file: Path, comment: str) -> None:
    assert reason_of(lambda: sign_file(file, ALICE, comment=comment)) == "bad-comment"
    assert not signature_path(file).exists()


def test_a_name_that_cannot_be_shown_does_not_get_into_the_comment(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\n\xff"))
    path.write_bytes(b"content")
    sign_file(path, ALICE)
    assert verify_file(path, TRUSTED).comment == "file:a??\thashed"


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs")), max_size=300))
def test_any_comment_comes_back(comment: str) -> None:
    made = MinisignSignature.make(b"d" * 64, ALICE, comment)
    read = MinisignSignature.parse(made.dump())
    assert read == made
    read.check(b"d" * 64, TRUSTED[0], "file")


@given(st.text(max_size=400))
def test_any_text_is_a_signature_or_a_clear_refusal(text: str) -> None:
    assert reason_of(lambda: MinisignSignature.parse(text)) in {"signature-malformed", "legacy-signature"}


@given(st.binary(max_size=60))
def test_any_key_is_one_or_a_clear_refusal(data: bytes) -> None:
    line = base64.b64encode(data).decode()
    if data.startswith(b"Ed") and len(data) == 42:
        assert MinisignKey.parse(line).text == line
    else:
        assert reason_of(lambda: MinisignKey.parse(line)) == "bad-key"


def test_a_key_is_read_in_every_way_it_is_written(tmp_path: Path) -> None:
    own = TRUSTED[0]
    (tmp_path / "key.pub").write_text(own.dump())
    (tmp_path / "key").write_text(f"{ALICE.public}\n")
    for given_key in (own.text, str(ALICE.public), str(tmp_path / "key.pub"), str(tmp_path / "key")):
        found = read_public_key(given_key)
        assert (found.id, found.key.key) == (own.id, ALICE.public.key)


@pytest.mark.parametrize("given_key", ["", "RW", "RWnot+base64", "none.pub", "name:short", "a:b:c"])
def test_what_is_no_key_is_refused(given_key: str) -> None:
    assert reason_of(lambda: read_public_key(given_key)) == "bad-key"


def test_a_file_of_two_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "two").write_text(TRUSTED[0].dump() + MinisignKey.of(BOB.public).dump())
    assert reason_of(lambda: read_public_key(str(tmp_path / "two"))) == "bad-key"


def test_private_keys_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(ALICE.dump() + "\n")
    assert read_private_key(tmp_path / "key") == ALICE
    (tmp_path / "bad").write_text("RW")
    assert reason_of(lambda: read_private_key(tmp_path / "bad")) == "bad-key"
    assert reason_of(lambda: read_private_key(tmp_path / "none")) == "unreadable"


def test_files_that_are_not_there(file: Path, tmp_path: Path) -> None:
    assert reason_of(lambda: verify_file(file, TRUSTED)) == "signature-missing"
    assert reason_of(lambda: sign_file(tmp_path / "none", ALICE)) == "file-missing"
    assert reason_of(lambda: sign_file(tmp_path, ALICE)) == "file-missing"
    sign_file(file, ALICE)
    file.unlink()
    assert reason_of(lambda: verify_file(file, TRUSTED)) == "file-missing"
    os.mkfifo(tmp_path / "pipe")
    assert reason_of(lambda: sign_file(tmp_path / "pipe", ALICE)) == "file-missing"


def test_a_full_disk_leaves_the_old_signature(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = sign_file(file, ALICE).read_bytes()
    file.write_bytes(b"newer")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert reason_of(lambda: sign_file(file, ALICE)) == "document-unwritable"
    assert signature_path(file).read_bytes() == old
    assert sorted(path.name for path in file.parent.iterdir()) == ["hello.ape", "hello.ape.minisig"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.truncate(64 << 20)
    tracemalloc.start()
    sign_file(path, ALICE)
    verify_file(path, TRUSTED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


def test_keys_of_one_name_are_told_apart_by_their_ids() -> None:
    one, two = PrivateKey.generate("same").public, PrivateKey.generate("same").public
    assert MinisignKey.of(one).id != MinisignKey.of(two).id
    assert MinisignKey.of(PublicKey("other name", one.key)).id == MinisignKey.of(one).id
