"""A cache that loads what it lacks, once for all who ask at the same time.

Protocol: the first who misses a key loads it and everybody else waits for that load; nothing runs in the background but
what ``refresh`` is handed to. What is remembered here in the process is bounded, the least recently used goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from persistence._async.compat import Mutex, Waiter, finish
from persistence._async.keyvalue import AsyncKeyValueStore
from persistence._async.pubsub import AsyncPubSub, AsyncSubscription
from persistence.caching import CacheStats
from persistence.errors import DeadlineError, UnavailableError, ValidationError
from persistence.fields import Duration
from persistence.keyvalues import check_key, check_ttl
from persistence.validation import check_timeout, check_whole, shown

MISSING = object()


class AsyncCache:
    """Values by key, loaded when they are missing; in this process, and in a ``KeyValueStore`` where one is given.

    ``ttl`` (seconds) is how long a value is fresh, ``stale`` how long it may be given after that. ``negative_ttl`` is
    how long it is remembered that a loader found nothing (None); left out, that is not remembered. ``max_size`` bounds
    what this process holds. With a store, values must be such as it takes, ``local_ttl`` is how long this process gives
    one without asking it (0: never), and ``pubsub`` tells other processes' caches of ``invalidate``; each of them runs
    ``follow``.

    With ``lock_ttl``, of all processes one loads, under a lease of so many seconds; the others wait as long for it, and
    then find the value in the store.

    A store that is away is an error, unless ``pass_through`` is set: then the value is loaded, and it is counted.
    """

    def __init__(
        self,
        store: AsyncKeyValueStore | None = None,
        *,
        ttl: Duration = 60.0,
        stale: Duration = 0.0,
        negative_ttl: Duration | None = None,
        local_ttl: Duration = 0.0,
        max_size: int = 10_000,
        pass_through: bool = False,
        lock_ttl: Duration | None = None,
        pubsub: AsyncPubSub | None = None,
        channel: str = "cache",
    ) -> None:
        fresh = check_ttl(ttl)
        if fresh is None:
            raise ValidationError("a cache needs a lifetime", hint="ttl=60.0")
        self._store = store
        self._ttl, self._stale = fresh, check_timeout("stale", stale)
        local = check_timeout("local_ttl", local_ttl)
        self._negative = check_ttl(negative_ttl)
        self._local = float("inf") if store is None else local
        self._max_size = check_whole("max_size", max_size)
        self._pass_through = pass_through
        self._lock_ttl = check_ttl(lock_ttl)
        if self._lock_ttl is not None and store is None:
            raise ValidationError("lock_ttl is for a cache with a store", hint="in one process, one loads anyway")
        self._pubsub, self._channel = pubsub, channel
        self._mutex = Mutex()
        self._held: OrderedDict[str, tuple[Any, float, float]] = OrderedDict()
        self._loading: dict[str, list[Waiter[tuple[Any, BaseException | None]]]] = {}
        self._generation: dict[str, int] = {}
        self._stats = CacheStats()

    def stats(self) -> CacheStats:
        """Return what the cache has done."""
        with self._mutex:
            return self._stats

    def __len__(self) -> int:
        """How many values this process holds."""
        return len(self._held)

    def _count(self, **more: int) -> None:
        self._stats = replace(self._stats, **{name: getattr(self._stats, name) + n for name, n in more.items()})

    async def get_or_load(
        self,
        key: str,
        loader: Callable[[], Any],
        *,
        ttl: Duration | None = None,
        timeout: Duration = 30.0,
    ) -> Any:
        """Return the value, from ``loader()`` where it is missing or no longer fresh.

        Of all who miss it in this process at once, one loads; the others wait up to ``timeout`` seconds, and get what
        it got: the value, or the loader's exception. A value that is past its ``ttl`` but within ``stale`` is given at
        once to those who come while one of them refreshes it. What the loader returns is shared, so it must not be
        changed.

        Raises:
            DeadlineError: the load of another took longer than ``timeout``.
            UnavailableError: the store is away, and ``pass_through`` is not set.
        """
        check_key(key)
        lifetime = check_ttl(ttl) or self._ttl
        limit = check_timeout("timeout", timeout)
        deadline, misses = monotonic() + limit, 1
        while True:
            waiter: Waiter[tuple[Any, BaseException | None]] | None = None
            with self._mutex:
                value, is_fresh = self._look(key)
                loading = self._loading.get(key)
                if value is not MISSING and (is_fresh or loading is not None):
                    self._count(hits=misses, stale=not is_fresh)
                    return value
                if loading is None:
                    self._loading[key] = []
                else:
                    waiter = Waiter()
                    loading.append(waiter)
                    self._count(misses=misses)
            if waiter is None:
                return await self._lead(key, loader, lifetime, misses)
            got = await waiter.wait(deadline - monotonic())
            if got is None:
                raise DeadlineError(f"another's load of {shown(key)} took over {limit:g} s", operation="get_or_load")
            if got[1] is None:
                return got[0]
            if isinstance(got[1], Exception):
                raise got[1]
            misses = 0  # who loaded it was cancelled, and this call was counted

    def _look(self, key: str) -> tuple[Any, bool]:
        """Return what this process holds and whether it is fresh."""
        held = self._held.get(key)
        if held is None:
            return MISSING, False
        value, fresh_until, until = held
        now = monotonic()
        if now >= until:
            del self._held[key]
            return MISSING, False
        self._held.move_to_end(key)
        return value, now < fresh_until

    async def _lead(self, key: str, loader: Callable[[], Any], lifetime: float, count: int) -> Any:
        """Find or load the value for all who wait for it; ``count`` is 0 where the call was counted already."""
        value: Any = None
        failure: BaseException | None = None
        with self._mutex:
            generation = self._generation.get(key, 0)
        try:
            value = await self._find_or_load(key, loader, lifetime, generation, count)
        except BaseException as exc:
            failure = exc
            raise
        finally:
            with self._mutex:
                waiting = self._loading.pop(key)
                if not self._loading:
                    self._generation.clear()
            for each in waiting:
                each.hand_over((value, failure))
        return value

    async def _find_or_load(
        self, key: str, loader: Callable[[], Any], lifetime: float, generation: int, count: int
    ) -> Any:
        found = await self._ask(key)
        if found is not None:
            return self._take(key, found, generation, count)
        if self._store is None or self._lock_ttl is None:
            return await self._load(key, loader, lifetime, generation, count)
        lease = self._store.lease(f"cache {key}", ttl=self._lock_ttl, timeout=self._lock_ttl)
        try:
            await lease.acquire()
        except UnavailableError as exc:
            self._bypass(exc)
            return await self._load(key, loader, lifetime, generation, count)
        try:
            found = await self._ask(key)
            if found is not None:
                return self._take(key, found, generation, count)
            return await self._load(key, loader, lifetime, generation, count)
        finally:
            try:
                await lease.release()
            except UnavailableError as exc:
                self._bypass(exc)  # it runs out by itself

    def _take(self, key: str, found: tuple[Any, float], generation: int, count: int) -> Any:
        """Return what the store had."""
        with self._mutex:
            self._count(hits=count)
            self._keep(key, *found, 0.0, generation)
        return found[0]

    def _bypass(self, error: UnavailableError) -> None:
        """Go past a store that is away and count it, or raise its error."""
        if not self._pass_through:
            raise error
        with self._mutex:
            self._count(bypassed=1)

    async def _load(self, key: str, loader: Callable[[], Any], lifetime: float, generation: int, count: int) -> Any:
        with self._mutex:
            self._count(misses=count, loads=1)
        try:
            value = await finish("the loader", loader())
        except BaseException:
            with self._mutex:
                self._count(errors=1)
            raise
        if value is None:
            if self._negative is None:
                return None
            lifetime = self._negative
        await self._tell(key, value, lifetime)
        with self._mutex:
            self._keep(key, value, lifetime, 0.0 if value is None else self._stale, generation)
        return value

    def _keep(self, key: str, value: Any, fresh_for: float, stale: float, generation: int) -> None:
        if self._generation.get(key, 0) != generation or self._local <= 0:
            return  # it was invalidated while it was loaded, so it may be old already
        now = monotonic()
        fresh_until = now + min(fresh_for, self._local)
        self._held[key] = (value, fresh_until, fresh_until + stale)
        self._held.move_to_end(key)
        while len(self._held) > self._max_size:
            self._held.popitem(last=False)
            self._count(evicted=1)

    async def _ask(self, key: str) -> tuple[Any, float] | None:
        """Return what the store has, and for how long that is fresh."""
        if self._store is None:
            return None
        try:
            found = await self._store.get_item(key)
        except UnavailableError as exc:
            self._bypass(exc)
            return None
        if found is None:
            return None
        left = self._ttl
        if found.expires_at is not None:
            left = (found.expires_at - datetime.now(UTC)).total_seconds()
        return found.value, max(0.0, left)

    async def _tell(self, key: str, value: Any, lifetime: float) -> None:
        if self._store is None:
            return
        try:
            await self._store.put(key, value, ttl=lifetime)
        except UnavailableError as exc:
            self._bypass(exc)

    async def invalidate(self, *keys: str) -> None:
        """Forget values, here and in the store, and tell other processes' caches; a load under way is not kept."""
        for key in keys:
            check_key(key)
        self._forget(keys)
        if self._store is not None and keys:
            await self._store.delete_many(keys)
            self._forget(keys)
        if self._pubsub is not None:
            for key in keys:
                await self._pubsub.publish(self._channel, key)

    def _forget(self, keys: tuple[str, ...]) -> None:
        with self._mutex:
            for key in keys:
                self._held.pop(key, None)
                if key in self._loading:
                    self._generation[key] = self._generation.get(key, 0) + 1

    def clear(self) -> None:
        """Forget everything that this process holds."""
        with self._mutex:
            self._held.clear()
            for key in self._loading:
                self._generation[key] = self._generation.get(key, 0) + 1

    def subscribe(self) -> AsyncSubscription:
        """Return the subscription for ``follow``: enter it first, then nothing is missed.

        Raises:
            ValidationError: the cache has no ``pubsub``.
        """
        if self._pubsub is None:
            raise ValidationError("the cache has no pubsub to follow", hint="Cache(store, pubsub=PubSub(…))")
        return self._pubsub.subscribe(self._channel)

    async def follow(self, subscription: AsyncSubscription) -> None:
        """Forget what other processes invalidate, until the subscription is closed; run it in a task of your own."""
        self.clear()
        async for notice in subscription:
            if notice.missed:
                self.clear()
            else:
                self._forget((notice.payload,))
