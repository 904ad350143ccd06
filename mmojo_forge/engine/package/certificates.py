"""Reads and checks server certificates and their private keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from mmojo_forge.errors import ForgeError

_SOON = timedelta(days=30)


class CertificateError(ForgeError):
    """A certificate or key is unusable for a server, or they do not belong together."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate: its host names and addresses, its issuer, and its period of validity."""

    names: tuple[str, ...]
    issuer: str
    begins: datetime
    expires: datetime
    public_key: bytes

    def warnings(self, now: float) -> list[str]:
        """Reasons why clients will reject the certificate at the time `now`, or soon after. Seconds since the epoch."""
        moment = datetime.fromtimestamp(now, UTC)
        if moment > self.expires:
            return [f"the certificate expired on {self.expires:%Y-%m-%d}"]
        if moment < self.begins:
            return [f"the certificate is not valid before {self.begins:%Y-%m-%d}"]
        if self.expires - moment < _SOON:
            return [f"the certificate expires on {self.expires:%Y-%m-%d}"]
        return [] if self.names else ["the certificate names no host, so no client accepts it"]


def read_certificate(data: bytes, what: str) -> Certificate:
    """The first certificate of a PEM file, which must be the server's own; raises CertificateError."""
    try:
        found = x509.load_pem_x509_certificates(data)[0]
        return Certificate(
            _names(found),
            found.issuer.rfc4514_string(),
            found.not_valid_before_utc,
            found.not_valid_after_utc,
            found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        )
    except (ValueError, IndexError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            f"read certificate {what}: {error or 'it contains no certificate'}",
            detail="The file must be in PEM format (-----BEGIN CERTIFICATE-----), with the server's certificate first.",
            reason="certificate-unreadable",
        ) from error


def check_key(certificate: Certificate, data: bytes, what: str) -> None:
    """Raise CertificateError if the private key is encrypted, unreadable, or belongs to another certificate."""
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise CertificateError(
            f"read key {what}: it is encrypted",
            detail="The server cannot ask for a password. Decrypt the key: openssl pkey -in KEY -out NEW",
            reason="key-encrypted",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            f"read key {what}: it contains no private key in PEM format", detail=str(error), reason="key-unreadable"
        ) from error
    if key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != certificate.public_key:
        raise CertificateError(
            f"read key {what}: it is not the key of the certificate",
            detail=f"The certificate is for {', '.join(certificate.names) or 'nobody'}.",
            reason="key-mismatch",
        )


def _names(found: x509.Certificate) -> tuple[str, ...]:
    """The subject alternative names. Without any, the common name, although modern clients ignore that."""
    try:
        extension = found.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except x509.ExtensionNotFound:
        return _texts(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    names = extension.value
    assert isinstance(names, x509.SubjectAlternativeName)
    hosts = names.get_values_for_type(x509.DNSName)
    return (*hosts, *(str(address) for address in names.get_values_for_type(x509.IPAddress)))


def _texts(attributes: Sequence[x509.NameAttribute[str | bytes]]) -> tuple[str, ...]:
    values = (attribute.value for attribute in attributes)
    return tuple(value if isinstance(value, str) else value.decode("latin-1") for value in values)
