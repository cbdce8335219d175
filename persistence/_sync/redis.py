# Generated from ../_async/redis.py by tests/unasync.py: edit that one.
"""Redis through redis-py: its pool and its commands, with our timeouts, errors and retries.

A command that only reads is sent again after a dropped connection, ``max_retries`` times. Everything else is sent
once: a lost answer does not say whether a write took effect, and INCR or LPUSH sent twice count twice.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Sequence
from time import monotonic
from typing import Any

import redis as driver
from redis import __version__ as driver_version
from redis.client import Pipeline
from redis.connection import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as DroppedError
from redis.exceptions import NoScriptError, RedisError, WatchError
from redis.maint_notifications import MaintNotificationsConfig

from persistence._sync.compat import Mutex, bounded, check_home, current_home, descriptor_of, sleep
from persistence._sync.pool import Dedicated
from persistence.capabilities import Capabilities
from persistence.config import RedisConfig
from persistence.errors import (
    ClosedError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    PersistenceError,
    QueryError,
    from_redis,
)
from persistence.fields import Duration, reveal, scrub, seconds
from persistence.health import PoolStats
from persistence.observing import Observation, Observers
from persistence.scripts import Script
from persistence.sockets import is_readable, shut_down

READS = frozenset(
    "BITCOUNT BITPOS DBSIZE DUMP ECHO EXISTS EXPIRETIME GEODIST GEOHASH GEOPOS GEOSEARCH GET GETBIT GETRANGE HEXISTS"
    " HGET HGETALL HKEYS HLEN HMGET HRANDFIELD HSCAN HSTRLEN HTTL HVALS INFO KEYS LINDEX LLEN LPOS LRANGE MGET"
    " PEXPIRETIME PFCOUNT PING PTTL RANDOMKEY SCAN SCARD SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER"
    " SRANDMEMBER SSCAN STRLEN SUNION TIME TTL TYPE XINFO XLEN XPENDING XRANGE XREVRANGE ZCARD ZCOUNT ZDIFF ZINTER"
    " ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYSCORE"
    " ZREVRANK ZSCAN ZSCORE ZUNION".split()
)
"""Commands that change nothing, so that sending one twice is sending it once."""


_DRIVER = DriverInfo(lib_version=driver_version)
"""What the server is told of who we are; redis-py would look its own version up on disk for each connection."""


class _Checked:
    """A connection that is made anew, as it is taken from the pool, when it is dead or was idle for too long."""

    idle_timeout = float("inf")
    released_at: float | None = None

    def connect(self) -> None:
        if self.released_at is not None:
            idle, self.released_at = monotonic() - self.released_at, None
            descriptor = descriptor_of(self)
            if idle > self.idle_timeout or (descriptor is not None and is_readable(descriptor)):
                self.disconnect()  # type: ignore[attr-defined]
        super().connect()  # type: ignore[misc]


class _PlainConnection(_Checked, Connection):
    pass


class _TLSConnection(_Checked, SSLConnection):
    pass


class _SocketConnection(_Checked, UnixDomainSocketConnection):
    pass


class _MasterConnection(_Checked, SentinelManagedConnection):
    pass


class _TLSMasterConnection(_Checked, SentinelManagedSSLConnection):
    pass


class _Pool(BlockingConnectionPool):
    """redis-py's pool, counting its connections and remembering when each was given back."""

    idle_limit = float("inf")
    acquiring = 0
    counting: Any
    made: list[Any]
    in_use: set[Any]

    def make_connection(self) -> Any:
        connection = super().make_connection()
        connection.idle_timeout = self.idle_limit
        with self.counting:
            self.made.append(connection)
        return connection

    def get_connection(self, *args: Any, **options: Any) -> Any:
        with self.counting:
            self.acquiring += 1
        try:
            connection = super().get_connection(*args, **options)
        finally:
            with self.counting:
                self.acquiring -= 1
        with self.counting:
            self.in_use.add(connection)
        return connection

    def release(self, connection: Any) -> None:
        connection.released_at = monotonic()
        with self.counting:
            self.in_use.discard(connection)
        super().release(connection)


class _SentinelPool(_Pool):
    """A pool of connections to the master that Sentinels name, which each new connection asks them for."""

    is_master = True
    check_connection = False
    sentinels: Sentinel
    master_name = ""

    def ask(self, config: RedisConfig) -> None:
        """Take note of the Sentinels."""
        self.master_name = config.master_name or ""
        self.sentinels = Sentinel(
            config.addresses,
            sentinel_kwargs={
                "username": config.sentinel_username,
                "password": reveal(config.sentinel_password) or None,
                "socket_timeout": seconds(config.read_timeout),
                "socket_connect_timeout": seconds(config.dial_timeout),
                "retry": Retry(NoBackoff(), 0),
            },
        )
        self.connection_kwargs["connection_pool"] = weakref.proxy(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self.master_name})>"  # its connections know it: redis-py's would never end

    def get_master_address(self) -> tuple[str, int]:
        found: tuple[str, int] = self.sentinels.discover_master(self.master_name)
        return found

    def forget_sentinels(self) -> None:
        """Close the connections to the Sentinels."""
        for each in self.sentinels.sentinels:
            each.close()


class RedisClient(driver.Redis):
    """redis-py's client; its errors are ours, and only reads are retried."""

    owner: RedisConnection

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command; see redis-py for each command's own method."""
        owner = self.owner
        owner.check_usable()
        owner.requests += 1
        retries = owner.config.max_retries if str(args[0]).upper() in READS else 0
        seen = owner.observers.begin(str(args[0]), str(args[0]))
        while True:
            try:
                answer = super().execute_command(*args, **options)
                if seen is not None:
                    seen.done(None)
                return answer
            except DroppedError as exc:
                if retries == 0 or owner.is_closed or "No connection available" in str(exc):
                    raise owner.failure(exc, str(args[0]), seen) from exc
            except RedisError as exc:
                raise owner.failure(exc, str(args[0]), seen) from exc
            retries -= 1
            sleep(0.01 + 0.02 * random.random())

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> RedisPipeline:
        """Return a pipeline: commands sent in one round trip, atomically unless ``transaction`` is false."""
        made = RedisPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.owner = self.owner
        return made


class RedisPipeline(Pipeline):
    """redis-py's pipeline; its errors are ours. It is sent once. WatchError stays redis-py's own."""

    owner: RedisConnection

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands and return their answers in order."""
        self.owner.check_usable()
        self.owner.requests += 1
        seen = self.owner.observers.begin_many("pipeline", (str(each[0][0]) for each in self.command_stack))
        try:
            answers: list[Any] = super().execute(raise_on_error)
        except WatchError:
            raise
        except RedisError as exc:
            raise self.owner.failure(exc, "pipeline", seen) from exc
        if seen is not None:
            seen.done(None)
        return answers


class RedisConnection:
    """A named Redis server; made by ``DatabaseManager.add_redis``. Commands are methods of ``client``."""

    kind = "redis"

    def __init__(self, name: str, config: RedisConfig) -> None:
        self.name = name
        self.config = config
        self.requests = self.errors = 0
        threshold = config.slow_threshold
        self.observers = Observers(name, self.kind, None if threshold is None else seconds(threshold))
        self.is_closed = False
        self.dedicated: set[Dedicated] = set()
        """Who holds a connection outside the pool."""
        self._version: str | None = None
        self._home = current_home()
        self._prepare()

    def _prepare(self) -> None:
        """Make the pool and the client, which connect when they are used."""
        self._pool = self._make_pool()
        self._client = RedisClient(connection_pool=self._pool)
        self._client.owner = self

    @property
    def client(self) -> RedisClient:
        """redis-py's client: each command is a method of it."""
        return self._client

    def _link_options(self) -> dict[str, Any]:
        """Return redis-py's options of a connection to any server."""
        config = self.config
        options: dict[str, Any] = {
            "db": config.database,
            "username": config.username,
            "password": reveal(config.password) or None,
            # redis-py knows one timeout for both directions.
            "socket_timeout": max(seconds(config.read_timeout), seconds(config.write_timeout)),
            "socket_connect_timeout": seconds(config.dial_timeout),
            "retry": Retry(NoBackoff(), 0),
            # Its notifications would switch off the check that finds a dropped connection before it is used.
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            "socket_keepalive": True,
            "driver_info": _DRIVER,
        }
        if config.tls:
            options |= {
                "ssl_cert_reqs": "required" if config.tls_verify else "none",
                "ssl_check_hostname": config.tls_verify,
                "ssl_ca_certs": config.tls_ca,
                "ssl_certfile": config.tls_cert,
                "ssl_keyfile": config.tls_key,
            }
        return options

    def _make_pool(self) -> _Pool:
        config, options = self.config, self._link_options()
        made: type[_Pool] = _Pool
        kind: Any = _TLSConnection if config.tls else _PlainConnection
        if config.unix_socket:
            kind = _SocketConnection
            options |= {"path": config.unix_socket}
            del options["socket_connect_timeout"], options["socket_keepalive"]
        elif config.sentinel:
            made, kind = _SentinelPool, _TLSMasterConnection if config.tls else _MasterConnection
            options["host"] = None  # whatever the Sentinels say
        else:
            options |= {"host": config.host, "port": config.port}
        pool = made(
            max_connections=config.pool_size,
            timeout=seconds(config.pool_timeout),
            connection_class=kind,
            **options,
        )
        if isinstance(pool, _SentinelPool):
            pool.ask(config)
        pool.idle_limit = seconds(config.idle_timeout)
        pool.counting, pool.made, pool.in_use = Mutex(), [], set()
        return pool

    def open(self) -> None:
        """Make the first connections, ``min_idle_connections`` of them and at least one.

        Raises:
            ConnectError: the server can't be reached or refuses us.
        """
        try:
            links = []
            for _ in range(max(1, min(self.config.min_idle_connections, self.config.pool_size))):
                links.append(self._pool.get_connection())
            for link in links:
                self._pool.release(link)
            self._version = (driver.Redis.execute_command(self.client, "INFO", "server"))["redis_version"]
        except RedisError as exc:
            if _is_denied(str(exc)):
                return  # we are in, but INFO is not ours to run
            raise self._connect_error(exc) from exc

    def _connect_error(self, exc: Exception) -> ConnectError:
        message = scrub(str(exc), self.config.password)
        return ConnectError(
            f"can't connect to Redis at {self.config.address}: {message}",
            hint=_connect_hint(message),
            operation="connect",
            connection=self.name,
        )

    def dial(self) -> Any:
        """Return a connection of redis-py's outside the pool, in RESP 2; the caller disconnects it.

        Raises:
            ConnectError: the server can't be reached or refuses us.
            ClosedError: the connection was closed.
        """
        self.check_usable()
        made = self._pool.connection_class(**{**self._pool.connection_kwargs, "protocol": 2})
        try:
            made.connect()
        except RedisError as exc:
            raise self._connect_error(exc) from exc
        return made

    def check_usable(self) -> None:
        """Refuse a command on a closed connection, or from another event loop."""
        if self.is_closed:
            raise ClosedError("it was closed", hint="add it to a manager again", connection=self.name)
        check_home(self._home, self.name)

    def failure(self, exc: Exception, operation: str, seen: Observation | None = None) -> PersistenceError:
        """Count an error and return ours for it."""
        self.errors += 1
        if self.is_closed:
            ours: PersistenceError = ClosedError(
                "it was closed while this ran", operation=operation, connection=self.name
            )
        else:
            ours = from_redis(exc, operation=operation, connection=self.name)
        if seen is not None:
            seen.failed(ours)
        return ours

    def run_script(
        self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[Any] = (), *, reads: bool = False
    ) -> Any:
        """Return the answer of a Lua script: one round trip, and one more where the server hasn't seen it yet.

        A server that doesn't know the script has done nothing, and is sent its text. A script that only ``reads`` is
        sent again after a dropped connection, ``max_retries`` times; any other is sent once, for a lost answer does
        not say whether it took effect.

        Raises:
            ConnectionLostError: the answer was lost.
            QueryError: the script, or the server, refused.
        """
        command = ("EVALSHA", script.sha)
        retries = self.config.max_retries if reads else 0
        while True:
            try:
                return self.client.execute_command(*command, len(keys), *keys, *arguments)
            except QueryError as exc:
                if command[0] == "EVAL" or not isinstance(exc.__cause__, NoScriptError):
                    raise
                self.errors -= 1  # no error: the server was asked whether it knows the script
                command = ("EVAL", script.text)
            except ConnectionLostError:
                if retries == 0 or self.is_closed:
                    raise
                retries -= 1

    def ping(self, *, timeout: Duration | None = None) -> None:
        """Make one round trip to the server.

        Raises:
            UnavailableError: it can't be used now, with the reason.
        """
        limit = seconds(self.config.read_timeout if timeout is None else timeout)
        self.check_usable()
        try:
            bounded(self._ping, limit)
        except TimeoutError:
            self.errors += 1
            raise DeadlineError(f"no answer within {limit:g} s", operation="ping", connection=self.name) from None

    def _ping(self) -> None:
        self.client.ping()

    def capabilities(self) -> Capabilities:
        """Return what the live server can do."""
        info = self.client.info("server")
        version = tuple(int(part) for part in str(info["redis_version"]).split("."))
        self._version = info["redis_version"]
        return Capabilities(kind="redis", server_version=version, concurrent_writers=True, listen_notify=True)

    @property
    def server_version(self) -> str | None:
        """The server's version, None where it would not say."""
        return self._version

    def stats(self) -> PoolStats:
        """Return the state of the pool; ``waiting`` counts those who are getting a connection right now."""
        pool = self._pool
        return PoolStats(
            open=len(pool.made),
            in_use=len(pool.in_use),
            idle=max(0, len(pool.made) - len(pool.in_use)),
            waiting=pool.acquiring,
            max_open=self.config.pool_size,
            max_idle=self.config.pool_size,
            requests=self.requests,
            errors=self.errors,
            dedicated=len(self.dedicated),
        )

    def close(self) -> None:
        """Close every connection; calls under way fail. Safe to call twice."""
        if self.is_closed:
            return
        self.is_closed = True
        for each in list(self.dedicated):
            each.cut_off()
        for connection in list(self._pool.made):
            if connection in self._pool.in_use:
                # Whoever waits on it sees the end, and disconnects it where nobody else reads.
                descriptor = descriptor_of(connection)
                if descriptor is not None:
                    shut_down(descriptor)
            else:
                connection.disconnect()
        if isinstance(self._pool, _SentinelPool):
            self._pool.forget_sentinels()


def _is_denied(message: str) -> bool:
    return "NOPERM" in message or "no permissions" in message


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
