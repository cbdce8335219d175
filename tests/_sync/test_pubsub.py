# Generated from ../_async/test_pubsub.py by tests/unasync.py: edit that one.
"""Notices on PostgreSQL and Redis: who gets them, when, and what a subscriber learns of those that are lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import psycopg
import pytest
import pytest

from persistence import (
    DatabaseManager,
    PostgreSQLDatabase,
    PubSub,
    RedisConnection,
    Subscription,
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
from tests._sync.side import Started, elsewhere, sleep
from tests.proxy import FaultyProxy
from tests.servers import redis_client

MISSED = Notice("", "", missed=True)


@pytest.fixture(params=("postgresql", "redis"))
def pubsub(request: pytest.FixtureRequest, manager: DatabaseManager) -> PubSub:
    """Notices on the connection ``main``."""
    if request.param == "redis":
        manager.add_redis("main", request.getfixturevalue("redis_config"))
    else:
        manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    return PubSub(manager, "main")


def heard(subscription: Subscription, count: int) -> list[Notice | None]:
    return [subscription.get(timeout=5) for _ in range(count)]


def break_connections(manager: DatabaseManager) -> None:
    """End every connection to the server that listens, from the server's side."""
    connection = manager.get("main")
    if isinstance(connection, RedisConnection):
        assert connection.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
    elif isinstance(connection, PostgreSQLDatabase):
        ended = connection.fetch_all(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        assert len(ended) >= 1


def test_a_reader_who_does_not_wait_gets_what_has_come(pubsub: PubSub) -> None:
    with pubsub.subscribe("a") as subscription:
        pubsub.publish("a", "1")
        last = monotonic() + 10
        while (notice := subscription.get(timeout=0)) is None:
            assert monotonic() < last
        assert notice == Notice("a", "1")
        assert subscription.get(timeout=0) is None


def test_a_notice_reaches_every_subscriber_of_its_channel_in_order_and_nobody_else(pubsub: PubSub) -> None:
    with pubsub.subscribe("a", "b") as both, pubsub.subscribe("b") as one:
        pubsub.publish("a", "1")
        pubsub.publish("b", "2")
        pubsub.publish("c", "3")
        pubsub.publish("a")
        assert heard(both, 3) == [Notice("a", "1"), Notice("b", "2"), Notice("a", "")]
        assert heard(one, 1) == [Notice("b", "2")]
        assert both.get(timeout=0) is None
        started = monotonic()
        assert one.get(timeout=0.05) is None
        assert 0.05 <= monotonic() - started < 2


def test_a_waiting_reader_is_woken(pubsub: PubSub) -> None:
    with pubsub.subscribe("a") as subscription:
        waiting = Started(lambda: subscription.get(timeout=10))
        pubsub.publish("a", "woken")
        assert waiting.result() == Notice("a", "woken")


def test_nothing_is_heard_before_subscribing_and_after_leaving(pubsub: PubSub) -> None:
    pubsub.publish("a", "before")
    with pubsub.subscribe("a") as subscription:
        assert subscription.get(timeout=0.05) is None
    with pytest.raises(ClosedError):
        subscription.get(timeout=0)
    with pytest.raises(ClosedError):
        with subscription:
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


def test_a_channel_may_have_any_name_and_none_is_taken_for_another(pubsub: PubSub) -> None:
    with pubsub.subscribe(*NAMES) as subscription:
        for number, name in enumerate(NAMES):
            pubsub.publish(name, f"ü {number}")
        assert heard(subscription, len(NAMES)) == [Notice(name, f"ü {n}") for n, name in enumerate(NAMES)]
        assert subscription.get(timeout=0) is None


def test_without_a_prefix_other_programs_are_heard_and_hear(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, redis_config: RedisConfig
) -> None:
    manager.add_postgresql("main", postgresql_config)
    manager.add_redis("cache", redis_config)
    with (
        PubSub(manager, "main", prefix="").subscribe("jobs") as on_postgresql,
        PubSub(manager, "cache", prefix="").subscribe("jobs") as on_redis,
        PubSub(manager, "cache").subscribe("jobs") as prefixed,
    ):
        with psycopg.connect(**postgresql_config.connection_parameters(), autocommit=True) as foreign:
            foreign.execute("NOTIFY jobs, 'from psql'")
        with redis_client(redis_config) as client:
            client.publish("jobs", "from redis-cli")
            client.publish("holdfast:jobs", b"\xff")
        assert on_postgresql.get(timeout=5) == Notice("jobs", "from psql")
        assert on_redis.get(timeout=5) == Notice("jobs", "from redis-cli")
        assert prefixed.get(timeout=5) == Notice("jobs", "\udcff")


def test_on_postgresql_a_notice_is_sent_when_the_transaction_commits(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", postgresql_config)
    pubsub = PubSub(manager, "main")
    with pubsub.subscribe("a") as subscription:
        with pytest.raises(RuntimeError):
            with database.transaction():
                pubsub.publish("a", "rolled back")
                raise RuntimeError
        with database.transaction():
            pubsub.publish("a", "1")
            pubsub.publish("a", "1")
            pubsub.publish("a", "2")
            assert subscription.get(timeout=0.05) is None
        assert heard(subscription, 2) == [Notice("a", "1"), Notice("a", "2")]
        assert subscription.get(timeout=0.05) is None


def test_a_lost_connection_is_made_anew_and_the_reader_told_once(
    manager: DatabaseManager, pubsub: PubSub
) -> None:
    with pubsub.subscribe("a", "b") as subscription:
        pubsub.publish("a", "1")
        assert subscription.get(timeout=5) == Notice("a", "1")
        break_connections(manager)
        assert subscription.get(timeout=5) == MISSED
        pubsub.publish("b", "2")
        assert subscription.get(timeout=5) == Notice("b", "2")
        assert subscription.get(timeout=0) is None
        waiting = Started(lambda: subscription.get(timeout=10))
        break_connections(manager)
        assert waiting.result() == MISSED


def test_what_came_before_the_loss_is_given_first(manager: DatabaseManager, pubsub: PubSub) -> None:
    with pubsub.subscribe("a") as subscription:
        for payload in ("1", "2", "3"):
            pubsub.publish("a", payload)
        assert subscription.get(timeout=5) == Notice("a", "1")
        break_connections(manager)
        found = []
        while (notice := subscription.get(timeout=5)) != MISSED:
            found.append(notice)
        assert found == [Notice("a", "2"), Notice("a", "3")][: len(found)]


def test_more_than_the_queue_holds_is_dropped_and_the_reader_told(pubsub: PubSub) -> None:
    with pubsub.subscribe("a", queue_size=3) as subscription, pubsub.subscribe("a") as other:
        for number in range(10):
            pubsub.publish("a", str(number))
        assert (heard(other, 10))[9] == Notice("a", "9")  # so the server has sent them all, or is about to
        found = []
        while (notice := subscription.get(timeout=5)) != MISSED:
            found.append(notice)
        assert found == [Notice("a", str(number)) for number in range(len(found))]
        assert 3 <= len(found) < 10
        pubsub.publish("a", "next")
        while (notice := subscription.get(timeout=5)) != Notice("a", "next"):
            assert notice in [
                MISSED,
                *(Notice("a", str(number)) for number in range(10)),
            ]  # the server was late with it
            if notice == MISSED:  # what is late may not have fitted either, nor what came behind it
                pubsub.publish("a", "next")


def test_a_burst_arrives_whole_and_in_order(pubsub: PubSub) -> None:
    def publish() -> None:
        for number in range(500):
            pubsub.publish("a", str(number))

    with pubsub.subscribe("a", queue_size=20_000) as subscription:
        publishing = Started(publish)
        found = heard(subscription, 500)
        publishing.result()
        assert found == [Notice("a", str(number)) for number in range(500)]


def test_an_iteration_ends_when_the_subscription_is_closed(pubsub: PubSub) -> None:
    found = []
    with pubsub.subscribe("a") as subscription:
        pubsub.publish("a", "1")
        pubsub.publish("a", "stop")
        for notice in subscription:
            found.append(notice.payload)
            if notice.payload == "stop":
                subscription.close()
    assert found == ["1", "stop"]


def test_closing_wakes_a_reader(manager: DatabaseManager, pubsub: PubSub) -> None:
    with pubsub.subscribe("a") as subscription:
        for close in (subscription.close, manager.close):
            with pubsub.subscribe("a") as other:
                reader = subscription if close == subscription.close else other
                waiting = Started(lambda reader=reader: reader.get(timeout=10))
                until_reading(reader)
                close()
                with pytest.raises(ClosedError):
                    waiting.result()


def until_reading(subscription: Subscription) -> None:
    """Wait until another task reads the subscription, which then refuses this one."""
    until = monotonic() + 10
    while monotonic() < until:
        try:
            elsewhere(lambda: subscription.get(timeout=0))
        except ValidationError:
            return
        sleep(0.001)
    raise AssertionError("nobody reads it")


def test_one_reader_at_a_time(pubsub: PubSub) -> None:
    with pubsub.subscribe("a") as subscription:
        waiting = Started(lambda: subscription.get(timeout=10))
        until_reading(subscription)
        with pytest.raises(ValidationError, match="another task is reading"):
            subscription.get(timeout=0)
        pubsub.publish("a", "1")
        assert waiting.result() == Notice("a", "1")


def test_a_closed_manager_ends_what_nobody_reads(manager: DatabaseManager, pubsub: PubSub) -> None:
    with pubsub.subscribe("a") as subscription:
        connection = manager.get("main")
        assert connection.stats().dedicated == 1
        manager.close()
        with pytest.raises(ClosedError):
            subscription.get(timeout=0)
        with pytest.raises(ClosedError):
            for _ in subscription:
                pass
    assert connection.stats().dedicated == 0
    with pytest.raises(ClosedError):
        pubsub.publish("a")
    with pytest.raises(ClosedError):
        pubsub.subscribe("a")


def test_subscriptions_take_no_place_in_the_pool(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    config = replace(postgresql_config, max_connections=1, pool_timeout=0.5)
    database = manager.add_postgresql("main", config)
    pubsub = PubSub(manager, "main")
    with pubsub.subscribe("a") as first, pubsub.subscribe("a") as second, database.transaction():
        assert (database.stats().in_use, database.stats().dedicated) == (1, 2)
        assert first.get(timeout=0) is None
        assert second.get(timeout=0) is None
    assert database.stats().dedicated == 0


BAD_CHANNELS = ("", "a\0b", "\ud800", "x" * 1025, b"a", 7, None)


def test_bad_input_is_refused(pubsub: PubSub, manager: DatabaseManager) -> None:
    for channel in BAD_CHANNELS:
        with pytest.raises(ValidationError):
            pubsub.publish(channel)  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            pubsub.subscribe("a", channel)  # type: ignore[arg-type]
    for payload in ("a\0b", "\ud800", b"a", 7, None, {}):
        with pytest.raises(ValidationError):
            pubsub.publish("a", payload)  # type: ignore[arg-type]
    for wrong in (lambda: pubsub.subscribe(), lambda: pubsub.subscribe("a", queue_size=0)):
        with pytest.raises(ValidationError):
            wrong()
    with pytest.raises(ValidationError):
        pubsub.subscribe("a", check_after=0)
    with pytest.raises(UnknownConnectionError):
        PubSub(manager, "nobody")


def test_a_payload_goes_up_to_what_notify_carries(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, redis_config: RedisConfig
) -> None:
    manager.add_postgresql("main", postgresql_config)
    manager.add_redis("cache", redis_config)
    pubsub = PubSub(manager, "main")
    with pubsub.subscribe(LONG) as subscription:
        for fits in ("x" * 7999, "ü" * 3999):
            pubsub.publish(LONG, fits)
            assert subscription.get(timeout=5) == Notice(LONG, fits)
        for too_long in ("x" * 8000, "ü" * 4000):
            with pytest.raises(ValidationError, match=r"main: the payload has 8,000 bytes.*publish its id"):
                pubsub.publish(LONG, too_long)
    large = "x" * 100_000
    with PubSub(manager, "cache").subscribe(LONG) as subscription:
        PubSub(manager, "cache").publish(LONG, large)
        assert subscription.get(timeout=5) == Notice(LONG, large)


def test_sqlite_has_no_notices_and_says_what_else_there_is(manager: DatabaseManager) -> None:
    manager.add_sqlite("main", "sqlite://")
    with pytest.raises(CapabilityError, match=r"main: SQLite has no notices .*PostgreSQL or Redis"):
        PubSub(manager, "main")


@pytest.fixture(params=("postgresql", "redis"))
def proxied(request: pytest.FixtureRequest, manager: DatabaseManager) -> Iterator[FaultyProxy]:
    """A proxy, and behind it the server of the connection ``main``."""
    if request.param == "postgresql":
        config: PostgreSQLConfig = request.getfixturevalue("postgresql_config")
        with FaultyProxy(f"{config.host}/.s.PGSQL.{config.port}") as proxy:
            near = replace(config, host="127.0.0.1", port=proxy.port, connect_timeout=0.5)
            manager.add_postgresql("main", near)
            yield proxy
            manager.close()
    else:
        plain: RedisConfig = request.getfixturevalue("redis_config")
        with FaultyProxy(plain.unix_socket or (plain.host, plain.port)) as proxy:
            timeouts = {"dial_timeout": 0.5, "read_timeout": 0.5, "write_timeout": 0.5}
            there = replace(plain, unix_socket=None, host="127.0.0.1", port=proxy.port, **timeouts)
            manager.add_redis("main", there)
            yield proxy
            manager.close()


def test_a_server_that_is_away_is_an_error_and_one_that_is_back_a_missed_notice(
    manager: DatabaseManager, proxied: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence._sync.pubsub.RECONNECT_SECONDS", 0.2)
    pubsub = PubSub(manager, "main")
    with pubsub.subscribe("a") as subscription:
        proxied.mode = "refuse"
        proxied.cut()
        started = monotonic()
        with pytest.raises(UnavailableError):
            subscription.get(timeout=0.2)
        assert monotonic() - started < 2
        with pytest.raises(UnavailableError):
            subscription.get(timeout=0)
        with pytest.raises(ConnectError):
            with pubsub.subscribe("a"):
                pass
        waiting = Started(lambda: subscription.get(timeout=10))
        proxied.mode = "pass"
        assert waiting.result() == MISSED
        pubsub.publish("a", "1")
        assert subscription.get(timeout=5) == Notice("a", "1")


def test_a_server_that_has_fallen_silent_is_found_out(
    manager: DatabaseManager, proxied: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence._sync.pubsub.ASK_SECONDS", 1.0)
    monkeypatch.setattr("persistence._sync.pubsub.RECONNECT_SECONDS", 0.2)
    with PubSub(manager, "main").subscribe("a", check_after=0.1) as subscription:
        assert subscription.get(timeout=0.25) is None  # asked twice, and answered
        proxied.mode = "black hole"
        started = monotonic()
        with pytest.raises(UnavailableError):
            subscription.get(timeout=1.5)
        assert monotonic() - started < 15
        proxied.mode = "pass"
        proxied.cut()
        assert subscription.get(timeout=5) == MISSED
