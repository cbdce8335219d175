# Generated from ../_async/redis_link.py by tests/unasync.py: edit that one.
"""A pooled connection to a Redis server, on which commands are sent and answers read without redis-py's layers.

redis-py makes the connection: it knows TLS, passwords and Sentinels. What one of its own objects does on it (a
pipeline, a subscription) it does between ``lend`` and ``take_back``.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import ConnectionError as DroppedError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as LateError

from persistence._sync.compat import descriptor_of
from persistence._sync.redis_stream import RedisStream
from persistence.resp import Answers
from persistence.sockets import shut_down


class RedisLink:
    """One connection; a command's answer is waited for as long as ``timeout`` (seconds)."""

    def __init__(self, connection: Any, *, timeout: float, only_master: bool) -> None:
        self.connection = connection
        self.is_broken = False
        """Whether an answer is outstanding, or can't come any more: the next one would be taken for it."""
        self._timeout = timeout
        self._only_master = only_master
        self._answers = Answers()
        self._stream = RedisStream(connection, self._answers)

    def is_alive(self) -> bool:
        """Tell from the socket alone: a server has nothing to say on an idle connection but goodbye."""
        return self._answers.is_idle and self._stream.is_silent()

    def ask(self, command: bytes) -> Any:
        """Return the answer to a packed command.

        Raises:
            RedisError: redis-py's, for what the server refused or a connection that broke.
        """
        self.is_broken = True
        try:
            whole = self._stream.exchange(command, self._timeout)
        except TimeoutError:
            whole = False
        except OSError as exc:
            raise DroppedError(f"the connection broke: {exc}") from exc
        if not whole:
            raise LateError(f"no answer within {self._timeout:g} s")
        answer = self._answers.take()
        if isinstance(answer, RedisError):
            self._check(answer)
            self.is_broken = False
            raise answer
        self.is_broken = False
        return answer

    def ask_several(self, commands: bytes, count: int) -> list[Any]:
        """Return the answers to packed commands that are sent together; a refusal is one of them.

        Raises:
            RedisError: redis-py's, for a connection that broke.
        """
        self._answers.gather(count)
        answers: list[Any] = self.ask(commands)
        self.is_broken = True
        self._check(answers[0])
        self.is_broken = False
        return answers

    def _check(self, answer: Any) -> None:
        """Raise for a refusal after which the connection is of no use."""
        if isinstance(answer, ReadOnlyError) and self._only_master:
            raise DroppedError("The previous master is now a slave") from answer
        if isinstance(answer, DroppedError):  # it is loading, or has too many clients
            raise answer

    def lend(self) -> Any:
        """Return redis-py's connection, on which redis-py may speak."""
        self._stream.lend()
        return self.connection

    def take_back(self) -> None:
        """Speak again; the connection is broken where redis-py left something unread, or made it anew."""
        connection = self.connection
        can_read = connection.can_read
        self.is_broken = not self._stream.take_back(connection) or can_read()

    def discard(self) -> None:
        self._stream.close(self.connection)

    def recover(self) -> bool:
        return False  # nobody knows what it was used for

    def interrupt(self) -> None:
        descriptor = descriptor_of(self.connection)
        if descriptor is not None:
            shut_down(descriptor)
