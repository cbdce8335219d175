"""Redis Cluster through redis-py's own client, with our timeouts, errors and retries.

Protocol: redis-py has a pool for each node, which refuses a call when it is empty instead of having it wait. So a call
takes one of ``pool_size`` turns first, and waits for that as it would for a connection; whoever has a turn finds a
connection on each node. redis-py learns anew who has which keys when a node breaks a connection or sends it elsewhere.
It repeats nothing; commands that only read are repeated here.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, cast

import redis.asyncio as driver
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ConnectionError as DroppedError
from redis.exceptions import RedisClusterException, RedisError, WatchError

from persistence._async.compat import Mutex, sleep
from persistence._async.pool import AsyncPool
from persistence._async.redis import READS, AsyncRedisClient, AsyncRedisConnection, is_denied
from persistence._async.redis_pool import connection_class, link_options
from persistence.errors import PersistenceError
from persistence.fields import seconds
from persistence.health import PoolStats

SPARE = 2
"""How many connections a node may have beyond the turns: redirections take another one for a moment."""


class _Turn:
    """What a call holds while it runs."""

    def is_alive(self) -> bool:
        return True

    def discard(self) -> None:
        return None

    def interrupt(self) -> None:
        return None

    def recover(self) -> bool:
        return True


class AsyncClusterClient(driver.RedisCluster):
    """redis-py's client of a cluster; its errors are ours, and only reads are retried."""

    owner: AsyncRedisClusterConnection | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to the node that has its keys; see redis-py for each command's own method."""
        driver_client: Any = super()
        if self.owner is None:  # it is being made, and asks a server what it needs to know
            return await driver_client.execute_command(*args, **options)
        name = str(args[0])
        reads = options.pop("reads", False) or name.upper() in READS
        return await self.owner.run(name, lambda: driver_client.execute_command(*args, **options), reads=reads)

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> Any:
        """Return a pipeline: atomic and on one slot, or else one round trip to each node, in no order between them."""
        driver_client: Any = super()
        made = driver_client.pipeline(transaction=transaction, shard_hint=shard_hint)
        owner, execute = cast(AsyncRedisClusterConnection, self.owner), made.execute

        async def sent(raise_on_error: bool = True) -> list[Any]:
            found: list[Any] = await owner.run("pipeline", lambda: execute(raise_on_error))
            return found

        made.execute = sent
        return made


class AsyncRedisClusterConnection(AsyncRedisConnection):
    """A named Redis Cluster; made by ``AsyncDatabaseManager.add_redis`` from a configuration with ``cluster=True``."""

    def _prepare(self) -> None:
        async def turn(deadline: float) -> _Turn:
            return _Turn()

        size = self.config.pool_size
        self._turns: AsyncPool[_Turn] = AsyncPool(
            self.name, turn, max_open=size, max_idle=size, max_waiting=self.config.max_waiting
        )
        self._cluster: AsyncClusterClient | None = None
        self._guard = Mutex()

    @property
    def client(self) -> AsyncRedisClient:
        """redis-py's client of the cluster: each command is a method of it.

        Raises:
            ConnectError: no node can be reached.
        """
        return cast(AsyncRedisClient, self._cluster or self._made())  # it has the same commands

    def _made(self) -> AsyncClusterClient:
        try:
            made = AsyncClusterClient(**self._cluster_options())
        except (RedisError, RedisClusterException) as exc:
            raise self._connect_error(exc) from exc
        made.owner = self
        with self._guard:  # another thread may have been as quick; redis-py closes the one that nobody keeps
            self._cluster = self._cluster or made
            return self._cluster

    def _cluster_options(self) -> dict[str, Any]:
        options, node = link_options(self.config), cast(Any, ClusterNode)
        del options["db"]
        return {
            **options,
            "startup_nodes": [node(host, port) for host, port in self.config.addresses],
            "max_connections": self.config.pool_size + SPARE,
            "ssl": self.config.tls,
        }

    async def open(self) -> None:
        """Find the nodes.

        Raises:
            ConnectError: none can be reached, or they refuse us.
        """
        self.check_usable()
        try:
            await cast(Any, self.client).initialize()  # async-only
            await self._ask_version()
        except (RedisError, RedisClusterException) as exc:
            raise self._connect_error(exc) from exc

    async def _ask_version(self) -> None:
        """Ask a node for its version, unless one has told it, or it is not ours to ask."""
        if self._version is not None or self._is_silent:
            return
        try:
            found = await cast(Any, self.client).info("server", target_nodes=driver.RedisCluster.RANDOM)
        except PersistenceError as exc:
            if not is_denied(exc.message):
                raise
            self._is_silent = True
        else:
            self._version = found["redis_version"]

    async def dial(self) -> Any:
        """Return a connection of redis-py's to any node, outside the pools, in RESP 2; the caller disconnects it.

        Raises:
            ConnectError: no node can be reached.
            ClosedError: the connection was closed.
        """
        self.check_usable()
        kind = connection_class(self.config)
        known = [(node.host, int(node.port)) for node in cast(Any, self.client).get_primaries()]
        addresses = [*known, *self.config.addresses]
        for place, (host, port) in enumerate(addresses, 1):
            made = kind(**{**link_options(self.config), "host": host, "port": port, "protocol": 2})
            try:
                await made.connect()
                break
            except RedisError as exc:
                if place == len(addresses):
                    raise self._connect_error(exc) from exc
        return made

    async def send(self, command: Sequence[Any], *, reads: bool) -> Any:
        """Return the answer to a command, of the node that has its keys."""
        return await self.client.execute_command(*command, reads=reads)

    async def run(self, command: str, call: Callable[[], Awaitable[Any]], *, reads: bool = False) -> Any:
        """Return what a call of redis-py's gives, in a turn; one that only reads is repeated after a broken connection.

        Raises:
            PoolTimeoutError: no turn came within ``pool_timeout``.
        """
        self.check_usable()
        self.requests += 1
        retries = self.config.max_retries if reads else 0
        seen = self.observers.begin(command, command)
        try:
            turn = await self._turns.acquire(monotonic() + seconds(self.config.pool_timeout))
        except PersistenceError as exc:
            self.note(exc, seen)
            raise
        try:
            while True:
                try:
                    answer = await call()
                    if seen is not None:
                        seen.done(None)
                    return answer
                except WatchError:
                    raise
                except DroppedError as exc:
                    if retries == 0 or self.is_closed:
                        raise self.failure(exc, command, seen) from exc
                except (RedisError, RedisClusterException) as exc:
                    raise self.failure(exc, command, seen) from exc
                retries -= 1
                await sleep(0.01 + 0.02 * random.random())
        finally:
            self._turns.release(turn)

    async def _ping(self) -> None:
        await self._ask_version()
        await cast(Any, self.client).ping(target_nodes=driver.RedisCluster.PRIMARIES)

    def stats(self) -> PoolStats:
        """Return the state of the turns: how many calls are under way, and how many wait."""
        found = self._turns.stats()
        return dataclasses.replace(found, requests=self.requests, errors=self.errors, dedicated=len(self.dedicated))

    async def _close(self) -> None:
        self._turns.close()
        if self._cluster is not None:
            await self._cluster.aclose()
