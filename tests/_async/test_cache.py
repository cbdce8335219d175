"""A cache: one load for all who ask, lifetimes, what is stale, other processes, and a store that is away."""

from __future__ import annotations

import asyncio  # async-only
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest

from persistence import (
    AsyncCache,
    AsyncDatabaseManager,
    AsyncKeyValueStore,
    AsyncPubSub,
    CacheStats,
    DeadlineError,
    RedisConfig,
    UnavailableError,
    ValidationError,
)
from tests._async.side import Started, sleep, together
from tests.proxy import FaultyProxy


class Loader:
    """Counts its calls, and gives their number, or what it is told to."""

    def __init__(self, *answers: Any, pause: float = 0.0) -> None:
        self.calls = 0
        self._answers = answers
        self._pause = pause

    async def __call__(self) -> Any:
        self.calls += 1
        await sleep(self._pause)
        answer = self._answers[min(self.calls, len(self._answers)) - 1] if self._answers else self.calls
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_hundred_callers_make_one_load_and_the_counts_are_exact() -> None:
    cache, loader = AsyncCache(), Loader(pause=0.2)
    assert cache.stats() == CacheStats()
    assert cache.stats().hit_rate == 0
    assert await together(*[lambda: cache.get_or_load("k", loader)] * 100) == [1] * 100
    assert loader.calls == 1
    stats = cache.stats()
    assert (stats.hits + stats.misses, stats.loads, stats.errors) == (100, 1, 0)
    before = stats.hits
    assert await cache.get_or_load("k", loader) == 1
    assert cache.stats() == replace(stats, hits=before + 1)


async def test_a_failed_load_fails_all_who_wait_and_is_not_remembered() -> None:
    cache, loader = AsyncCache(), Loader(RuntimeError("no"), "yes", pause=0.1)
    failed = await together(*[lambda: cache.get_or_load("k", loader)] * 5)
    assert [str(each) for each in failed] == ["no"] * 5
    assert cache.stats().errors == 1
    assert await cache.get_or_load("k", loader) == "yes"
    assert loader.calls == 2


async def test_a_waiter_does_not_wait_for_ever() -> None:
    cache, slow = AsyncCache(), Loader(pause=1.0)
    leading = Started(lambda: cache.get_or_load("k", slow))
    until = monotonic() + 10
    while not slow.calls and monotonic() < until:
        await sleep(0.001)
    with pytest.raises(DeadlineError):
        await cache.get_or_load("k", slow, timeout=0.05)
    assert await leading.result() == 1


# [async-only]
async def test_a_load_that_is_cancelled_is_made_by_one_who_waited() -> None:
    cache, loader = AsyncCache(), Loader(pause=0.1)
    leading = asyncio.create_task(cache.get_or_load("k", loader))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(cache.get_or_load("k", loader)) for _ in range(3)]
    await asyncio.sleep(0)
    leading.cancel()
    assert await asyncio.gather(*waiting) == [2, 2, 2]
    assert loader.calls == 2
    assert leading.cancelled()
    stats = cache.stats()
    assert (stats.misses, stats.loads, stats.errors) == (4, 2, 1)


# [/async-only]
async def test_a_value_ends_and_a_stale_one_is_given_while_one_refreshes_it() -> None:
    cache, loader = AsyncCache(ttl=0.05), Loader()
    assert await cache.get_or_load("k", loader) == 1
    until = monotonic() + 10
    while await cache.get_or_load("k", loader) == 1 and monotonic() < until:
        await sleep(0.01)
    assert loader.calls == 2
    lazy, slow = AsyncCache(ttl=0.02, stale=60), Loader(pause=0.6)
    assert await lazy.get_or_load("k", slow) == 1
    await sleep(0.05)
    refreshing = Started(lambda: lazy.get_or_load("k", slow))
    while slow.calls < 2 and monotonic() < until:
        await sleep(0.001)
    assert await lazy.get_or_load("k", slow) == 1
    assert lazy.stats().stale == 1
    assert await refreshing.result() == 2


async def test_nothing_found_is_remembered_only_when_asked_for() -> None:
    plain, loader = AsyncCache(), Loader(None, "there")
    assert await plain.get_or_load("k", loader) is None
    assert await plain.get_or_load("k", loader) == "there"
    negative, other = AsyncCache(negative_ttl=60), Loader(None, "there")
    assert await negative.get_or_load("k", other) is None
    assert await negative.get_or_load("k", other) is None
    assert other.calls == 1


async def test_the_least_recently_used_goes_first() -> None:
    cache = AsyncCache(max_size=3)
    for key in ("a", "b", "c", "a", "d"):
        await cache.get_or_load(key, Loader(key))
    assert len(cache) == 3
    assert cache.stats().evicted == 1
    again = Loader("again")
    assert [await cache.get_or_load(key, again) for key in ("a", "c", "d", "b")] == ["a", "c", "d", "again"]


async def test_a_load_that_is_invalidated_meanwhile_is_not_kept() -> None:
    cache, loader = AsyncCache(), Loader("old", "new", pause=0.2)
    loading = Started(lambda: cache.get_or_load("k", loader))
    until = monotonic() + 10
    while not loader.calls and monotonic() < until:
        await sleep(0.001)
    await cache.invalidate("k")
    assert await loading.result() == "old"
    assert await cache.get_or_load("k", loader) == "new"
    cache.clear()
    assert len(cache) == 0


async def test_processes_share_a_store_and_hear_of_what_is_invalidated(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    await manager.add_redis("cache", redis_config)
    store, pubsub = AsyncKeyValueStore(manager, "cache"), AsyncPubSub(manager, "cache")
    here = AsyncCache(store, local_ttl=60, pubsub=pubsub)
    there = AsyncCache(store, local_ttl=60, pubsub=pubsub)
    loader = Loader()
    assert await here.get_or_load("k", loader) == 1
    assert await there.get_or_load("k", loader) == 1
    assert (loader.calls, there.stats().hits, there.stats().loads) == (1, 1, 0)
    async with there.subscribe() as subscription:
        following = Started(lambda: there.follow(subscription))
        assert await there.get_or_load("k", loader) == 1
        await here.invalidate("k")
        until = monotonic() + 10
        while len(there) and monotonic() < until:
            await sleep(0.005)
        assert await there.get_or_load("k", loader) == 2
        await subscription.aclose()
        await following.result()
    assert await store.exists("k")
    negative = AsyncCache(store, negative_ttl=60)
    for value in (b"\x00", {"a": [1]}, None):
        once = Loader(value, "again")
        for _ in range(2):
            assert await negative.get_or_load("v", once) == value
        await negative.invalidate("v")


async def test_of_many_processes_one_loads_under_a_lease(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    await manager.add_redis("cache", redis_config)
    loader = Loader(pause=0.1)
    caches = [AsyncCache(AsyncKeyValueStore(manager, "cache"), lock_ttl=10) for _ in range(4)]
    assert await together(*[lambda each=each: each.get_or_load("k", loader) for each in caches]) == [1] * 4
    assert loader.calls == 1
    assert sum(each.stats().loads for each in caches) == 1
    with pytest.raises(ValidationError, match="lock_ttl"):
        AsyncCache(lock_ttl=10)


async def test_a_store_that_is_away_is_an_error_or_is_counted(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    with FaultyProxy(redis_config.unix_socket or (redis_config.host, redis_config.port)) as proxy:
        config = replace(redis_config, unix_socket=None, host="127.0.0.1", port=proxy.port, max_retries=0)
        await manager.add_redis("cache", config)
        store = AsyncKeyValueStore(manager, "cache")
        strict, lenient = AsyncCache(store), AsyncCache(store, pass_through=True)
        proxy.mode = "refuse"
        proxy.cut()
        with pytest.raises(UnavailableError):
            await strict.get_or_load("k", Loader())
        assert await lenient.get_or_load("k", Loader()) == 1
        assert lenient.stats().bypassed == 2
        locking = AsyncCache(store, pass_through=True, lock_ttl=5)
        assert await locking.get_or_load("k", Loader()) == 1
        assert locking.stats().bypassed == 3
        proxy.mode = "pass"

        async def cut_off() -> str:
            proxy.mode = "refuse"
            proxy.cut()
            return "loaded"

        assert await locking.get_or_load("l", cut_off) == "loaded"  # though the lease can't be given back
        await manager.aclose()


async def test_what_makes_no_sense_is_refused() -> None:
    for wrong in ({"ttl": 0}, {"ttl": None}, {"stale": -1}, {"max_size": 0}, {"negative_ttl": -1}, {"local_ttl": -1}):
        with pytest.raises(ValidationError):
            AsyncCache(**wrong)  # type: ignore[arg-type]
    cache = AsyncCache()
    for key in ("", "\0", 7):
        with pytest.raises(ValidationError):
            await cache.get_or_load(key, Loader())  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            await cache.invalidate(key)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="no pubsub"):
        cache.subscribe()
