"""A TCP relay in front of a server that can be told to misbehave, as networks and servers do."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from app.local.ports import LOOPBACK

PIECE: Final = 65_536


class Cut(Exception):
    """Raised by a hook: both ends of this connection are closed."""


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: "Proxy", client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.swallowing = False
        """Half-open: whatever comes is read and dropped, nothing is closed."""
        self.sent = 0
        """Bytes that the client has sent."""
        self._proxy = proxy

    def start(self) -> None:
        for source, sink, up in ((self.client, self.server, True), (self.server, self.client, False)):
            threading.Thread(target=self._relay, args=(source, sink, up), daemon=True).start()

    def close(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _relay(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError, Cut):
            while data := source.recv(PIECE):
                self.sent += len(data) if up else 0
                passed = (self._proxy.upward if up else self._proxy.downward)(self, data)
                if not self.swallowing:
                    sink.sendall(passed)
        if not self.swallowing:
            self.close()
            self._proxy.links.discard(self)


Hook = Callable[[Link, bytes], bytes]


def passing(_link: Link, data: bytes) -> bytes:
    return data


class Proxy:
    """Relays connections to a port of this machine; `upward` and `downward` see all that passes."""

    def __init__(self, target: Callable[[], int]) -> None:
        """target: the server's port, asked for at each connection."""
        self.upward: Hook = passing
        """From the client to the server."""
        self.downward: Hook = passing
        self.links: set[Link] = set()
        self._target = target
        self._listener = socket.create_server((LOOPBACK, 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def break_silently(self) -> int:
        """Make every open connection half-open; how many there were. New ones work."""
        links = list(self.links)
        for link in links:
            link.swallowing = True
        return len(links)

    def cut_all(self) -> None:
        """Close every open connection."""
        for link in list(self.links):
            link.close()

    @contextmanager
    def misbehaving(self, *, upward: Hook = passing, downward: Hook = passing) -> Iterator[None]:
        """With these hooks for a while."""
        self.upward, self.downward = upward, downward
        try:
            yield
        finally:
            self.upward, self.downward = passing, passing

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection((LOOPBACK, self._target()), timeout=5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                link = Link(self, client, server)
                self.links.add(link)
                link.start()


@contextmanager
def proxy_to(target: Callable[[], int]) -> Iterator[Proxy]:
    """A proxy for the time of the block."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
