"""Server certificates: what one is for and until when, and whether its key fits."""

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
    """A certificate or key that no server could use, or that do not belong together."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate a server shows: the names it is for, who signed it, and from when until when it counts."""

    names: tuple[str, ...]
    issuer: str
    begins: datetime
    expires: datetime
    public_key: bytes

    def warnings(self, now: float) -> list[str]:
        """What clients will not like about it at this time."""
        moment = datetime.fromtimestamp(now, UTC)
        if moment > self.expires:
            return [f"the certificate expired on {self.expires:%Y-%m-%d}"]
        if moment < self.begins:
            return [f"the certificate counts only from {self.begins:%Y-%m-%d} on"]
        if self.expires - moment < _SOON:
            return [f"the certificate expires on {self.expires:%Y-%m-%d}"]
        return [] if self.names else ["the certificate names no host, so no client accepts it"]


def read_certificate(data: bytes, what: str) -> Certificate:
    """The first certificate of a PEM file, which is the server's own; raises CertificateError."""
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
            f"read certificate {what}: {error or 'there is none in it'}",
            detail="It must be in PEM: -----BEGIN CERTIFICATE-----, the server's own first.",
            reason="certificate-unreadable",
        ) from error


def check_key(certificate: Certificate, data: bytes, what: str) -> None:
    """Refuses a private key that is encrypted, cannot be read, or is another certificate's; raises CertificateError."""
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise CertificateError(
            f"read key {what}: it is encrypted",
            detail="Nobody is there to be asked for the password. Decrypt it: openssl pkey -in KEY -out NEW",
            reason="key-encrypted",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            f"read key {what}: no private key in PEM", detail=str(error), reason="key-unreadable"
        ) from error
    if key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != certificate.public_key:
        raise CertificateError(
            f"read key {what}: it is not the key of the certificate",
            detail=f"The certificate is for {', '.join(certificate.names) or 'nobody'}.",
            reason="key-mismatch",
        )


def _names(found: x509.Certificate) -> tuple[str, ...]:
    """The hosts, as clients look for them; the common name only where there are none."""
    try:
        extension = found.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except x509.ExtensionNotFound:
        return _texts(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    names = extension.value
    assert isinstance(names, x509.SubjectAlternativeName)
    hosts = names.get_values_for_type(x509.DNSName)
    return (*hosts, *(str(address) for address in names.get_values_for_type(x509.IPAddress)))


def _texts(attributes: Sequence[x509.NameAttribute[str | bytes]]) -> tuple[str, ...]:
    return tuple(one.value if isinstance(one.value, str) else one.value.decode("latin-1") for one in attributes)
