"""Where a server listens: `HOST:PORT`, on this machine alone unless TLS or the user's word says otherwise."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Self

from mmojo_forge.store.remote.serving.failure import ServeError

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:/\s]+)):([0-9]{1,5})")
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; port 0 is one that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address written as `HOST:PORT` or `[IPv6]:PORT`; raises ServeError (`serve-listen`)."""
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found[3]) > 65535:
            raise ServeError(
                f"listen on {text!r}: not HOST:PORT",
                detail="127.0.0.1:8484, [::1]:8484, or 0.0.0.0:8484 for all networks; port 0 takes a free one.",
                reason="serve-listen",
            )
        return cls(found[1] or found[2], int(found[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen(address: Address, *, guarded: bool) -> tuple[socket.socket, Address]:
    """A socket that listens, and the address that it got.

    Unless `guarded` (by TLS, or because the user says so) only this machine can be listened to: raises ServeError
    (`serve-plain`, `serve-listen`).
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        if not guarded and not ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback:
            raise ServeError(
                f"listen on {address}: others could reach it, and tokens and content would travel without TLS",
                detail="Give --tls-cert and --tls-key, or --plain where a proxy or a private network protects it.",
                reason="serve-plain",
            )
        listener = socket.create_server(place, family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise ServeError(
            f"listen on {address}: {cause}",
            detail="Name an address of this machine and a port that is free; port 0 takes one that is.",
            reason="serve-listen",
        ) from error
    listener.setblocking(False)
    return listener, Address(address.host, listener.getsockname()[1])
