# unasync: skip
"""The bytes on a connection to Redis, under one name on both sides: redis-py makes it, and we speak on it."""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any

from persistence._sync.compat import SocketWatch
from persistence.resp import Answers


class RedisStream:
    """The bytes that go to a Redis server and come from it, on a connection that redis-py has made.

    redis-py reads through layers of its own: it has the connection only between ``lend`` and ``take_back``.
    """

    def __init__(self, connection: Any, answers: Answers) -> None:
        self._answers = answers
        self._socket: socket.socket = connection._sock
        self._decrypted = getattr(self._socket, "pending", None)
        self._watch = SocketWatch(self._socket.fileno(), self._arrived)
        self.is_silent = self._watch.is_silent

    def exchange(self, data: bytes, timeout: float) -> bool:
        """Send a command, and wait until its answer is whole; False when it isn't ``timeout`` seconds later.

        What can't be sent at once may take as long to be sent.

        Raises:
            OSError: the connection has ended.
        """
        self._socket.sendall(data)
        return self._watch.until_arrived(monotonic() + timeout)

    def _arrived(self) -> bool:
        while True:
            data = self._socket.recv(self._answers.wanted)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            if self._answers.feed(data):
                return True
            if self._decrypted is None or not self._decrypted():  # what TLS holds, the socket doesn't tell of
                return False

    def lend(self) -> None:
        """Do nothing: redis-py reads while somebody waits for it."""

    def take_back(self, connection: Any) -> bool:
        """Tell whether the connection is the one that was lent, and still open."""
        return connection._sock is self._socket

    def close(self, connection: Any) -> None:
        """Close the connection at once, whatever state it is in."""
        connection.disconnect()
