"""Certificates and keys as servers use them: what they are for, what is wrong with them, whether they fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mmojo_forge.engine.package.certificates import CertificateError, check_key, read_certificate

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_key(kind: str = "ec") -> Key:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


def pem(key: Key, password: bytes | None = None, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, form, locked)


def make_certificate(key: Key, *, days: tuple[int, int] = (-10, 100), names: bool = True, common: str = "cn") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )
    if names:
        hosts = [x509.DNSName("server.example"), x509.IPAddress(ip_address("::1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("kind", ["ec", "ed25519", "rsa"])
def test_a_certificate_says_whom_it_is_for_and_its_key_fits(kind: str) -> None:
    key = make_key(kind)
    found = read_certificate(make_certificate(key), "c.pem")
    assert found.names == ("server.example", "::1")
    assert found.issuer == "CN=issuer"
    assert found.expires == NOW + timedelta(days=100)
    assert found.warnings(NOW.timestamp()) == []
    check_key(found, pem(key), "k.pem")


def test_a_key_in_the_older_form_fits_too() -> None:
    key = make_key()
    check_key(read_certificate(make_certificate(key), "c"), pem(key, form=PrivateFormat.TraditionalOpenSSL), "k")


def test_of_a_chain_the_first_one_counts() -> None:
    key, other = make_key(), make_key()
    chain = make_certificate(key) + make_certificate(other, common="other")
    check_key(read_certificate(chain, "c"), pem(key), "k")
    with pytest.raises(CertificateError) as caught:
        check_key(read_certificate(chain, "c"), pem(other), "k")
    assert caught.value.reason == "key-mismatch"


@pytest.mark.parametrize(
    ("days", "words"),
    [((-100, -1), "expired"), ((1, 100), "not valid before"), ((-10, 20), "expires on"), ((-10, 31), "")],
)
def test_dates_are_warned_of(days: tuple[int, int], words: str) -> None:
    found = read_certificate(make_certificate(make_key(), days=days), "c").warnings(NOW.timestamp())
    assert bool(found) == bool(words)
    assert all(words in one for one in found)


def test_without_alternative_names_the_common_name_is_shown() -> None:
    assert read_certificate(make_certificate(make_key(), names=False), "c").names == ("cn",)
    nobody = read_certificate(make_certificate(make_key(), names=False, common=""), "c")
    assert nobody.names == ()
    assert "no host" in nobody.warnings(NOW.timestamp())[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!!!\n",
        pem(make_key()),
    ],
)
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(CertificateError) as caught:
        read_certificate(data, "c.pem")
    assert caught.value.reason == "certificate-unreadable"
    assert "c.pem" in caught.value.message


def test_what_is_no_key_is_refused() -> None:
    key = make_key()
    certificate = read_certificate(make_certificate(key), "c")
    reasons = []
    for data in (b"", make_certificate(key), pem(key, b"password"), pem(make_key()), pem(make_key("rsa"))):
        with pytest.raises(CertificateError) as caught:
            check_key(certificate, data, "k.pem")
        reasons.append(caught.value.reason)
    assert reasons == ["key-unreadable", "key-unreadable", "key-encrypted", "key-mismatch", "key-mismatch"]
