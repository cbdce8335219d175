"""Connections that are held: wanted again by who has one, held for too long, dropped without being given back."""

from __future__ import annotations

import gc
import re
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncPubSub,
    ConfigError,
    NestedCheckoutError,
    PoolFullError,
    PoolTimeoutError,
    PostgreSQLConfig,
    RedisConfig,
    SavepointError,
    SQLiteConfig,
    TransactionError,
)
from tests._async.side import Started, sleep, together

HERE = Path(__file__).name


@pytest_asyncio.fixture(params=["postgresql", "sqlite", "memory"])
async def small(request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncDatabase:
    """A database that has one connection to write on, and the table ``t``."""
    made: AsyncDatabase
    if request.param == "postgresql":
        config = request.getfixturevalue("postgresql_config")
        made = await manager.add_postgresql("main", replace(config, max_connections=1, leak_after=0.1))
    else:
        path = ":memory:" if request.param == "memory" else str(tmp_path / "main.db")
        made = await manager.add_sqlite("main", SQLiteConfig(path=path, leak_after=0.1))
    await made.execute("CREATE TABLE t (id integer)")
    return made


async def until(found: Any, seconds: float = 10) -> None:
    """Collect what was dropped, and wait until something is so."""
    end = monotonic() + seconds
    gc.collect()
    while not found():
        assert monotonic() < end
        await sleep(0.01)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of connections that are not given back."""
    return [record.getMessage() for record in caplog.records if record.name == "persistence.leaks"]


async def test_a_second_connection_for_who_has_the_only_one_is_refused_at_once_with_the_place(
    small: AsyncDatabase,
) -> None:
    started = monotonic()
    async with small.transaction():
        await small.execute("INSERT INTO t VALUES (1)")
        assert await small.fetch_value("SELECT count(*) FROM t") == 1  # joins, and needs none
        with pytest.raises(NestedCheckoutError, match=f"there is no other; taken at .*{HERE}:[0-9]+ in test_a_second"):
            await small.run_apart("CREATE TABLE u (id integer)", answers=False)
        assert await small.fetch_value("SELECT count(*) FROM t") == 1

    # sync-only: def rows() -> Any:
    # sync-only:     yield (2,)
    # sync-only:     small.execute("INSERT INTO t VALUES (3)")

    # sync-only: with pytest.raises(NestedCheckoutError, match=f"taken at .*{HERE}:[0-9]+ in test_a_second"):
    # sync-only:     small.copy_into("t", ["id"], rows())
    assert await small.fetch_all("SELECT id FROM t") == [{"id": 1}]
    assert (small.stats().in_use, small.stats().waiting) == (0, 0)
    assert monotonic() - started < 2


async def test_holders_who_all_want_another_connection_are_told_and_the_rest_goes_on(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    config = replace(postgresql_config, max_connections=4, pool_timeout=8)
    main = await manager.add_postgresql("main", config)
    inside = 0

    async def nested() -> object:
        nonlocal inside
        async with main.transaction():
            inside += 1
            while inside < 4:
                await sleep(0.001)
            return (await main.run_apart("SELECT 7 AS seven", answers=True))[0]["seven"]

    started = monotonic()
    found = await together(nested, nested, nested, nested)
    assert monotonic() - started < 4
    refused = [each for each in found if isinstance(each, NestedCheckoutError)]
    assert len(refused) >= 1
    assert "all 4 are held by such" in str(refused[0])
    assert [each for each in found if each not in refused] == [7] * (4 - len(refused))
    assert (main.stats().in_use, main.stats().waiting) == (0, 0)


async def test_who_has_one_waits_for_another_that_comes_free(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    main = await manager.add_postgresql("main", replace(postgresql_config, max_connections=2, pool_timeout=5))
    async with main.transaction():
        busy = Started(lambda: main.fetch_value("SELECT 1 FROM pg_sleep(0.2)"))
        await until(lambda: main.stats().in_use == 2)
        assert await main.run_apart("SELECT 2 AS two", answers=True) == [{"two": 2}]
        assert await busy.result() == 1


async def test_a_full_pool_says_where_its_connections_were_taken(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    main = await manager.add_postgresql("main", replace(postgresql_config, max_connections=1, pool_timeout=0.1))
    async with main.transaction():
        with pytest.raises(PoolTimeoutError, match=f"stayed in use for [0-9.]+ s; taken at .*{HERE}:.* in test_a_full"):
            await Started(lambda: main.fetch_value("SELECT 1")).result()


async def test_a_transaction_that_is_open_for_too_long_is_reported_once_with_its_place(
    small: AsyncDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    async with small.transaction():
        await small.execute("INSERT INTO t VALUES (1)")
        await until(lambda: small.stats() and said(caplog))
        small.stats()
        (message,) = said(caplog)
        assert re.match(r"main: a connection has been out for \d+\.\d s", message)
        assert f"{HERE}:" in message
        assert "test_a_transaction_that_is_open_for_too_long" in message
    assert await small.fetch_value("SELECT count(*) FROM t") == 1
    assert len(said(caplog)) == 1


async def test_a_transaction_that_is_dropped_is_rolled_back_and_its_place_is_free_again(
    small: AsyncDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    for cyclic in (False, True):
        dropped = await small.transaction().__aenter__()
        await small.execute("INSERT INTO t VALUES (1)")
        if cyclic:
            inner = await dropped.transaction().__aenter__()  # each knows the other
            del inner
        assert small.in_transaction
        del dropped
        await until(lambda: said(caplog) and small.stats().in_use == 0)
        assert not small.in_transaction
        assert await small.fetch_value("SELECT count(*) FROM t") == 0
        (message,) = said(caplog)
        assert message.startswith("main: a connection was dropped without being given back; taken at ")
        assert f"{HERE}:" in message
        caplog.clear()
    await small.execute("INSERT INTO t VALUES (2)")
    assert await small.fetch_all("SELECT id FROM t") == [{"id": 2}]


async def test_who_waits_gets_the_place_of_a_transaction_that_is_dropped(small: AsyncDatabase) -> None:
    held = [await small.transaction().__aenter__()]
    waiting = Started(lambda: small.execute("INSERT INTO t VALUES (3)"))
    await until(lambda: small.stats().waiting == 1)
    held.clear()
    await until(lambda: small.stats().waiting == 0)
    assert await waiting.result() == 1


async def test_a_nested_transaction_that_was_left_open_ends_with_the_one_around_it(small: AsyncDatabase) -> None:
    with pytest.raises(TransactionError) as caught:
        async with small.transaction() as outer:
            inner = await outer.transaction().__aenter__()
            innermost = await inner.transaction().__aenter__()
            await small.execute("INSERT INTO t VALUES (1)")
    assert isinstance(caught.value.__cause__, SavepointError)
    assert not small.in_transaction
    assert await small.fetch_value("SELECT count(*) FROM t") == 0
    for ended in (inner, innermost):
        with pytest.raises(TransactionError, match="is ended"):
            await ended.execute("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
async def test_a_subscription_that_is_dropped_is_reported_and_its_connection_closed(
    kind: str, request: pytest.FixtureRequest, manager: AsyncDatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    config = request.getfixturevalue(f"{kind}_config")
    main = await getattr(manager, f"add_{kind}")("main", config)
    dropped = await AsyncPubSub(manager, "main").subscribe("c").__aenter__()
    await AsyncPubSub(manager, "main").publish("c", "x")
    notice = await dropped.get(timeout=5)
    assert notice is not None
    assert main.stats().dedicated == 1
    del dropped
    await until(lambda: said(caplog) and main.stats().dedicated == 0)
    (message,) = said(caplog)
    assert message.startswith("main: a subscription was dropped without being closed; made at ")
    assert f"{HERE}:" in message


async def test_what_redis_py_borrowed_and_dropped_comes_back(
    manager: AsyncDatabaseManager, redis_config: RedisConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(redis_config, pool_size=1, min_idle_connections=1, leak_after=0.05)
    cache = await manager.add_redis("cache", config)
    watching = cache.client.pipeline()
    await watching.watch("k")
    with pytest.raises(NestedCheckoutError, match=f"there is no other; taken at .*{HERE}:.* in test_what_redis_py"):
        await cache.client.get("k")
    await until(lambda: cache.stats() and said(caplog))
    assert re.match(r"cache: a connection has been out for \d", said(caplog)[0])
    del watching
    await until(lambda: cache.stats().in_use == 0)
    assert await cache.client.get("k") is None

    listening = cache.client.pubsub()
    await listening.subscribe("c")
    del listening
    await until(lambda: cache.stats().in_use == 0)
    assert await cache.client.set("k", "v")
    dropped = [message for message in said(caplog) if "dropped without being given back" in message]
    assert len(dropped) == 2
    assert all(f"{HERE}:" in message for message in dropped)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite", "redis"])
async def test_where_as_many_wait_as_may_the_next_one_is_refused_at_once(
    kind: str, request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path
) -> None:
    main: Any
    if kind == "redis":
        config = replace(request.getfixturevalue("redis_config"), pool_size=1, max_waiting=2)
        main = await manager.add_redis("main", config)
        watching = main.client.pipeline()
        await watching.watch("k")
        give_back = watching.reset

        async def ask() -> Any:
            return await main.client.get("k")
    else:
        if kind == "sqlite":
            main = await manager.add_sqlite("main", f"sqlite:///{tmp_path}/main.db?max_waiting=2")
        else:
            config = replace(request.getfixturevalue("postgresql_config"), max_connections=1, max_waiting=2)
            main = await manager.add_postgresql("main", config)
        held = await main.transaction().__aenter__()

        async def give_back() -> None:
            await held.__aexit__(None, None, None)

        async def ask() -> Any:
            return await main.execute("CREATE TABLE IF NOT EXISTS t (id integer)")

    waiting = [Started(ask) for _ in range(2)]
    await until(lambda: main.stats().waiting == 2)
    started = monotonic()
    refused = r"main: all 1 connections are in use, and 2 callers wait for one \(max_waiting\); taken at .*test_leaks"
    for _ in range(3):
        with pytest.raises(PoolFullError, match=refused) as caught:
            await Started(ask).result()
    assert "raise max_waiting" in str(caught.value)
    assert isinstance(caught.value, PoolTimeoutError)
    assert monotonic() - started < 2
    assert main.stats().waiting == 2
    await give_back()
    assert [await each.result() for each in waiting] == [await ask()] * 2
    assert (main.stats().waiting, main.stats().in_use) == (0, 0)


async def test_where_nobody_may_wait_a_free_connection_is_still_given(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    main = await manager.add_postgresql("main", replace(postgresql_config, max_connections=1, max_waiting=0))
    assert await main.fetch_value("SELECT 7") == 7
    async with main.transaction():
        with pytest.raises(PoolFullError, match="0 callers wait"):
            await Started(lambda: main.fetch_value("SELECT 7")).result()
        assert await main.fetch_value("SELECT 7") == 7
    assert await main.fetch_value("SELECT 7") == 7


def test_how_many_may_wait_is_a_number_or_none() -> None:
    for kind, scheme in ((PostgreSQLConfig, "postgresql"), (RedisConfig, "redis"), (SQLiteConfig, "sqlite")):
        assert kind().max_waiting is None
        assert kind.from_url(f"{scheme}://?max_waiting=0").max_waiting == 0
        assert kind.from_env("DB_", environ={"DB_MAX_WAITING": "50"}).max_waiting == 50
        with pytest.raises(ConfigError, match="max_waiting -1 is below 0"):
            kind(max_waiting=-1)
        for bad in (1.5, "many", True, [1]):
            with pytest.raises(ConfigError, match=r"max_waiting .* is no whole number"):
                kind(max_waiting=bad)  # type: ignore[arg-type]


def test_a_time_after_which_nothing_leaks_is_refused() -> None:
    for kind in (PostgreSQLConfig, RedisConfig, SQLiteConfig):
        with pytest.raises(ConfigError, match=r"leak_after 0.0 is not above 0"):
            kind(leak_after=0)
