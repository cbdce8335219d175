"""Redis through redis-py: its pool and its commands, with our timeouts, errors and retries.

A command that only reads is sent again after a dropped connection, ``max_retries`` times. Everything else is sent
once: a lost answer does not say whether a write took effect, and INCR or LPUSH sent twice count twice. With
``min_replicas`` a write is acknowledged once so many replicas have it.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from weakref import WeakSet

import redis.asyncio as driver
from redis.asyncio.client import Pipeline, PubSub
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import ConnectionError as DroppedError
from redis.exceptions import NoScriptError, RedisError, WatchError

from persistence._async.compat import bounded, check_home, current_home, sleep
from persistence._async.pool import AsyncDedicated
from persistence._async.redis_link import AsyncRedisLink
from persistence._async.redis_pool import make_pool
from persistence._async.redis_replicas import UNCHANGING, AsyncReplicaWait, ReplicasMissing
from persistence.capabilities import Capabilities, version_numbers
from persistence.config import RedisConfig
from persistence.errors import (
    ClosedError,
    ConnectError,
    DeadlineError,
    NotReplicatedError,
    PersistenceError,
    QueryError,
    from_redis,
)
from persistence.fields import Duration, scrub, seconds, seconds_or_none
from persistence.health import PoolStats
from persistence.observing import Observation, Observers
from persistence.resp import pack
from persistence.scripts import Script, UnknownScriptError

READS = frozenset(
    "BITCOUNT BITPOS DBSIZE DUMP ECHO EXISTS EXPIRETIME GEODIST GEOHASH GEOPOS GEOSEARCH GET GETBIT GETRANGE HEXISTS"
    " HGET HGETALL HKEYS HLEN HMGET HRANDFIELD HSCAN HSTRLEN HTTL HVALS INFO KEYS LINDEX LLEN LPOS LRANGE MGET"
    " PEXPIRETIME PFCOUNT PING PTTL RANDOMKEY SCAN SCARD SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER"
    " SRANDMEMBER SSCAN STRLEN SUNION TIME TTL TYPE XINFO XLEN XPENDING XRANGE XREVRANGE ZCARD ZCOUNT ZDIFF ZINTER"
    " ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYSCORE"
    " ZREVRANGEBYLEX ZREVRANK ZSCAN ZSCORE ZUNION".split()
)
"""Commands that change nothing, so that sending one twice is sending it once."""


def _changes_nothing(command: str) -> bool:
    name = command.split(" ", 1)[0].upper()
    return name in READS or name in UNCHANGING


class AsyncRedisClient(driver.Redis):
    """redis-py's client; its errors are ours, and only reads are retried."""

    owner: AsyncRedisConnection

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command; see redis-py for each command's own method."""
        name, owner = args[0], self.owner
        try:
            answer = await owner.send(args, reads=str(name).upper() in READS)
        except QueryError:
            if EMPTY_RESPONSE not in options:
                raise
            owner.errors -= 1  # no error: redis-py knows it for an empty answer
            return options[EMPTY_RESPONSE]
        for meant_for_redis_py in ("keys", NEVER_DECODE, EMPTY_RESPONSE):
            options.pop(meant_for_redis_py, None)
        if name not in self.response_callbacks:
            return answer
        return self.response_callbacks[name](answer, **options)

    def pubsub(self, **options: Any) -> AsyncRedisPubSub:
        """Return redis-py's subscription, which borrows a connection until it is closed."""
        return AsyncRedisPubSub(self.connection_pool, **options)

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> AsyncRedisPipeline:
        """Return a pipeline: commands sent in one round trip, atomically unless ``transaction`` is false."""
        made = AsyncRedisPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.owner = self.owner
        return made


class AsyncRedisPubSub(PubSub):
    """redis-py's subscription; one that is dropped without being closed gives its connection back."""

    connection: Any
    connection_pool: Any

    def __del__(self) -> None:
        if getattr(self, "connection", None) is not None:
            self.connection_pool.lose(self.connection)


class AsyncRedisPipeline(Pipeline):
    """redis-py's pipeline; its errors are ours. It is sent once. WatchError stays redis-py's own."""

    owner: AsyncRedisConnection
    connection: Any
    connection_pool: Any

    def __del__(self, *unused: Any) -> None:
        if getattr(self, "connection", None) is not None:  # it was watching, and was dropped
            self.connection_pool.lose(self.connection)

    async def _send_command_parse_response(self, conn: Any, command_name: str, *args: Any, **options: Any) -> Any:
        wait, send = self.owner.replica_wait, super()._send_command_parse_response
        if wait is None or _changes_nothing(command_name):
            return await send(conn, command_name, *args, **options)
        return await wait.behind(conn, send, command_name, *args, **options)

    async def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        return await self._send(connection, super()._execute_transaction, commands, raise_on_error)

    async def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        return await self._send(connection, super()._execute_pipeline, commands, raise_on_error)

    async def _send(self, connection: Any, send: Callable[..., Awaitable[Any]], commands: Any, raising: bool) -> Any:
        wait = self.owner.replica_wait
        writing = [str(args[0]) for args, options in commands if not options.pop("reads", False)]
        if wait is None or all(map(_changes_nothing, writing)):
            return await send(connection, commands, raising)
        return await wait.behind(connection, send, commands, raising)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands and return their answers in order."""
        self.owner.check_usable()
        self.owner.requests += 1
        seen = self.owner.observers.begin_many("pipeline", (str(each[0][0]) for each in self.command_stack))
        try:
            answers: list[Any] = await super().execute(raise_on_error)
        except WatchError:
            raise
        except RedisError as exc:
            raise self.owner.failure(exc, "pipeline", seen) from exc
        except PersistenceError as exc:
            self.owner.note(exc, seen)
            raise
        if seen is not None:
            seen.done(None)
        return answers


class AsyncRedisConnection:
    """A named Redis server; made by ``AsyncDatabaseManager.add_redis``. Commands are methods of ``client``."""

    kind = "redis"

    def __init__(self, name: str, config: RedisConfig) -> None:
        self.name = name
        self.config = config
        self.requests = self.errors = 0
        self.observers = Observers(name, self.kind, seconds_or_none(config.slow_threshold))
        self.is_closed = False
        self.replica_wait: AsyncReplicaWait | None = None
        """What follows each write, where replicas are to have it before it is acknowledged."""
        if config.min_replicas:
            self.replica_wait = AsyncReplicaWait(config.min_replicas, seconds(config.replica_timeout))
        self.dedicated: WeakSet[AsyncDedicated] = WeakSet()
        """Who holds a connection outside the pool."""
        self._version: str | None = None
        self._is_silent = False
        """Whether the server would not say which version it is."""
        self._home = current_home()
        self._prepare()

    def _prepare(self) -> None:
        """Make the pool and the client, which connect when they are used."""
        self._lending = make_pool(self.name, self.config, self._learn_version)
        self._links = self._lending.links
        self._client = AsyncRedisClient(connection_pool=self._lending)
        self._client.owner = self

    @property
    def client(self) -> AsyncRedisClient:
        """redis-py's client: each command is a method of it."""
        return self._client

    async def open(self) -> None:
        """Make the first connections, ``min_idle_connections`` of them and at least one.

        Raises:
            ConnectError: the server can't be reached or refuses us.
        """
        links = []
        try:
            for _ in range(max(1, min(self.config.min_idle_connections, self.config.pool_size))):
                links.append(await self._links.acquire(self._lending.deadline()))
        except RedisError as exc:
            raise self._connect_error(exc) from exc
        finally:
            for link in links:
                self._links.release(link, broken=link.is_broken)

    async def _learn_version(self, link: AsyncRedisLink) -> None:
        """Ask the server of a new connection for its version, unless one has told it, or it is not ours to ask."""
        if self._version is not None or self._is_silent:
            return
        try:
            answer = await link.ask(pack(("INFO", "server")))
        except RedisError as exc:
            if not (is_denied(str(exc)) or str(exc).startswith("BUSY")):
                raise
            self._is_silent = is_denied(str(exc))  # a server that is busy is asked by the next connection
        else:
            read: Any = self.client.response_callbacks["INFO"]
            self._version = read(answer)["redis_version"]

    def _connect_error(self, exc: Exception) -> ConnectError:
        message = scrub(str(exc), self.config.password)
        return ConnectError(
            f"can't connect to Redis at {self.config.address}: {message}",
            hint=_connect_hint(message),
            operation="connect",
            connection=self.name,
        )

    async def dial(self) -> Any:
        """Return a connection of redis-py's outside the pool, in RESP 2; the caller disconnects it.

        Raises:
            ConnectError: the server can't be reached or refuses us.
            ClosedError: the connection was closed.
        """
        self.check_usable()
        try:
            return await self._lending.dial(protocol=2)
        except RedisError as exc:
            raise self._connect_error(exc) from exc

    def check_usable(self) -> None:
        """Refuse a command on a closed connection, or from another event loop."""
        if self.is_closed:
            raise ClosedError("it was closed", hint="add it to a manager again", connection=self.name)
        check_home(self._home, self.name)

    def failure(self, exc: Exception, operation: str, seen: Observation | None = None) -> PersistenceError:
        """Return our error for one of redis-py's, and note it."""
        if self.is_closed:
            ours: PersistenceError = ClosedError(
                "it was closed while this ran", operation=operation, connection=self.name
            )
        elif isinstance(exc, ReplicasMissing):
            ours = NotReplicatedError(
                f"the server took it, but {exc}",
                hint="it is lost if another server becomes the master: repeat it if it is idempotent, or look",
                operation=operation,
                connection=self.name,
            )
        elif isinstance(exc, NoScriptError):
            ours = UnknownScriptError(str(exc), operation=operation, connection=self.name, code="NOSCRIPT")
        else:
            ours = from_redis(exc, operation=operation, connection=self.name)
        self.note(ours, seen)
        return ours

    def note(self, exc: PersistenceError, seen: Observation | None) -> None:
        """Count what a caller gets instead of an answer, and tell those who watch."""
        self.errors += 1
        if seen is not None:
            seen.failed(exc)

    async def send(self, command: Sequence[Any], *, reads: bool) -> Any:
        """Return the server's answer to a command, before redis-py reads more into it.

        One that only ``reads`` is sent again after a dropped connection, ``max_retries`` times.
        """
        name = str(command[0])
        self.requests += 1
        seen = self.observers.begin(name, name)
        retries = self.config.max_retries if reads else 0
        wait = self.replica_wait
        if wait is not None and (reads or _changes_nothing(name)):
            wait = None
        try:
            packed = pack(command)
            while True:
                try:
                    answer = await self._ask(packed, wait)
                    break
                except DroppedError:
                    if retries == 0 or self.is_closed:
                        raise
                retries -= 1
                await sleep(0.01 + 0.02 * random.random())
        except RedisError as exc:
            raise self.failure(exc, name, seen) from exc
        except PersistenceError as exc:
            self.note(exc, seen)
            raise
        if seen is not None:
            seen.done(None)
        return answer

    async def _ask(self, packed: bytes, wait: AsyncReplicaWait | None) -> Any:
        link = await self._links.acquire(self._lending.deadline())
        try:
            return await (link.ask(packed) if wait is None else wait.ask(link, packed))
        finally:
            self._links.release(link, broken=link.is_broken)

    async def run_script(
        self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[Any] = (), *, reads: bool = False
    ) -> Any:
        """Return the answer of a Lua script: one round trip, and one more where the server hasn't seen it yet.

        A server that doesn't know the script has done nothing, and is sent its text. A script that only ``reads`` is
        sent again after a dropped connection, ``max_retries`` times; any other is sent once, for a lost answer does
        not say whether it took effect.

        Raises:
            ConnectionLostError: the answer was lost.
            NotReplicatedError: it took effect, and fewer than ``min_replicas`` have it.
            QueryError: the script, or the server, refused.
        """
        given = (len(keys), *keys, *arguments)
        try:
            return await self.send(("EVALSHA", script.sha, *given), reads=reads)
        except UnknownScriptError:
            self.errors -= 1  # no error: the server was asked whether it knows the script
        return await self.send(("EVAL", script.text, *given), reads=reads)

    async def ping(self, *, timeout: Duration | None = None) -> None:
        """Make one round trip to the server.

        Raises:
            UnavailableError: it can't be used now, with the reason.
        """
        limit = seconds(self.config.read_timeout if timeout is None else timeout)
        self.check_usable()
        try:
            await bounded(self._ping, limit)
        except TimeoutError:
            self.errors += 1
            raise DeadlineError(f"no answer within {limit:g} s", operation="ping", connection=self.name) from None

    async def _ping(self) -> None:
        await self.client.ping()

    async def capabilities(self) -> Capabilities:
        """Return what the live server can do."""
        info = await self.client.info("server")
        self._version = str(info["redis_version"])
        version = version_numbers(self._version)
        return Capabilities(kind="redis", server_version=version, concurrent_writers=True, listen_notify=True)

    @property
    def server_version(self) -> str | None:
        """The server's version, None where it would not say, or before the first connection."""
        return self._version

    def stats(self) -> PoolStats:
        """Return the state of the pool."""
        found = self._links.stats()
        return dataclasses.replace(found, requests=self.requests, errors=self.errors, dedicated=len(self.dedicated))

    async def aclose(self) -> None:
        """Close every connection; calls under way fail. Safe to call twice."""
        if self.is_closed:
            return
        self.is_closed = True
        for each in list(self.dedicated):
            await each.cut_off()
        await self._close()

    async def _close(self) -> None:
        """Close what was opened for the connection itself."""
        self._links.close()
        await self._lending.forget()


def is_denied(message: str) -> bool:
    """Tell whether the server refused a command because it isn't ours to run."""
    return any(part in message for part in ("NOPERM", "no permissions", "unknown command"))


def _connect_hint(message: str) -> str:
    for part, hint in (
        ("WRONGPASS", "check username and password"),
        ("invalid username-password", "check username and password"),
        ("Authentication required", "give a password"),
        ("invalid password", "check the password"),
        ("without any password", "the server has no password: leave it out"),
        ("Connect call failed", "is the server running, and host and port right?"),
        ("refused", "is the server running, and host and port right?"),
        ("No such file", "is the server running, and the socket right?"),
        ("No master found", "are the Sentinels running, and master_name right?"),
        ("cannot be connected", "is the cluster running, and nodes right?"),
        ("cluster mode is not enabled", "the server is no cluster: leave out cluster=True"),
        ("Timeout", "is the host right, and no firewall in between?"),
        ("out of range", "the server has fewer databases: lower database"),
        ("CERTIFICATE", "check tls_ca and the host name"),
    ):
        if part.lower() in message.lower():
            return hint
    return "see the server's log"
