"""Connections that can be cut while somebody waits for an answer on them: what Ctrl-C needs to be quick."""

from __future__ import annotations

import contextlib
import socket
import weakref
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class WakeableAdapter(HTTPAdapter):
    """Knows every connection that it opened, idle or not."""

    def __init__(self, *, connections: int) -> None:
        self._opened: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        super().__init__(pool_connections=4, pool_maxsize=connections)

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        """Let the pools make connections that are noted here."""
        super().init_poolmanager(*arguments, **more)
        opened = self._opened

        class Plain(HTTPConnection):
            def connect(self) -> None:
                opened.add(self)
                super().connect()

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                opened.add(self)
                super().connect()

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def wake(self) -> None:
        """Cut all connections: whoever waits on one gets an error at once."""
        for connection in list(self._opened):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
