"""Checkpoints in PostgreSQL with the latest of each thread in Redis too: written through, and never read when behind.

Protocol. A load of the latest takes the thread's entry from Redis and gives its stamp to PostgreSQL along with the
load, which sends the blocks only when the head has another one: one request to each, and what is returned is what
PostgreSQL has at that moment, whatever became of Redis. A save writes to Redis after it has committed. An entry that
was not written, or late, or by a transaction that was undone, matches no head and is replaced by the next load.

Redis has ``timeout`` seconds for each step of an answer. After a failure nobody asks it for ``PAUSE_SECONDS``, then one
call tries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from time import monotonic
from typing import Any, TypeVar

from checkpoint._async.remembering import BASE_THREADS
from checkpoint._async.sql import AsyncDatabaseCheckpointer
from checkpoint._async.sql_base import Attempt, Saved
from checkpoint.caching import STORE, CacheStats, Entry, as_entry, fields_of, key_of, log
from checkpoint.pieces import cut
from checkpoint.records import Checkpoint, Durability, PendingWrite
from checkpoint.refs import unpack_refs
from checkpoint.serializer import Serializer
from checkpoint.states import Base
from persistence._async.compat import Mutex
from persistence._async.database import AsyncDatabase
from persistence._async.executor import Row
from persistence._async.guards import AsyncSecretsOption
from persistence._async.manager import AsyncDatabaseManager, named_connection
from persistence._async.redis import AsyncRedisConnection
from persistence.errors import CorruptError, PersistenceError
from persistence.fields import Duration
from persistence.secrets import Cipher
from persistence.validation import check_duration, check_whole

T = TypeVar("T")

PAUSE_SECONDS = 5.0
"""For how long Redis is left alone after a failure."""


class AsyncCachedCheckpointer(AsyncDatabaseCheckpointer):
    """A checkpointer on PostgreSQL (``name``) that keeps the latest of each thread in Redis (``cache``) too.

    What it returns is what PostgreSQL has, always; Redis saves it sending large states again to processes that have
    not seen them. A Redis that is down, slow or full fails no call, and delays one by a few times ``timeout`` every
    five seconds at most. Its connections are the checkpointer's own, with that timeout: ``aclose`` closes them.

    ``ttl`` is for how long an entry stays unless it is written again: for so long, where Redis could not be told,
    what was deleted may lie there. ``max_bytes`` is the largest state kept, as it is stored.

    Raises:
        WrongKindError: ``name`` is no PostgreSQL connection of the manager, or ``cache`` no Redis.
        ValidationError: a number is out of bounds.
    """

    @named_connection
    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        cache: str,
        *,
        tenant: str = "default",
        serializer: Serializer | None = None,
        migrate: bool = True,
        durability: Durability = "sync",
        group_commit: bool = False,
        cipher: Cipher | None = None,
        secrets: AsyncSecretsOption = None,
        ttl: Duration = 86_400.0,
        timeout: Duration = 0.25,
        max_bytes: int = 32 * 2**20,
    ) -> None:
        super().__init__(
            manager,
            name,
            tenant=tenant,
            serializer=serializer,
            migrate=migrate,
            durability=durability,
            group_commit=group_commit,
            cipher=cipher,
            secrets=secrets,
        )
        manager.get_postgresql(name)
        manager.get_redis(cache)
        self._cache = cache
        self._ttl = check_duration("ttl", ttl)
        self._timeout = check_duration("timeout", timeout)
        self._max_bytes = check_whole("max_bytes", max_bytes, least=0)
        self._guard = Mutex()
        self._source: AsyncRedisConnection | None = None
        self._link: AsyncRedisConnection | None = None
        self._paused_until = 0.0
        self._outdated: set[tuple[str, str]] = set()
        self._stats = CacheStats()

    def stats(self) -> CacheStats:
        """Return what Redis did for this checkpointer until now."""
        with self._guard:
            return self._stats

    async def aclose(self) -> None:
        """Save what is held back, and close the connections to Redis. PostgreSQL's are the manager's."""
        try:
            await super().aclose()
        finally:
            with self._guard:
                link, self._link, self._source = self._link, None, None
            if link is not None:
                await link.aclose()

    async def _load(
        self, thread_id: str, version: int | None, key: str | None, namespace: str, writes: bool
    ) -> Checkpoint | None:
        try:
            return await super()._load(thread_id, version, key, namespace, writes)
        except CorruptError:
            if version is not None or key is not None:
                raise
            # It may be Redis' bytes that are damaged. If they can't be dropped, they aren't asked for either.
            await self._drop({(thread_id, namespace)})
            return await super()._load(thread_id, version, key, namespace, writes)

    async def _load_rows(
        self, database: AsyncDatabase, statement: str, keys: dict[str, Any], writes: bool
    ) -> tuple[list[Row], tuple[PendingWrite, ...]]:
        if keys.get("base", 0) is not None:
            return await super()._load_rows(database, statement, keys, writes)  # not the latest, or it is known here
        place = keys["thread"], keys["namespace"]
        entry = await self._read(*place)
        known = keys if entry is None else {**keys, "base": entry.stamp}
        rows, pending = await super()._load_rows(database, statement, known, writes)
        if not rows or rows[0]["stamp"] is None:
            return rows, pending
        row = rows[0]
        try:
            refs = unpack_refs(row["refs"])
        except CorruptError:
            return rows, pending  # who reads them says of which checkpoint they are
        if entry is not None and row["stamp"] == entry.stamp:
            blocks = entry.blocks_of(row["version"], refs)
            if blocks is not None:
                self._count(hits=1)
                sizes = ",".join([str(len(block)) for block in blocks])
                return [{**row, "data": b"".join(blocks), "sizes": sizes}], pending
            rows, pending = await super()._load_rows(database, statement, keys, writes)
        self._count(misses=1)
        if rows and rows[0]["stamp"] is not None and not database.in_transaction:
            row = rows[0]
            refs, blocks_there = unpack_refs(row["refs"]), cut(row["data"], row["sizes"])
            await self._store(place, None, row["stamp"], row["version"], refs, refs, blocks_there)
        return rows, pending

    async def _write_postgresql(self, database: AsyncDatabase, attempt: Attempt) -> Saved | None:
        values, written, base = attempt.values, attempt.written, attempt.base
        saved = await super()._write_postgresql(database, attempt)
        # A version below others is not the latest; and who knows what becomes of a transaction.
        if saved is not None and saved.version == saved.counter and not database.in_transaction:
            refs, added = written.refs, written.added
            own = [(0, added.beside)] if added.beside is not None else []
            own += enumerate(added.extra, 1)
            before = None if base is None or all(ref >> 8 == 0 for ref in refs) else base.stamp
            await self._store(
                (values["thread"], values["namespace"]),
                before,
                values["stamp"],
                saved.version,
                refs,
                [ordinal for ordinal, _ in own],
                [block for _, block in own],
            )
        return saved

    def _remember(self, thread_id: str, namespace: str, base: Base | None) -> None:
        super()._remember(thread_id, namespace, base)
        if base is None:
            with self._guard:
                if len(self._outdated) < BASE_THREADS:  # what a large prune leaves there matches nothing, and expires
                    self._outdated.add((thread_id, namespace))

    async def _delete(self, thread_id: str, version: int, namespace: str) -> bool:
        deleted = await super()._delete(thread_id, version, namespace)
        await self._drop_outdated()
        return deleted

    async def _delete_if(
        self, thread_id: str, expired: bool, cutoff: datetime | None, wanted: str | None
    ) -> int | None:
        count = await super()._delete_if(thread_id, expired, cutoff, wanted)
        await self._drop_outdated()
        return count

    async def _drop_outdated(self) -> None:
        """Take what was deleted out of Redis. To drop an entry too many costs a load from PostgreSQL, and no more."""
        with self._guard:
            places, self._outdated = self._outdated, set()
        if places:
            await self._drop(places)

    # Redis

    async def _read(self, thread_id: str, namespace: str) -> Entry | None:
        key = key_of(self._tenant, thread_id, namespace)
        return as_entry(await self._ask(lambda redis: redis.client.execute_command("HGETALL", key)))

    async def _store(
        self,
        place: tuple[str, str],
        base: int | None,
        stamp: int,
        version: int,
        refs: Sequence[int],
        own: Sequence[int],
        blocks: Sequence[bytes | memoryview | None],
    ) -> None:
        """Store the blocks ``own`` of a version in addition to those of the entry ``base``, or instead of any."""
        sent = [block for block in blocks if block is not None]
        if not refs or len(sent) < len(blocks) or sum(map(len, sent)) > self._max_bytes:
            return
        needed = fields_of(version, refs)
        arguments: list[Any] = ["" if base is None else base, stamp, max(1, int(self._ttl * 1000)), self._max_bytes]
        arguments += [len(needed), *needed]
        for field, block in zip(fields_of(version, own), sent, strict=True):
            arguments += (field, bytes(block))
        key = key_of(self._tenant, *place)
        if await self._ask(lambda redis: redis.run_script(STORE, [key], arguments)):
            self._count(stores=1)

    async def _drop(self, places: set[tuple[str, str]]) -> None:
        keys = [key_of(self._tenant, *place) for place in sorted(places)]
        await self._ask(lambda redis: redis.client.unlink(*keys))

    async def _ask(self, call: Callable[[AsyncRedisConnection], Awaitable[T]]) -> T | None:
        """Return Redis' answer, None when it has none or is left alone."""
        with self._guard:
            now = monotonic()
            if now < self._paused_until:
                self._stats = replace(self._stats, skipped=self._stats.skipped + 1)
                return None
            if self._stats.is_down:
                self._paused_until = now + PAUSE_SECONDS  # this call tries, the others don't wait for it
        try:
            answer = await call(await self._connection())
        except (PersistenceError, OSError) as exc:
            self._failed(exc)
            return None
        if self._stats.is_down:
            self._recovered()
        return answer

    async def _connection(self) -> AsyncRedisConnection:
        source = self._manager.get_redis(self._cache)
        with self._guard:
            if self._link is not None and self._source is source:
                return self._link
            limits: dict[str, Any] = dict.fromkeys(
                ("dial_timeout", "read_timeout", "write_timeout", "pool_timeout"), self._timeout
            )
            # What Redis loses here is loaded again: nothing waits for its replicas.
            config = replace(source.config, max_retries=0, min_replicas=0, **limits)
            old, self._link = self._link, type(source)(f"{self._cache} (checkpoints)", config)
            self._source, made = source, self._link
        if old is not None:
            await old.aclose()
        return made

    def _count(self, *, hits: int = 0, misses: int = 0, stores: int = 0) -> None:
        with self._guard:
            now = self._stats
            self._stats = replace(now, hits=now.hits + hits, misses=now.misses + misses, stores=now.stores + stores)

    def _failed(self, exc: Exception) -> None:
        with self._guard:
            first = not self._stats.is_down
            self._stats = replace(self._stats, errors=self._stats.errors + 1, is_down=True)
            self._paused_until = monotonic() + PAUSE_SECONDS
        if first:
            log.warning("Redis %r caches no checkpoints for now: %s", self._cache, exc)

    def _recovered(self) -> None:
        with self._guard:
            first = self._stats.is_down
            self._stats = replace(self._stats, is_down=False)
            self._paused_until = 0.0
        if first:
            log.info("Redis %r caches checkpoints again", self._cache)
