"""Keys, signatures and envelopes: what is altered, unknown or malformed is told apart."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.model.signature import PrivateKey, PublicKey, SignatureError, seal, unseal

# RFC 8032, 7.1, test 1: the seed, its public key, and the signature over nothing.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
SIGNATURE = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
    "655141438e7a100b"
)


def key(name: str = "alice") -> PrivateKey:
    return PrivateKey.generate(name)


def test_keys_and_signatures_are_those_of_the_rfc() -> None:
    private = PrivateKey.parse(f"rfc:{base64.b64encode(SEED).decode()}")
    assert private.public.key == PUBLIC
    assert private.sign(b"") == SIGNATURE
    assert private.public.holds(b"", SIGNATURE)


def test_a_key_is_read_as_it_is_written() -> None:
    private = key()
    assert PrivateKey.parse(private.dump()) == private
    assert PublicKey.parse(str(private.public)) == private.public
    assert private.dump() not in str(private.public)


def test_a_key_without_a_name_is_called_after_itself() -> None:
    private = PrivateKey.generate()
    assert private.name == f"builder-{private.public.key[:4].hex()}"


@pytest.mark.parametrize("text", ["", "alice", "alice:", "alice:AAAA", "a b:" + "A" * 43 + "=", "alice:" + "?" * 44])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(SignatureError) as caught:
        PublicKey.parse(text)
    assert caught.value.reason == "bad-key"


@given(st.binary(max_size=300))
def test_what_is_sealed_comes_out_again_with_its_signer(statement: bytes) -> None:
    private = key()
    assert unseal(seal(statement, private), [key("bob").public, private.public]) == (statement, private.public)


def test_a_stranger_is_not_believed() -> None:
    with pytest.raises(SignatureError) as caught:
        unseal(seal(b"{}", key()), [key("bob").public])
    assert caught.value.reason == "unknown-signer"
    assert "alice" in caught.value.message


def test_the_name_of_a_trusted_key_on_a_strangers_signature_is_not_believed() -> None:
    trusted, stranger = key("alice"), key("alice")
    with pytest.raises(SignatureError) as caught:
        unseal(seal(b"{}", stranger), [trusted.public])
    assert caught.value.reason == "unknown-signer"
    forged = json.loads(seal(b"{}", stranger))
    forged["signatures"][0]["keyid"] = str(trusted.public)
    with pytest.raises(SignatureError) as caught:
        unseal(json.dumps(forged), [trusted.public])
    assert caught.value.reason == "bad-signature"


@pytest.mark.parametrize("field", ["payload", "payloadType"])
def test_an_altered_envelope_is_noticed(field: str) -> None:
    private = key()
    document = json.loads(seal(b'{"a":1}', private))
    document[field] = base64.b64encode(b'{"a":2}').decode() if field == "payload" else "text/plain"
    with pytest.raises(SignatureError) as caught:
        unseal(json.dumps(document), [private.public])
    assert caught.value.reason == "bad-signature"


@pytest.mark.parametrize(
    "envelope",
    ["", "[]", "{}", '{"payload": 1}', '{"payloadType":"x","payload":"?","signatures":[]}', "[" * 100_000],
)
def test_what_is_no_envelope_is_refused(envelope: str) -> None:
    with pytest.raises(SignatureError) as caught:
        unseal(envelope, [])
    assert caught.value.reason == "envelope-malformed"


def test_an_envelope_that_nobody_signed_is_a_strangers() -> None:
    document = json.loads(seal(b"{}", key()))
    document["signatures"] = []
    with pytest.raises(SignatureError) as caught:
        unseal(json.dumps(document), [])
    assert caught.value.reason == "unknown-signer"
