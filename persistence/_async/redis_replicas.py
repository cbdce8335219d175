"""Writes to Redis that are acknowledged once replicas have them, by WAIT behind each write.

Protocol: WAIT covers what its own connection caused last, and nothing where the commands before it changed nothing: a
write that is repeated and finds itself done would pass while no replica has it. So a notice to a channel that nobody
hears goes in between, which the server passes on to its replicas: they have it once they have all that came before.
Both are sent with the write, behind EXEC where that is a transaction: it stays one round trip. The answers to all three
are read before the connection is used again, or it is closed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError, WatchError

from persistence._async.redis_link import AsyncRedisLink
from persistence.resp import pack

CHANNEL = "holdfast:replicated"
FOLLOWING = 2
"""How many answers there are to what follows a write."""
UNCHANGING = frozenset(
    "ACL AUTH CLIENT CLUSTER COMMAND CONFIG DBSIZE DEBUG ECHO EVALSHA_RO EVAL_RO FAILOVER FCALL_RO HELLO INFO LATENCY"
    " MEMORY MODULE MONITOR OBJECT PING PUBLISH PUBSUB REPLICAOF ROLE SCRIPT SELECT SENTINEL SLAVEOF SLOWLOG SORT_RO"
    " SPUBLISH TIME UNWATCH WAIT WAITAOF WATCH".split()
)
"""Commands that change no data, beside those that only read it."""


class ReplicasMissing(RedisError):
    """A write was taken, and too few replicas had it in time."""


class AsyncReplicaWait:
    """What follows each write: it waits until ``replicas`` have it, ``timeout`` seconds at most."""

    def __init__(self, replicas: int, timeout: float) -> None:
        self._replicas = replicas
        self._timeout = timeout
        wait = ("WAIT", replicas, max(1, round(timeout * 1000)))
        self._follow_up = pack(("PUBLISH", CHANNEL, "")) + pack(wait)

    async def ask(self, link: AsyncRedisLink, command: bytes) -> Any:
        """Return the answer to a packed command, when enough replicas have what it did.

        Raises:
            ReplicasMissing: they had not, in time.
            RedisError: what the server refused, or a connection that broke.
        """
        answer, *following = await link.ask_several(command + self._follow_up, 1 + FOLLOWING)
        if isinstance(answer, RedisError):
            raise answer
        self._check(following)
        return answer

    async def behind(self, connection: Any, send: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        """Return what ``send(connection, …)`` of redis-py's gives, when enough replicas have what it did.

        Raises:
            ReplicasMissing: they had not, in time.
            RedisError: what ``send`` raises.
        """
        followed = _Followed(connection, self._follow_up)
        try:
            answer = await send(followed, *args, **options)
        except (ResponseError, WatchError):
            if followed.was_sent:
                await _read(connection)  # refused: whether replicas know of it is nobody's concern
            raise
        except BaseException:
            if followed.was_sent:
                await connection.disconnect()  # there may be answers that nobody read
            raise
        self._check(await _read(connection))
        return answer

    def _check(self, following: Sequence[Any]) -> None:
        for found in following:
            if isinstance(found, RedisError):
                raise ReplicasMissing(f"the server can't tell whether a replica has it: {found}") from found
        if following[-1] < self._replicas:
            raise ReplicasMissing(f"{following[-1]} of {self._replicas} replicas had it within {self._timeout:g} s")


class _Followed:
    """A connection of redis-py's that sends something behind what it is given to send."""

    def __init__(self, connection: Any, follow_up: bytes) -> None:
        self._connection = connection
        self._follow_up = follow_up
        self.was_sent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def send_command(self, *args: Any, **options: Any) -> None:
        await self.send_packed_command(self._connection.pack_command(*args), **options)

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        parts = [command] if isinstance(command, bytes) else list(command)
        parts[-1] += self._follow_up
        self.was_sent = True
        await self._connection.send_packed_command(parts, check_health)


async def _read(connection: Any) -> list[Any]:
    """Return the answers to what followed; a refusal is one of them."""
    answers: list[Any] = []
    while len(answers) < FOLLOWING:
        try:
            answers.append(await connection.read_response())
        except ResponseError as exc:
            answers.append(exc)
    return answers
