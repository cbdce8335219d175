"""Real faults, provoked on real servers: what callers see, how soon, and how it heals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    AsyncRedisConnection,
    CommitUnknownError,
    ConnectionLostError,
    DeadlineError,
    EmbeddedPostgreSQL,
    EmbeddedRedis,
    PoolTimeoutError,
    PostgreSQLConfig,
    RedisConfig,
    UnavailableError,
)
from tests._async.side import Started, sleep, together
from tests.proxy import FaultyProxy


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgreSQL]:
    """A PostgreSQL of this module's own, which its tests stop, freeze and kill."""
    with EmbeddedPostgreSQL(tmp_path_factory.mktemp("own"), settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture
def server(own_server: EmbeddedPostgreSQL) -> Iterator[EmbeddedPostgreSQL]:
    yield own_server
    if not own_server.is_running():
        own_server.start()


@pytest_asyncio.fixture
async def main(manager: AsyncDatabaseManager, server: EmbeddedPostgreSQL) -> AsyncPostgreSQLDatabase:
    database = await manager.add_postgresql(
        "main", replace(server.config(), max_connections=10, max_idle_connections=10)
    )
    await database.execute("CREATE TABLE IF NOT EXISTS t (id integer PRIMARY KEY)")
    await database.execute("TRUNCATE t")
    return database


async def fill_pool(database: AsyncPostgreSQLDatabase, size: int = 10) -> None:
    """Leave ``size`` idle connections in the pool."""

    all_out = False

    async def hold() -> None:
        nonlocal all_out
        async with database.transaction():
            while not all_out:
                all_out = database.stats().in_use == size
                await sleep(0.002)

    assert await together(*[hold] * size) == [None] * size
    assert database.stats().idle == size


def processes_of(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a server and all its processes, as a hanging machine does."""
    pids = processes_of(pid)
    for each in pids:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in pids:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)


async def test_a_cancel_request_that_comes_before_the_server_has_read_the_statement_is_repeated(
    main: AsyncPostgreSQLDatabase,
) -> None:
    backend = await main.fetch_value("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)  # it will see the request before the statement
    go_on = threading.Timer(0.1, os.kill, (backend, signal.SIGCONT))
    go_on.start()
    with pytest.raises(ZeroDivisionError):
        await main.execute("INSERT INTO t SELECT 1 FROM pg_sleep(30)", meanwhile=lambda: 1 / 0)
    go_on.join()
    assert await main.fetch_value("SELECT pg_backend_pid()") == backend
    assert await main.fetch_all("SELECT * FROM t") == []


async def test_after_a_restart_no_idle_connection_causes_an_error(
    main: AsyncPostgreSQLDatabase, server: EmbeddedPostgreSQL
) -> None:
    await fill_pool(main)
    server.stop()
    server.start()
    started = monotonic()
    assert await main.fetch_value("SELECT 1") == 1
    assert monotonic() - started < 5
    for _ in range(20):
        assert await main.fetch_value("SELECT 1") == 1
    stats = main.stats()
    assert (stats.errors, stats.discarded) == (0, 10)


async def test_connections_that_the_server_ended_are_replaced_unseen(main: AsyncPostgreSQLDatabase) -> None:
    await fill_pool(main)
    async with main.transaction():
        await main.fetch_all(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND application_name = 'holdfast'"
        )
    results = await together(*[lambda: main.fetch_value("SELECT 1")] * 20)
    assert results == [1] * 20
    assert main.stats().errors == 0


async def test_connections_that_a_proxy_cut_are_replaced_unseen(
    manager: AsyncDatabaseManager, server: EmbeddedPostgreSQL
) -> None:
    with FaultyProxy(socket_of(server)) as proxy:
        database = await manager.add_postgresql("main", through(server, proxy))
        await fill_pool(database)
        proxy.cut()
        assert await together(*[lambda: database.fetch_value("SELECT 1")] * 20) == [1] * 20
        assert database.stats().errors == 0
        await manager.aclose()


def socket_of(server: EmbeddedPostgreSQL) -> str:
    return f"{server.config().host}/.s.PGSQL.{server.config().port}"


def through(server: EmbeddedPostgreSQL, proxy: FaultyProxy, **changes: Any) -> PostgreSQLConfig:
    return replace(
        server.config(), host="127.0.0.1", port=proxy.port, max_connections=10, max_idle_connections=10, **changes
    )


async def test_a_black_hole_costs_a_deadline_and_no_more(
    manager: AsyncDatabaseManager, server: EmbeddedPostgreSQL
) -> None:
    with FaultyProxy(socket_of(server)) as proxy:
        database = await manager.add_postgresql("main", through(server, proxy))
        proxy.mode = "black hole"
        started = monotonic()
        with pytest.raises(DeadlineError):
            await database.fetch_value("SELECT 1", timeout=0.3)
        assert monotonic() - started < 2
        started = monotonic()
        with pytest.raises(UnavailableError):  # this one has to dial
            await database.fetch_value("SELECT 1", timeout=0.3)
        assert monotonic() - started < 2
        started = monotonic()
        assert not (await manager.health_check(timeout=0.3))["main"]
        assert monotonic() - started < 2
        proxy.mode = "pass"
        assert await database.fetch_value("SELECT 1") == 1
        assert (await manager.health_check())["main"]
        await manager.aclose()


async def test_a_frozen_server_costs_a_deadline_and_heals(
    manager: AsyncDatabaseManager, main: AsyncPostgreSQLDatabase, server: EmbeddedPostgreSQL
) -> None:
    other = await manager.add_sqlite("other", "sqlite://")
    await fill_pool(main, 2)
    assert server.pid is not None
    with frozen(server.pid):
        for _ in range(3):  # two idle connections, then one that has to be dialled
            started = monotonic()
            with pytest.raises(UnavailableError):
                await main.fetch_value("SELECT 1", timeout=0.3)
            assert monotonic() - started < 2
        started = monotonic()
        health = await manager.health_check(timeout=0.3)
        assert monotonic() - started < 2
        assert (bool(health["main"]), bool(health["other"])) == (False, True)
        assert health["main"].error
        assert await other.fetch_value("SELECT 1") == 1
        assert main.stats().in_use == 0
    assert await main.fetch_value("SELECT 1") == 1
    assert (await manager.health_check())["main"]


async def test_health_waits_two_seconds_at_most_by_default(
    manager: AsyncDatabaseManager, main: AsyncPostgreSQLDatabase, server: EmbeddedPostgreSQL
) -> None:
    assert server.pid is not None
    with frozen(server.pid):
        started = monotonic()
        assert not (await manager.health_check())["main"]
        assert 1.9 < monotonic() - started < 4


async def test_a_dead_server_is_unhealthy_and_recovers_by_itself(
    manager: AsyncDatabaseManager, main: AsyncPostgreSQLDatabase, server: EmbeddedPostgreSQL
) -> None:
    server.stop()
    status = (await manager.health_check())["main"]
    assert not status
    assert status.error is not None
    assert "can't connect to PostgreSQL" in status.error
    with pytest.raises(UnavailableError):
        await main.fetch_value("SELECT 1")
    server.start()
    assert (await manager.health_check())["main"]
    assert await main.fetch_value("SELECT 1") == 1


async def test_a_broken_transaction_leaves_nothing_and_the_pool_whole(
    main: AsyncPostgreSQLDatabase,
) -> None:
    with pytest.raises(ConnectionLostError):
        async with main.transaction() as transaction:
            await transaction.execute("INSERT INTO t VALUES (1)")
            pid = await transaction.fetch_value("SELECT pg_backend_pid()")
            await main.fetch_apart("SELECT pg_terminate_backend(:pid)", {"pid": pid})
            await transaction.execute("INSERT INTO t VALUES (2)")
    assert await main.fetch_all("SELECT * FROM t") == []
    assert main.stats().in_use == 0


async def test_a_commit_whose_answer_is_lost_is_called_unknown(
    manager: AsyncDatabaseManager, server: EmbeddedPostgreSQL, main: AsyncPostgreSQLDatabase
) -> None:
    with FaultyProxy(socket_of(server)) as proxy:
        database = await manager.add_postgresql("proxied", through(server, proxy))
        with pytest.raises(CommitUnknownError, match="may be durable"):
            async with database.transaction():
                await database.execute("INSERT INTO t VALUES (1)")
                proxy.mode = "swallow replies"
        proxy.mode = "pass"
        until = monotonic() + 5
        while not await main.fetch_all("SELECT * FROM t") and monotonic() < until:
            await sleep(0.01)
        assert await main.fetch_all("SELECT * FROM t") == [{"id": 1}]  # the server had committed
        assert await database.fetch_value("SELECT 1") == 1
        await manager.aclose()


async def test_a_full_pool_times_out_by_name_and_serves_in_order(
    manager: AsyncDatabaseManager, server: EmbeddedPostgreSQL
) -> None:
    config = replace(server.config(), max_connections=1, pool_timeout=0.2)
    database = await manager.add_postgresql("main", config)
    async with database.transaction():
        waiting = Started(lambda: database.fetch_value("SELECT 1"))
        with pytest.raises(PoolTimeoutError, match=r"all 1 connections stayed in use for 0\.2 s"):
            await waiting.result()
        assert (database.stats().waiting, database.stats().in_use) == (0, 1)
    order: list[int] = []

    async def turn(number: int) -> None:
        while database.stats().waiting != number:
            await sleep(0.001)
        await database.fetch_value("SELECT 1", timeout=10)
        order.append(number)

    config = replace(config, pool_timeout=10)
    database = await manager.add_postgresql("main", config, replace=True)
    async with database.transaction():
        calls = [Started(lambda number=number: turn(number)) for number in range(8)]
        while database.stats().waiting < 8:
            await sleep(0.001)
    for call in calls:
        await call.result()
    assert order == list(range(8))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own."""
    with EmbeddedRedis(tmp_path / "redis") as running:
        yield running


@pytest_asyncio.fixture
async def cache(manager: AsyncDatabaseManager, own_redis: EmbeddedRedis) -> AsyncIterator[AsyncRedisConnection]:
    yield await manager.add_redis("cache", replace(own_redis.config(), read_timeout=0.5, write_timeout=0.5))


async def test_redis_after_a_restart_causes_no_error(cache: AsyncRedisConnection, own_redis: EmbeddedRedis) -> None:
    await cache.client.set("k", "v")
    own_redis.stop()
    own_redis.start()
    for number in range(5):
        assert await cache.client.incr("n") == number + 1
    assert cache.errors == 0


async def test_a_dead_or_frozen_redis_is_unhealthy_and_recovers(
    manager: AsyncDatabaseManager, cache: AsyncRedisConnection, own_redis: EmbeddedRedis
) -> None:
    assert own_redis.pid is not None
    with frozen(own_redis.pid):
        started = monotonic()
        status = (await manager.health_check(timeout=0.4))["cache"]
        assert monotonic() - started < 2
        assert not status
        assert status.error
    assert (await manager.health_check())["cache"]
    own_redis.stop()
    status = (await manager.health_check())["cache"]
    assert not status
    assert status.error
    with pytest.raises(UnavailableError):
        await cache.client.get("k")
    own_redis.start()
    assert (await manager.health_check())["cache"]


async def test_a_redis_write_whose_answer_is_lost_is_applied_once(
    manager: AsyncDatabaseManager, own_redis: EmbeddedRedis, cache: AsyncRedisConnection
) -> None:
    socket = own_redis.config().unix_socket
    assert socket is not None
    with FaultyProxy(socket) as proxy:
        config = RedisConfig(host="127.0.0.1", port=proxy.port, password=own_redis.config().password)
        proxied = await manager.add_redis("proxied", config)
        await proxied.client.set("r", "kept")
        for write in ("incr", "lpush", "append", "xadd"):
            await proxied.client.ping()  # connected: the command itself goes out, and its answer is lost
            proxy.mode = "swallow replies"
            with pytest.raises(UnavailableError):
                if write == "incr":
                    await proxied.client.incr("n")
                elif write == "lpush":
                    await proxied.client.lpush("l", "x")
                elif write == "append":
                    await proxied.client.append("s", "x")
                else:
                    await proxied.client.xadd("x", {"a": "b"})
            proxy.mode = "pass"
        assert await cache.client.get("n") == b"1"
        assert await cache.client.llen("l") == 1
        assert await cache.client.strlen("s") == 1
        assert await cache.client.xlen("x") == 1
        before = proxy.connections
        proxy.mode = "swallow replies"
        with pytest.raises(UnavailableError):
            await proxied.client.get("r")
        assert proxy.connections - before == 4  # a read is sent again, max_retries times, on new connections
        proxy.mode = "pass"
        assert await proxied.client.get("r") == b"kept"
        await manager.aclose()


async def test_a_full_redis_pool_times_out_by_name(manager: AsyncDatabaseManager, own_redis: EmbeddedRedis) -> None:
    cache = await manager.add_redis("cache", replace(own_redis.config(), pool_size=1, pool_timeout=0.2))
    blocked = Started(lambda: cache.client.blpop(["nothing"], timeout=1))
    while cache.stats().in_use < 1:
        await sleep(0.002)
    with pytest.raises(PoolTimeoutError):
        await cache.client.get("k")
    assert not (await manager.health_check(timeout=0.3))["cache"]
    assert await blocked.result() is None
    assert (await manager.health_check())["cache"]
    assert (cache.stats().in_use, cache.stats().waiting, cache.stats().max_open) == (0, 0, 1)
