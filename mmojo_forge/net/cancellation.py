"""Cancels HTTP exchanges from another thread, even while a read is blocked."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref

from mmojo_forge.net.failure import FailureKind, UrlFailure


class HttpCancellation:
    """A cancellation that all clients of one fetcher or cache share. It cannot be undone."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._guard = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Abort all running exchanges and refuse all later ones."""
        self._event.set()
        with self._guard:
            for connected in self._sockets:
                _shut_down(connected)

    def check(self, url: str = "") -> None:
        """Raise UrlFailure (`cancelled`) if cancelled."""
        if self._event.is_set():
            raise UrlFailure(url, FailureKind.CANCELLED, "cancelled")

    def pause(self, seconds: float) -> None:
        """Wait; raises UrlFailure (`cancelled`) as soon as another thread cancels."""
        self._event.wait(seconds)
        self.check()

    def watch(self, connected: socket.socket) -> None:
        """Shut the socket down when this is cancelled, for as long as the socket exists.

        Responses are too late to watch: a reader may still wait for the headers. Connections are not safe to watch
        either: they drop their socket once the server announces that it will close it.
        """
        # For an https proxy, urllib3 puts TLS inside TLS in a wrapper that is not a socket but holds one.
        connected = getattr(connected, "socket", connected)
        with self._guard:
            self._sockets.add(connected)
        # `cancel` may have run before the socket was added.
        if self._event.is_set():
            _shut_down(connected)


def _shut_down(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # SSLSocket.shutdown would drop the TLS state, and the reader would take ciphertext for content. The method
        # of the base class keeps it.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
