"""Notices on PostgreSQL and Redis: who gets them, when, and what a subscriber learns of those that are lost."""

from __future__ import annotations

import asyncio  # async-only
from collections.abc import AsyncIterator
from dataclasses import replace
from time import monotonic

import psycopg
import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    AsyncPubSub,
    AsyncRedisConnection,
    AsyncSubscription,
    CapabilityError,
    ClosedError,
    ConnectError,
    Notice,
    PostgreSQLConfig,
    RedisConfig,
    UnavailableError,
    UnknownConnectionError,
    ValidationError,
)
from tests._async.side import Started, elsewhere, sleep
from tests.proxy import FaultyProxy
from tests.servers import redis_client

MISSED = Notice("", "", missed=True)


@pytest_asyncio.fixture(params=("postgresql", "redis"))
async def pubsub(request: pytest.FixtureRequest, manager: AsyncDatabaseManager) -> AsyncPubSub:
    """Notices on the connection ``main``."""
    if request.param == "redis":
        await manager.add_redis("main", request.getfixturevalue("redis_config"))
    else:
        await manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    return AsyncPubSub(manager, "main")


async def heard(subscription: AsyncSubscription, count: int) -> list[Notice | None]:
    return [await subscription.get(timeout=5) for _ in range(count)]


async def break_connections(manager: AsyncDatabaseManager) -> None:
    """End every connection to the server that listens, from the server's side."""
    connection = manager.get("main")
    if isinstance(connection, AsyncRedisConnection):
        assert await connection.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
    elif isinstance(connection, AsyncPostgreSQLDatabase):
        ended = await connection.fetch_all(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        assert len(ended) >= 1


async def test_a_reader_who_does_not_wait_gets_what_has_come(pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe("a") as subscription:
        await pubsub.publish("a", "1")
        last = monotonic() + 10
        while (notice := await subscription.get(timeout=0)) is None:
            assert monotonic() < last
        assert notice == Notice("a", "1")
        assert await subscription.get(timeout=0) is None


async def test_a_notice_reaches_every_subscriber_of_its_channel_in_order_and_nobody_else(pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe("a", "b") as both, pubsub.subscribe("b") as one:
        await pubsub.publish("a", "1")
        await pubsub.publish("b", "2")
        await pubsub.publish("c", "3")
        await pubsub.publish("a")
        assert await heard(both, 3) == [Notice("a", "1"), Notice("b", "2"), Notice("a", "")]
        assert await heard(one, 1) == [Notice("b", "2")]
        assert await both.get(timeout=0) is None
        started = monotonic()
        assert await one.get(timeout=0.05) is None
        assert 0.05 <= monotonic() - started < 2


async def test_a_waiting_reader_is_woken(pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe("a") as subscription:
        waiting = Started(lambda: subscription.get(timeout=10))
        await pubsub.publish("a", "woken")
        assert await waiting.result() == Notice("a", "woken")


async def test_nothing_is_heard_before_subscribing_and_after_leaving(pubsub: AsyncPubSub) -> None:
    await pubsub.publish("a", "before")
    async with pubsub.subscribe("a") as subscription:
        assert await subscription.get(timeout=0.05) is None
    with pytest.raises(ClosedError):
        await subscription.get(timeout=0)
    with pytest.raises(ClosedError):
        async with subscription:
            pass


LONG = "channel " * 100
NAMES = (
    'a"; DROP TABLE x; --',
    "a'b",
    "ünïcode ☃",
    "A",
    "a",
    " a",
    "%",
    "*",
    "?[a]",
    "{x}:y",
    "x" * 63,
    LONG,
    LONG + "!",
)


async def test_a_channel_may_have_any_name_and_none_is_taken_for_another(pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe(*NAMES) as subscription:
        for number, name in enumerate(NAMES):
            await pubsub.publish(name, f"ü {number}")
        assert await heard(subscription, len(NAMES)) == [Notice(name, f"ü {n}") for n, name in enumerate(NAMES)]
        assert await subscription.get(timeout=0) is None


async def test_without_a_prefix_other_programs_are_heard_and_hear(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig, redis_config: RedisConfig
) -> None:
    await manager.add_postgresql("main", postgresql_config)
    await manager.add_redis("cache", redis_config)
    async with (
        AsyncPubSub(manager, "main", prefix="").subscribe("jobs") as on_postgresql,
        AsyncPubSub(manager, "cache", prefix="").subscribe("jobs") as on_redis,
        AsyncPubSub(manager, "cache").subscribe("jobs") as prefixed,
    ):
        with psycopg.connect(**postgresql_config.connection_parameters(), autocommit=True) as foreign:
            foreign.execute("NOTIFY jobs, 'from psql'")
        with redis_client(redis_config) as client:
            client.publish("jobs", "from redis-cli")
            client.publish("holdfast:jobs", b"\xff")
        assert await on_postgresql.get(timeout=5) == Notice("jobs", "from psql")
        assert await on_redis.get(timeout=5) == Notice("jobs", "from redis-cli")
        assert await prefixed.get(timeout=5) == Notice("jobs", "\udcff")


async def test_on_postgresql_a_notice_is_sent_when_the_transaction_commits(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = await manager.add_postgresql("main", postgresql_config)
    pubsub = AsyncPubSub(manager, "main")
    async with pubsub.subscribe("a") as subscription:
        with pytest.raises(RuntimeError):
            async with database.transaction():
                await pubsub.publish("a", "rolled back")
                raise RuntimeError
        async with database.transaction():
            await pubsub.publish("a", "1")
            await pubsub.publish("a", "1")
            await pubsub.publish("a", "2")
            assert await subscription.get(timeout=0.05) is None
        assert await heard(subscription, 2) == [Notice("a", "1"), Notice("a", "2")]
        assert await subscription.get(timeout=0.05) is None


async def test_a_lost_connection_is_made_anew_and_the_reader_told_once(
    manager: AsyncDatabaseManager, pubsub: AsyncPubSub
) -> None:
    async with pubsub.subscribe("a", "b") as subscription:
        await pubsub.publish("a", "1")
        assert await subscription.get(timeout=5) == Notice("a", "1")
        await break_connections(manager)
        assert await subscription.get(timeout=5) == MISSED
        await pubsub.publish("b", "2")
        assert await subscription.get(timeout=5) == Notice("b", "2")
        assert await subscription.get(timeout=0) is None
        waiting = Started(lambda: subscription.get(timeout=10))
        await break_connections(manager)
        assert await waiting.result() == MISSED


async def test_what_came_before_the_loss_is_given_first(manager: AsyncDatabaseManager, pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe("a") as subscription:
        for payload in ("1", "2", "3"):
            await pubsub.publish("a", payload)
        assert await subscription.get(timeout=5) == Notice("a", "1")
        await break_connections(manager)
        found = []
        while (notice := await subscription.get(timeout=5)) != MISSED:
            found.append(notice)
        assert found == [Notice("a", "2"), Notice("a", "3")][: len(found)]


async def test_more_than_the_queue_holds_is_dropped_and_the_reader_told(pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe("a", queue_size=3) as subscription, pubsub.subscribe("a") as other:
        for number in range(10):
            await pubsub.publish("a", str(number))
        assert (await heard(other, 10))[9] == Notice("a", "9")  # so the server has sent them all, or is about to
        found = []
        while (notice := await subscription.get(timeout=5)) != MISSED:
            found.append(notice)
        assert found == [Notice("a", str(number)) for number in range(len(found))]
        assert 3 <= len(found) < 10
        await pubsub.publish("a", "next")
        while (notice := await subscription.get(timeout=5)) != Notice("a", "next"):
            assert notice in [
                MISSED,
                *(Notice("a", str(number)) for number in range(10)),
            ]  # the server was late with it
            if notice == MISSED:  # what is late may not have fitted either, nor what came behind it
                await pubsub.publish("a", "next")


async def test_a_burst_arrives_whole_and_in_order(pubsub: AsyncPubSub) -> None:
    async def publish() -> None:
        for number in range(500):
            await pubsub.publish("a", str(number))

    async with pubsub.subscribe("a", queue_size=20_000) as subscription:
        publishing = Started(publish)
        found = await heard(subscription, 500)
        await publishing.result()
        assert found == [Notice("a", str(number)) for number in range(500)]


async def test_an_iteration_ends_when_the_subscription_is_closed(pubsub: AsyncPubSub) -> None:
    found = []
    async with pubsub.subscribe("a") as subscription:
        await pubsub.publish("a", "1")
        await pubsub.publish("a", "stop")
        async for notice in subscription:
            found.append(notice.payload)
            if notice.payload == "stop":
                await subscription.aclose()
    assert found == ["1", "stop"]


async def test_closing_wakes_a_reader(manager: AsyncDatabaseManager, pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe("a") as subscription:
        for close in (subscription.aclose, manager.aclose):
            async with pubsub.subscribe("a") as other:
                reader = subscription if close == subscription.aclose else other
                waiting = Started(lambda reader=reader: reader.get(timeout=10))
                await until_reading(reader)
                await close()
                with pytest.raises(ClosedError):
                    await waiting.result()


async def until_reading(subscription: AsyncSubscription) -> None:
    """Wait until another task reads the subscription, which then refuses this one."""
    until = monotonic() + 10
    while monotonic() < until:
        try:
            await elsewhere(lambda: subscription.get(timeout=0))
        except ValidationError:
            return
        await sleep(0.001)
    raise AssertionError("nobody reads it")


async def test_one_reader_at_a_time(pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe("a") as subscription:
        waiting = Started(lambda: subscription.get(timeout=10))
        await until_reading(subscription)
        with pytest.raises(ValidationError, match="another task is reading"):
            await subscription.get(timeout=0)
        await pubsub.publish("a", "1")
        assert await waiting.result() == Notice("a", "1")


async def test_a_closed_manager_ends_what_nobody_reads(manager: AsyncDatabaseManager, pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe("a") as subscription:
        connection = manager.get("main")
        assert connection.stats().dedicated == 1
        await manager.aclose()
        with pytest.raises(ClosedError):
            await subscription.get(timeout=0)
        with pytest.raises(ClosedError):
            async for _ in subscription:
                pass
    assert connection.stats().dedicated == 0
    with pytest.raises(ClosedError):
        await pubsub.publish("a")
    with pytest.raises(ClosedError):
        pubsub.subscribe("a")


async def test_subscriptions_take_no_place_in_the_pool(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    config = replace(postgresql_config, max_connections=1, pool_timeout=0.5)
    database = await manager.add_postgresql("main", config)
    pubsub = AsyncPubSub(manager, "main")
    async with pubsub.subscribe("a") as first, pubsub.subscribe("a") as second, database.transaction():
        assert (database.stats().in_use, database.stats().dedicated) == (1, 2)
        assert await first.get(timeout=0) is None
        assert await second.get(timeout=0) is None
    assert database.stats().dedicated == 0


BAD_CHANNELS = ("", "a\0b", "\ud800", "x" * 1025, b"a", 7, None)


async def test_bad_input_is_refused(pubsub: AsyncPubSub, manager: AsyncDatabaseManager) -> None:
    for channel in BAD_CHANNELS:
        with pytest.raises(ValidationError):
            await pubsub.publish(channel)  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            pubsub.subscribe("a", channel)  # type: ignore[arg-type]
    for payload in ("a\0b", "\ud800", b"a", 7, None, {}):
        with pytest.raises(ValidationError):
            await pubsub.publish("a", payload)  # type: ignore[arg-type]
    for wrong in (lambda: pubsub.subscribe(), lambda: pubsub.subscribe("a", queue_size=0)):
        with pytest.raises(ValidationError):
            wrong()
    with pytest.raises(ValidationError):
        pubsub.subscribe("a", check_after=0)
    with pytest.raises(UnknownConnectionError):
        AsyncPubSub(manager, "nobody")


async def test_a_payload_goes_up_to_what_notify_carries(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig, redis_config: RedisConfig
) -> None:
    await manager.add_postgresql("main", postgresql_config)
    await manager.add_redis("cache", redis_config)
    pubsub = AsyncPubSub(manager, "main")
    async with pubsub.subscribe(LONG) as subscription:
        for fits in ("x" * 7999, "ü" * 3999):
            await pubsub.publish(LONG, fits)
            assert await subscription.get(timeout=5) == Notice(LONG, fits)
        for too_long in ("x" * 8000, "ü" * 4000):
            with pytest.raises(ValidationError, match=r"main: the payload has 8,000 bytes.*publish its id"):
                await pubsub.publish(LONG, too_long)
    large = "x" * 100_000
    async with AsyncPubSub(manager, "cache").subscribe(LONG) as subscription:
        await AsyncPubSub(manager, "cache").publish(LONG, large)
        assert await subscription.get(timeout=5) == Notice(LONG, large)


# [async-only]
async def test_a_reader_that_is_cancelled_loses_nothing(pubsub: AsyncPubSub) -> None:
    async with pubsub.subscribe("a") as subscription:
        found = []
        for number in range(200):
            reading = asyncio.create_task(subscription.get(timeout=10))
            publishing = asyncio.create_task(pubsub.publish("a", str(number)))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            if not reading.done():
                reading.cancel()
            found += [one.payload for one in await asyncio.gather(reading, return_exceptions=True)
                      if isinstance(one, Notice)]  # fmt: skip
            await publishing
        while len(found) < 200 and (notice := await subscription.get(timeout=5)) is not None:
            found.append(notice.payload)
        assert found == [str(number) for number in range(200)]


# [/async-only]
async def test_sqlite_has_no_notices_and_says_what_else_there_is(manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("main", "sqlite://")
    with pytest.raises(CapabilityError, match=r"main: SQLite has no notices .*PostgreSQL or Redis"):
        AsyncPubSub(manager, "main")


@pytest_asyncio.fixture(params=("postgresql", "redis"))
async def proxied(request: pytest.FixtureRequest, manager: AsyncDatabaseManager) -> AsyncIterator[FaultyProxy]:
    """A proxy, and behind it the server of the connection ``main``."""
    if request.param == "postgresql":
        config: PostgreSQLConfig = request.getfixturevalue("postgresql_config")
        with FaultyProxy(f"{config.host}/.s.PGSQL.{config.port}") as proxy:
            near = replace(config, host="127.0.0.1", port=proxy.port, connect_timeout=0.5)
            await manager.add_postgresql("main", near)
            yield proxy
            await manager.aclose()
    else:
        plain: RedisConfig = request.getfixturevalue("redis_config")
        with FaultyProxy(plain.unix_socket or (plain.host, plain.port)) as proxy:
            timeouts = {"dial_timeout": 0.5, "read_timeout": 0.5, "write_timeout": 0.5}
            there = replace(plain, unix_socket=None, host="127.0.0.1", port=proxy.port, **timeouts)
            await manager.add_redis("main", there)
            yield proxy
            await manager.aclose()


async def test_a_server_that_is_away_is_an_error_and_one_that_is_back_a_missed_notice(
    manager: AsyncDatabaseManager, proxied: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence._async.pubsub.RECONNECT_SECONDS", 0.2)
    pubsub = AsyncPubSub(manager, "main")
    async with pubsub.subscribe("a") as subscription:
        proxied.mode = "refuse"
        proxied.cut()
        started = monotonic()
        with pytest.raises(UnavailableError):
            await subscription.get(timeout=0.2)
        assert monotonic() - started < 2
        with pytest.raises(UnavailableError):
            await subscription.get(timeout=0)
        with pytest.raises(ConnectError):
            async with pubsub.subscribe("a"):
                pass
        waiting = Started(lambda: subscription.get(timeout=10))
        proxied.mode = "pass"
        assert await waiting.result() == MISSED
        await pubsub.publish("a", "1")
        assert await subscription.get(timeout=5) == Notice("a", "1")


async def test_a_server_that_has_fallen_silent_is_found_out(
    manager: AsyncDatabaseManager, proxied: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence._async.pubsub.ASK_SECONDS", 1.0)
    monkeypatch.setattr("persistence._async.pubsub.RECONNECT_SECONDS", 0.2)
    async with AsyncPubSub(manager, "main").subscribe("a", check_after=0.1) as subscription:
        assert await subscription.get(timeout=0.25) is None  # asked twice, and answered
        proxied.mode = "black hole"
        started = monotonic()
        with pytest.raises(UnavailableError):
            await subscription.get(timeout=1.5)
        assert monotonic() - started < 15
        proxied.mode = "pass"
        proxied.cut()
        assert await subscription.get(timeout=5) == MISSED
