"""The Redis connection: commands, pipelines, settings, errors of ours."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from uuid import uuid4

import pytest

from persistence import (
    AsyncDatabaseManager,
    ClosedError,
    QueryError,
    RedisConfig,
    UnavailableError,
    ValidationError,
)
from persistence.scripts import script_of
from tests._async.side import sleep, together
from tests.proxy import FaultyProxy


async def test_commands_and_pipelines_work_and_are_counted(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await manager.add_redis("cache", redis_config)
    assert await cache.client.set("k", "v", ex=100)
    assert await cache.client.get("k") == b"v"
    async with cache.client.pipeline() as pipe:
        pipe.incr("n")
        pipe.incr("n")
        assert await pipe.execute() == [1, 2]
    assert cache.requests == 3
    stats = cache.stats()
    assert (stats.requests, stats.errors, stats.in_use, stats.max_open) == (3, 0, 0, redis_config.pool_size)
    assert stats.open == stats.idle >= 1
    found = await cache.capabilities()
    assert (found.kind, found.version_text) == ("redis", cache.server_version)


async def test_a_lazy_connection_knows_the_server_once_it_is_made_and_asks_no_more(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    known = await manager.add_redis("known", redis_config)
    client = known.client
    cache = await manager.add_redis("cache", redis_config, lazy=True)
    assert cache.server_version is None
    await cache.client.get("k")
    assert cache.server_version == known.server_version is not None
    before = (await client.info("commandstats"))["cmdstat_info"]["calls"]
    for _ in range(3):
        status = (await manager.health_check())["cache"]
        assert (status.healthy, status.server_version) == (True, cache.server_version)
    assert (await client.info("commandstats"))["cmdstat_info"]["calls"] == before + 1  # the first of these two

    await client.execute_command("ACL", "SETUSER", "mute", "on", ">p", "~*", "+@all", "-info")
    try:
        for name, lazy in (("mute", False), ("lazy", True)):
            mute = await manager.add_redis(name, replace(redis_config, username="mute", password="p"), lazy=lazy)
            assert await mute.client.get("k") is None
            assert (mute.server_version, mute.errors) == (None, 0)
    finally:
        await client.execute_command("ACL", "DELUSER", "mute")


async def test_scripts_and_locks_of_redis_py_work(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    client = (await manager.add_redis("cache", redis_config)).client
    new = uuid4().hex  # so that no server knows it
    script = client.register_script(f"return {{KEYS[1], ARGV[1], '{new}'}}")
    for _ in range(2):
        assert await script(keys=["k"], args=["v"]) == [b"k", b"v", new.encode()]
    async with client.lock(new, timeout=5, blocking_timeout=1):
        assert not await client.lock(new, timeout=5).acquire(blocking=False)
    assert not await client.exists(new)


async def test_min_idle_connections_are_opened_at_once(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await manager.add_redis("cache", replace(redis_config, min_idle_connections=4))
    assert (cache.stats().open, cache.stats().idle) == (4, 4)
    small = await manager.add_redis("small", replace(redis_config, pool_size=2))
    assert (small.stats().open, small.stats().max_open) == (2, 2)


async def test_a_connection_idle_for_too_long_is_made_anew(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    config = replace(redis_config, min_idle_connections=1, pool_size=1, idle_timeout=0.05)
    cache = await manager.add_redis("cache", config)
    first = await cache.client.client_id()
    assert await cache.client.client_id() == first
    until = monotonic() + 0.06
    while monotonic() < until:
        await sleep(0.01)
    assert await cache.client.client_id() != first


async def test_errors_are_ours(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    cache = await manager.add_redis("cache", redis_config)
    await cache.client.set("text", "x")
    with pytest.raises(QueryError, match="WRONGTYPE") as caught:
        await cache.client.lpush("text", "y")
    assert (caught.value.connection, caught.value.code) == ("cache", "WRONGTYPE")
    with pytest.raises(ValidationError):
        await cache.client.set("k", object())  # type: ignore[arg-type]
    with pytest.raises(QueryError):
        async with cache.client.pipeline() as pipe:
            pipe.lpush("text", "y")
            await pipe.execute()
    assert cache.errors >= 2
    assert await cache.client.get("text") == b"x"


async def test_a_closed_connection_says_so(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    cache = await manager.add_redis("cache", redis_config)
    pipe = cache.client.pipeline()
    pipe.get("k")
    await cache.aclose()
    await cache.aclose()
    for call in (lambda: cache.client.get("k"), lambda: cache.ping(), lambda: pipe.execute()):
        with pytest.raises(ClosedError, match="cache: it was closed"):
            await call()
    await pipe.aclose()  # type: ignore[no-untyped-call]


async def test_more_callers_than_connections_all_get_their_answers(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await manager.add_redis("cache", replace(redis_config, pool_size=2))

    async def work(number: int) -> bytes | None:
        await cache.client.set(f"k{number}", number)
        return await cache.client.get(f"k{number}")

    answers = await together(*[lambda number=number: work(number) for number in range(30)])
    assert answers == [str(number).encode() for number in range(30)]
    assert cache.stats().open <= 2


async def test_a_script_is_sent_as_text_once_to_a_server_that_never_saw_it(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await manager.add_redis("cache", redis_config)
    pushed = script_of(f"-- {redis_config.database} {monotonic()}\nreturn redis.call('RPUSH', KEYS[1], ARGV[1])")
    for times in (1, 2, 3):
        assert await cache.run_script(pushed, ["pushed"], ["v"]) == times
    assert (cache.requests, cache.errors) == (4, 0)  # the first of them twice
    with pytest.raises(QueryError, match="nothing_such"):
        await cache.run_script(script_of("return nothing_such()"), ["k"])
    assert cache.errors == 1


async def test_a_script_is_sent_again_after_a_lost_answer_only_if_it_reads(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await manager.add_redis("cache", redis_config)
    counted = script_of("return redis.call('INCR', KEYS[1])")
    await cache.run_script(counted, ["n"])
    assert redis_config.unix_socket is not None
    with FaultyProxy(redis_config.unix_socket) as proxy:
        changed = replace(redis_config, unix_socket=None, host="127.0.0.1", port=proxy.port, max_retries=2, pool_size=1)
        proxied = await manager.add_redis("proxied", changed)
        for reads, retries in ((False, 0), (True, 2)):
            proxy.mode = "pass"
            await proxied.ping()
            before = int(await cache.client.get("n") or 0), proxy.connections
            proxy.mode = "swallow replies"
            with pytest.raises(UnavailableError):
                await proxied.run_script(counted, ["n"], reads=reads)
            assert int(await cache.client.get("n") or 0) - before[0] == 1
            assert proxy.connections - before[1] == retries  # besides the connection that there was
        await manager.aclose()
