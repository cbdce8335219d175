# Generated from ../_async/test_redis.py by tests/unasync.py: edit that one.
"""The Redis connection: commands, pipelines, settings, errors of ours."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from uuid import uuid4

import pytest

from persistence import (
    DatabaseManager,
    ClosedError,
    QueryError,
    RedisConfig,
    UnavailableError,
    ValidationError,
)
from persistence.scripts import script_of
from tests._sync.side import sleep, together
from tests.proxy import FaultyProxy


def test_commands_and_pipelines_work_and_are_counted(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    cache = manager.add_redis("cache", redis_config)
    assert cache.client.set("k", "v", ex=100)
    assert cache.client.get("k") == b"v"
    with cache.client.pipeline() as pipe:
        pipe.incr("n")
        pipe.incr("n")
        assert pipe.execute() == [1, 2]
    assert cache.requests == 3
    stats = cache.stats()
    assert (stats.requests, stats.errors, stats.in_use, stats.max_open) == (3, 0, 0, redis_config.pool_size)
    assert stats.open == stats.idle >= 1
    found = cache.capabilities()
    assert (found.kind, found.version_text) == ("redis", cache.server_version)


def test_a_lazy_connection_knows_the_server_once_it_is_made_and_asks_no_more(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    known = manager.add_redis("known", redis_config)
    client = known.client
    cache = manager.add_redis("cache", redis_config, lazy=True)
    assert cache.server_version is None
    cache.client.get("k")
    assert cache.server_version == known.server_version is not None
    before = (client.info("commandstats"))["cmdstat_info"]["calls"]
    for _ in range(3):
        status = (manager.health_check())["cache"]
        assert (status.healthy, status.server_version) == (True, cache.server_version)
    assert (client.info("commandstats"))["cmdstat_info"]["calls"] == before + 1  # the first of these two

    client.execute_command("ACL", "SETUSER", "mute", "on", ">p", "~*", "+@all", "-info")
    try:
        for name, lazy in (("mute", False), ("lazy", True)):
            mute = manager.add_redis(name, replace(redis_config, username="mute", password="p"), lazy=lazy)
            assert mute.client.get("k") is None
            assert (mute.server_version, mute.errors) == (None, 0)
    finally:
        client.execute_command("ACL", "DELUSER", "mute")


def test_scripts_and_locks_of_redis_py_work(manager: DatabaseManager, redis_config: RedisConfig) -> None:
    client = (manager.add_redis("cache", redis_config)).client
    new = uuid4().hex  # so that no server knows it
    script = client.register_script(f"return {{KEYS[1], ARGV[1], '{new}'}}")
    for _ in range(2):
        assert script(keys=["k"], args=["v"]) == [b"k", b"v", new.encode()]
    with client.lock(new, timeout=5, blocking_timeout=1):
        assert not client.lock(new, timeout=5).acquire(blocking=False)
    assert not client.exists(new)


def test_min_idle_connections_are_opened_at_once(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    cache = manager.add_redis("cache", replace(redis_config, min_idle_connections=4))
    assert (cache.stats().open, cache.stats().idle) == (4, 4)
    small = manager.add_redis("small", replace(redis_config, pool_size=2))
    assert (small.stats().open, small.stats().max_open) == (2, 2)


def test_a_connection_idle_for_too_long_is_made_anew(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    config = replace(redis_config, min_idle_connections=1, pool_size=1, idle_timeout=0.05)
    cache = manager.add_redis("cache", config)
    first = cache.client.client_id()
    assert cache.client.client_id() == first
    until = monotonic() + 0.06
    while monotonic() < until:
        sleep(0.01)
    assert cache.client.client_id() != first


def test_errors_are_ours(manager: DatabaseManager, redis_config: RedisConfig) -> None:
    cache = manager.add_redis("cache", redis_config)
    cache.client.set("text", "x")
    with pytest.raises(QueryError, match="WRONGTYPE") as caught:
        cache.client.lpush("text", "y")
    assert (caught.value.connection, caught.value.code) == ("cache", "WRONGTYPE")
    with pytest.raises(ValidationError):
        cache.client.set("k", object())  # type: ignore[arg-type]
    with pytest.raises(QueryError):
        with cache.client.pipeline() as pipe:
            pipe.lpush("text", "y")
            pipe.execute()
    assert cache.errors >= 2
    assert cache.client.get("text") == b"x"


def test_a_closed_connection_says_so(manager: DatabaseManager, redis_config: RedisConfig) -> None:
    cache = manager.add_redis("cache", redis_config)
    pipe = cache.client.pipeline()
    pipe.get("k")
    cache.close()
    cache.close()
    for call in (lambda: cache.client.get("k"), lambda: cache.ping(), lambda: pipe.execute()):
        with pytest.raises(ClosedError, match="cache: it was closed"):
            call()
    pipe.close()  # type: ignore[no-untyped-call]


def test_more_callers_than_connections_all_get_their_answers(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    cache = manager.add_redis("cache", replace(redis_config, pool_size=2))

    def work(number: int) -> bytes | None:
        cache.client.set(f"k{number}", number)
        return cache.client.get(f"k{number}")

    answers = together(*[lambda number=number: work(number) for number in range(30)])
    assert answers == [str(number).encode() for number in range(30)]
    assert cache.stats().open <= 2


def test_a_script_is_sent_as_text_once_to_a_server_that_never_saw_it(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    cache = manager.add_redis("cache", redis_config)
    pushed = script_of(f"-- {redis_config.database} {monotonic()}\nreturn redis.call('RPUSH', KEYS[1], ARGV[1])")
    for times in (1, 2, 3):
        assert cache.run_script(pushed, ["pushed"], ["v"]) == times
    assert (cache.requests, cache.errors) == (4, 0)  # the first of them twice
    with pytest.raises(QueryError, match="nothing_such"):
        cache.run_script(script_of("return nothing_such()"), ["k"])
    assert cache.errors == 1


def test_a_script_is_sent_again_after_a_lost_answer_only_if_it_reads(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    cache = manager.add_redis("cache", redis_config)
    counted = script_of("return redis.call('INCR', KEYS[1])")
    cache.run_script(counted, ["n"])
    assert redis_config.unix_socket is not None
    with FaultyProxy(redis_config.unix_socket) as proxy:
        changed = replace(redis_config, unix_socket=None, host="127.0.0.1", port=proxy.port, max_retries=2, pool_size=1)
        proxied = manager.add_redis("proxied", changed)
        for reads, retries in ((False, 0), (True, 2)):
            proxy.mode = "pass"
            proxied.ping()
            before = int(cache.client.get("n") or 0), proxy.connections
            proxy.mode = "swallow replies"
            with pytest.raises(UnavailableError):
                proxied.run_script(counted, ["n"], reads=reads)
            assert int(cache.client.get("n") or 0) - before[0] == 1
            assert proxy.connections - before[1] == retries  # besides the connection that there was
        manager.close()
