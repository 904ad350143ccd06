"""Stopping exchanges from another thread: at once, even in the middle of a read that waits."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref

from mmojo_forge.net.failure import FailureKind, UrlFailure


class HttpCancellation:
    """Shared by all clients of one fetcher or cache. Once cancelled it stays so."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._guard = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    @property
    def cancelled(self) -> bool:
        """Whether everything is to end."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Stop everything that is under way and everything that will be tried."""
        self._event.set()
        with self._guard:
            for connected in self._sockets:
                _shut_down(connected)

    def check(self, url: str = "") -> None:
        """Raise UrlFailure (`cancelled`) if cancelled."""
        if self._event.is_set():
            raise UrlFailure(url, FailureKind.CANCELLED, "cancelled")

    def pause(self, seconds: float) -> None:
        """Wait; raises UrlFailure as soon as cancelled."""
        self._event.wait(seconds)
        self.check()

    def watch(self, connected: socket.socket) -> None:
        """Have the connection cut when this is cancelled, however long it is used.

        Sockets are watched, not responses: a reader may still wait for the headers. Nor connections, which forget
        their socket as soon as the server announces that it will close it.
        """
        # TLS inside of TLS, for a proxy behind https, is no socket but has one.
        connected = getattr(connected, "socket", connected)
        with self._guard:
            self._sockets.add(connected)
        if self._event.is_set():
            _shut_down(connected)


def _shut_down(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # The class's own method: that of ssl would forget the TLS state, and the reader would take ciphertext for
        # content.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
