# Generated from ../_async/test_checkpoint_cache_faults.py by tests/unasync.py: edit that one.
"""Faults of the Redis in front of PostgreSQL: killed, empty, hanging, full; no call fails, and none is behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import pytest
import pytest

from checkpoint import CachedCheckpointer, Checkpoint
from persistence import Database, DatabaseManager, EmbeddedRedis, PostgreSQLConfig, RedisConfig
from tests._sync.side import sleep, together
from tests._sync.test_checkpoint_cached import LONG, PATIENT, STATE, Forgetful
from tests.proxy import FaultyProxy

pytestmark = pytest.mark.tables("checkpoint")


@pytest.fixture
def main(manager: DatabaseManager, postgresql_config: PostgreSQLConfig) -> Database:
    return manager.add_postgresql("main", postgresql_config)


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A Redis of the test's own, without a disk: each start finds it empty."""
    with EmbeddedRedis(
        tmp_path_factory.mktemp("redis") / "server", settings={"appendonly": "no", "save": ""}
    ) as running:
        yield running


def try_again(*checkpointers: CachedCheckpointer) -> None:
    """End the pause in which Redis is left alone."""
    for each in checkpointers:
        each._paused_until = 0.0


def test_a_redis_that_is_killed_and_comes_back_empty_costs_one_error_and_one_line_in_the_log(
    manager: DatabaseManager, main: Database, own_redis: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "checkpoint")
    manager.add_redis("cache", own_redis.config())
    with Forgetful(manager, "main", "cache") as checkpointer:
        checkpointer.save_checkpoint(Checkpoint("t", STATE))
        own_redis.stop()
        for n in range(1, 6):
            saved = checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n}))
            assert checkpointer.load_checkpoint("t") == saved
        stats = checkpointer.stats()
        assert (stats.errors, stats.is_down, stats.hits, stats.stores) == (1, True, 0, 1)
        assert stats.skipped == 14  # a load that Redis can't serve would fill it too
        try_again(checkpointer)
        assert checkpointer.load_checkpoint("t") == saved
        assert checkpointer.stats().errors == 2
        own_redis.start()
        assert checkpointer.load_checkpoint("t") == saved  # still left alone
        assert checkpointer.stats().skipped == 17
        try_again(checkpointer)
        for hits in (0, 1):
            assert checkpointer.load_checkpoint("t") == saved
            assert (checkpointer.stats().hits, checkpointer.stats().is_down) == (hits, False)
    assert [(record.levelname, record.getMessage().partition(":")[0]) for record in caplog.records] == [
        ("WARNING", "Redis 'cache' caches no checkpoints for now"),
        ("INFO", "Redis 'cache' caches checkpoints again"),
    ]


def test_a_redis_that_was_down_from_the_start_fails_nothing(
    manager: DatabaseManager, main: Database, own_redis: EmbeddedRedis
) -> None:
    config = own_redis.config()
    own_redis.stop()
    manager.add_redis("cache", config, lazy=True)
    with Forgetful(manager, "main", "cache") as checkpointer:
        saved = checkpointer.save_checkpoint(Checkpoint("t", STATE))
        assert checkpointer.load_checkpoint("t") == saved
        assert checkpointer.delete_thread("t") == 1
        assert checkpointer.stats().errors == 1


def test_a_black_hole_delays_one_call_by_a_bounded_time(
    manager: DatabaseManager, main: Database, own_redis: EmbeddedRedis
) -> None:
    socket = own_redis.config().unix_socket
    assert socket is not None
    with FaultyProxy(socket) as proxy:
        config = RedisConfig(host="127.0.0.1", port=proxy.port, password=own_redis.config().password)
        manager.add_redis("cache", config)
        with Forgetful(manager, "main", "cache", timeout=0.2) as checkpointer:
            checkpointer.save_checkpoint(Checkpoint("t", STATE))
            proxy.mode = "black hole"
            started = monotonic()
            saved = checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": 1}))
            assert 0.15 < monotonic() - started < 1.5
            before = checkpointer.stats()
            for _ in range(20):
                assert checkpointer.load_checkpoint("t") == saved
            assert checkpointer.stats() == replace(before, misses=before.misses + 20, skipped=before.skipped + 40)
            try_again(checkpointer)
            results = together(*[lambda: checkpointer.load_checkpoint("t")] * 8)
            assert results == [saved] * 8
            assert checkpointer.stats().errors == 2  # one of them tried
            proxy.mode = "pass"
            try_again(checkpointer)
            for _ in range(2):
                assert checkpointer.load_checkpoint("t") == saved
            assert checkpointer.stats().hits == 1
        manager.close()


def test_a_full_redis_fails_no_save_and_what_it_has_is_not_read_when_behind(
    manager: DatabaseManager, main: Database, own_redis: EmbeddedRedis
) -> None:
    redis = manager.add_redis("cache", own_redis.config())
    with Forgetful(manager, "main", "cache") as checkpointer:
        checkpointer.save_checkpoint(Checkpoint("t", STATE))
        redis.client.config_set("maxmemory", "1")
        saved = checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "document": LONG[::-1]}))
        assert checkpointer.stats().errors == 1
        try_again(checkpointer)
        assert checkpointer.load_checkpoint("t") == saved
        redis.client.config_set("maxmemory", "0")
        try_again(checkpointer)
        assert checkpointer.load_checkpoint("t") == saved
        assert checkpointer.stats().is_down is False


def test_readers_never_see_an_older_state_than_was_acknowledged_while_redis_comes_and_goes(
    manager: DatabaseManager, main: Database, own_redis: EmbeddedRedis, postgresql_config: PostgreSQLConfig
) -> None:
    manager.add_redis("cache", own_redis.config())
    manager.add_postgresql("second", postgresql_config)
    manager.add_redis("second cache", own_redis.config())
    acknowledged = 0
    done = False

    def write(checkpointer: CachedCheckpointer) -> None:
        nonlocal acknowledged
        for _ in range(40):
            found = checkpointer.latest("t")
            n = 0 if found is None else found.state["n"] + 1
            saved = checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n, "document": f"{n} " * 999}))
            acknowledged = max(acknowledged, saved.version or 0)
            try_again(checkpointer)

    def read(checkpointer: CachedCheckpointer) -> int:
        count = 0
        while not done:
            least = acknowledged
            found = checkpointer.latest("t")
            if found is not None:
                assert (found.version or 0) >= least
                assert found.state == {**STATE, "n": found.state["n"], "document": f"{found.state['n']} " * 999}
                count += 1
            else:
                assert least == 0
            try_again(checkpointer)
            sleep(0.001)
        return count

    def disturb() -> None:
        for _ in range(4):
            own_redis.stop()
            sleep(0.02)
            own_redis.start()
            sleep(0.05)

    def all_writes() -> None:
        nonlocal done
        try:
            results = together(lambda: write(a), lambda: write(b), disturb)
            assert results == [None, None, None]
        finally:
            done = True

    with (
        Forgetful(manager, "main", "cache") as a,
        CachedCheckpointer(manager, "second", "second cache", timeout=PATIENT) as b,
        Forgetful(manager, "second", "second cache") as c,
    ):
        results = together(all_writes, lambda: read(a), lambda: read(c))
        assert results[0] is None
        assert all(count > 0 for count in results[1:])
        assert acknowledged == 80
        assert (c.load_checkpoint("t")).version == 80
