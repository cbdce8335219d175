"""A TCP proxy that fails on command: it stands between a client and a real server."""

from __future__ import annotations

import select
import socket
import threading
from types import TracebackType
from typing import Literal, Self

Mode = Literal["pass", "black hole", "hold requests", "hold replies", "swallow replies", "swallow a reply", "refuse"]


HELD = 0.005
"""How often to look whether answers are still to be held, in seconds."""


class FaultyProxy:
    """Forwards connections to ``target``; ``mode`` may change at any time.

    ``pass`` forwards. ``black hole`` takes what is sent and answers nothing, also for connections made before.
    ``hold requests`` takes nothing from clients until the mode is another.
    ``hold replies`` lets requests through to the server, and its answers only once the mode is another.
    ``swallow replies`` lets requests through to the server, drops its answer and then closes the connection.
    ``swallow a reply`` does so with one answer, and then is ``pass``.
    ``refuse`` closes what comes in.
    """

    def __init__(self, target: tuple[str, int] | str) -> None:
        self.mode: Mode = "pass"
        self.connections = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._stop, self._stopped = socket.socketpair()
        self._pairs: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()
        self._threads[0].join(5)  # it may be about to look at the listener
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)
        self._stopped.close()

    def cut(self) -> None:
        """Close every connection there is, as a proxy that loses patience with idle ones does."""
        pairs, self._pairs = self._pairs, []
        for side in pairs:
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed

    def _accept(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, self._stopped], [], [])
            if self._stopped in ready:
                return
            client, _ = self._listener.accept()
            self.connections += 1
            if self.mode == "refuse":
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
            server.connect(self._target)
            self._pairs += [client, server]
            thread = threading.Thread(target=self._forward, args=(client, server), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            while True:
                try:
                    held = {"hold requests": client, "hold replies": server}.get(self.mode)
                    sides = [side for side in (client, server) if side is not held]
                    ready, _, _ = select.select(sides, [], [], None if held is None else HELD)
                    for side in ready:
                        if side is {"hold requests": client, "hold replies": server}.get(self.mode):
                            continue  # it stays in the socket
                        data = side.recv(65536)
                        if not data:
                            return
                        if self.mode == "black hole":
                            continue
                        if self.mode == "swallow replies" and side is server:
                            return
                        if self.mode == "swallow a reply" and side is server:
                            self.mode = "pass"
                            return
                        (server if side is client else client).sendall(data)
                except OSError:
                    return
