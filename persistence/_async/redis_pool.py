"""The pool of connections to one Redis server, or to the master that Sentinels name, and its face for redis-py.

redis-py's objects (pipelines, subscriptions, locks) borrow a connection from ``LendingPool``, which takes it from the
pool that every command uses: ``pool_size`` is one limit for both.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from inspect import signature
from time import monotonic
from typing import Any

from redis import __version__ as driver_version
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff

from persistence._async.pool import AsyncPool
from persistence._async.redis_link import AsyncRedisLink
from persistence.config import RedisConfig
from persistence.fields import reveal, seconds, seconds_or_none
from persistence.places import calling_place


def _newer_options() -> dict[str, Any]:
    """Return the options of a connection that not every version of redis-py has, as far as this one has them."""
    known = signature(AbstractConnection.__init__).parameters
    options: dict[str, Any] = {}
    if "maint_notifications_config" in known and not driver_version.startswith(
        "7."
    ):  # which needs telling in RESP3 only
        from redis.maint_notifications import MaintNotificationsConfig

        # Its notifications would switch off the check that finds a dropped connection before it is used.
        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    # What the server is told of who we are: redis-py would look its own version up on disk for each connection.
    if "driver_info" in known:
        from redis.driver_info import DriverInfo

        options["driver_info"] = DriverInfo(lib_version=driver_version)
    else:
        options["lib_version"] = driver_version
    return options


_NEWER_OPTIONS = _newer_options()


def link_options(config: RedisConfig) -> dict[str, Any]:
    """Return redis-py's options of a connection to any server."""
    options: dict[str, Any] = {
        "db": config.database,
        "username": config.username,
        "password": reveal(config.password) or None,
        "socket_timeout": config.answer_timeout,
        "socket_connect_timeout": seconds(config.dial_timeout),
        "retry": Retry(NoBackoff(), 0),
        "socket_keepalive": True,
        **_NEWER_OPTIONS,
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


def connection_class(config: RedisConfig) -> Any:
    """Return redis-py's class of a connection to a server at a known address."""
    return UnixDomainSocketConnection if config.unix_socket else SSLConnection if config.tls else Connection


class LendingPool(ConnectionPool):
    """What redis-py takes for its pool: it borrows from ours."""

    links: AsyncPool[AsyncRedisLink]

    def __init__(self, config: RedisConfig, kind: Any, **options: Any) -> None:
        self._config = config
        self._lent: dict[int, AsyncRedisLink] = {}
        super().__init__(connection_class=kind, max_connections=config.pool_size, **options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._config.address})>"  # redis-py's own, until 7, shows the password

    async def dial(self, **options: Any) -> Any:
        """Return a new connection of redis-py's, with other ``options`` than the pool's where some are given."""
        made = self.connection_class(**{**self.connection_kwargs, **options})
        await made.connect()
        return made

    def deadline(self) -> float:
        """Return until when who needs a connection now waits for it (monotonic seconds)."""
        return monotonic() + seconds(self._config.pool_timeout)

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        """Lend a connection."""
        link = await self.links.acquire(self.deadline(), calling_place())
        connection = link.lend()
        self._lent[id(connection)] = link
        return connection

    async def release(self, connection: Any) -> None:
        """Take a connection back."""
        link = self._lent.pop(id(connection), None)
        if link is None:
            return  # it was taken back before
        link.is_broken = True
        try:
            await link.take_back()
        finally:
            self.links.release(link, broken=link.is_broken)

    def lose(self, connection: Any) -> None:
        """Take back a connection whose borrower was dropped with it; a destructor may call this."""
        link = self._lent.pop(id(connection), None)
        if link is not None:
            self.links.lose(link)

    async def forget(self) -> None:
        """Close what isn't in the pool."""


class SentinelPool(LendingPool):
    """A pool of connections to the master that Sentinels name, which each new connection asks them for."""

    is_master = True
    check_connection = False

    def __init__(self, config: RedisConfig, kind: Any, **options: Any) -> None:
        super().__init__(config, kind, **options)
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

    async def get_master_address(self) -> tuple[str, int]:
        """Return where the master is; asked by each connection that is made."""
        found: tuple[str, int] = await self.sentinels.discover_master(self.master_name)
        return found

    async def forget(self) -> None:
        """Close the connections to the Sentinels."""
        for each in self.sentinels.sentinels:
            await each.aclose()


def make_pool(name: str, config: RedisConfig, greet: Callable[[AsyncRedisLink], Awaitable[None]]) -> LendingPool:
    """Return the pool of a connection of that name, with no connection in it; ``greet`` gets each one that is made."""
    options = link_options(config)
    made: type[LendingPool] = LendingPool
    kind = connection_class(config)
    if config.unix_socket:
        options |= {"path": config.unix_socket}
        del options["socket_connect_timeout"], options["socket_keepalive"]
    elif config.sentinel:
        made, kind = SentinelPool, SentinelManagedSSLConnection if config.tls else SentinelManagedConnection
        options["host"] = None  # whatever the Sentinels say
    else:
        options |= {"host": config.host, "port": config.port}
    pool = made(config, kind, **options)

    async def connect(deadline: float) -> AsyncRedisLink:
        connection = await pool.dial()
        link = AsyncRedisLink(connection, timeout=config.answer_timeout, only_master=bool(config.sentinel))
        try:
            await greet(link)
        except BaseException:
            link.discard()
            raise
        return link

    pool.links = AsyncPool(
        name,
        connect,
        max_open=config.pool_size,
        max_idle=config.pool_size,
        max_idle_time=seconds(config.idle_timeout),
        leak_after=seconds_or_none(config.leak_after),
        max_waiting=config.max_waiting,
    )
    return pool
