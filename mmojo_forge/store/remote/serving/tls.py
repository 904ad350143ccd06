"""TLS: a certificate and its key, and, if clients have to show one too, who signs theirs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.store.remote.serving.failure import ServeError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the certificate with those that lead to its root, its key, the roots of clients' certificates."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or later with these; raises ServeError (`serve-tls`)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # A password that is given, if only an empty one, is not asked for on the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.client_ca)
        except (OSError, ValueError) as error:
            files = ", ".join(str(file) for file in (self.certificate, self.key, self.client_ca) if file)
            raise ServeError(
                f"use TLS with {files}: {error}",
                detail="Give PEM files: the certificate (with its chain), its key without a password, the clients' CA.",
                reason="serve-tls",
            ) from error
        return context
