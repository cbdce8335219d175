"""Retention in PostgreSQL or SQLite: batches in transactions of their own, each under the head's lock.

The protocol is that of ``sql.py``: a batch begins with ``lock_live_head``, and each statement after it has a snapshot
with every save that held the lock before. The argument for pruning is in ``AsyncRetention.prune``.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any

from checkpoint._async.retention import AsyncRetention, PruneRule
from checkpoint._async.sql_base import clock
from checkpoint._async.sql_listing import AsyncSQLListing
from checkpoint.records import PruneReport
from checkpoint.states import Base
from persistence._async.database import AsyncDatabase
from persistence.queries import load_queries

_HEADS = 500


class _DryRun(Exception):
    """Undoes the batch that it is raised in."""


class AsyncSQLRetention(AsyncSQLListing, AsyncRetention):
    """The retention of AsyncDatabaseCheckpointer."""

    async def _delete(self, thread_id: str, version: int, namespace: str) -> bool:
        database = await self._database()
        keys = self._keys(thread_id, namespace)
        self._remember(thread_id, namespace, None)
        async with database.transaction():
            if not (await self._lock(database, keys, None))[0]:
                return False
            return bool((await self._forget(database, keys, [version]))[0])

    async def _lock(self, database: AsyncDatabase, keys: dict[str, Any], base: Base | None) -> tuple[bool, Base | None]:
        """Lock a head and give it a new stamp; tell whether it is there and lives, and what is left of ``base``."""
        queries = load_queries("checkpoint", database.kind)
        stamp = secrets.randbits(62)
        given = {**keys, "stamp": stamp, **clock(database)}
        if base is not None and base.latest is not None:
            known = {**given, "base": base.stamp}
            if await database.execute(queries.lock_known_head, known):
                return True, base.after_delete(stamp)
        return bool(await database.execute(queries.lock_live_head, given)), None

    async def _prune(self, thread_id: str | None, rule: PruneRule) -> PruneReport:
        database = await self._database()
        cutoff = database.dialect.time(rule.cutoff)
        values = {"keep_last": rule.keep_last, "cutoff": cutoff, "keep_tagged": rule.keep_tagged}
        checkpoints = size = 0
        after: tuple[str, str] | None = None
        while heads := await self._heads(database, thread_id, after, values):
            for head in heads:
                while True:
                    count, freed = await self._prune_batch(database, head, values, rule)
                    checkpoints, size = checkpoints + count, size + freed
                    if count < rule.batch or rule.dry_run:
                        break
            after = heads[-1]
        return PruneReport(checkpoints=checkpoints, bytes=size)

    async def _heads(
        self, database: AsyncDatabase, thread_id: str | None, after: tuple[str, str] | None, values: dict[str, Any]
    ) -> list[tuple[str, str]]:
        """Return the next threads and namespaces to prune; of one thread all, of many those that have something."""
        queries = load_queries("checkpoint", database.kind)
        if thread_id is None:
            low = after or ("", "")
            place = {"after_thread": low[0], "after_namespace": low[1], "limit": _HEADS}
            rows = await database.fetch_all(queries.list_prunable, {"tenant": self._tenant, **place, **values})
            return [(row["thread_id"], row["namespace"]) for row in rows]
        keys = {"tenant": self._tenant, "thread": thread_id, "limit": _HEADS}
        place = {"start": after is None, "after": "" if after is None else after[1]}
        rows = await database.fetch_all(queries.list_namespaces, {**keys, **place})
        return [(thread_id, row["namespace"]) for row in rows]

    async def _prune_batch(
        self, database: AsyncDatabase, head: tuple[str, str], values: dict[str, Any], rule: PruneRule
    ) -> tuple[int, int]:
        """Delete a batch; return how many checkpoints, and the bytes that this frees."""
        queries = load_queries("checkpoint", database.kind)
        keys = self._keys(*head)
        found = 0, 0
        base = self._recall(*head)
        self._remember(*head, None)
        left: Base | None = None
        try:
            async with database.transaction():
                is_there, left = await self._lock(database, keys, base)
                if is_there:
                    limit = 2**31 if rule.dry_run else rule.batch
                    rows = await database.fetch_all(queries.list_victims, {**keys, **values, "batch": limit})
                    if rows:
                        found = await self._forget(database, keys, [row["version"] for row in rows])
                if rule.dry_run:
                    raise _DryRun
        except _DryRun:
            left = base
        # The latest is never among those that go: while nobody else saved, the next save builds on it.
        if left is not None and self._recall(*head) is None:
            self._remember(*head, left)
        return found

    async def _set_ttl(self, thread_id: str, ttl: timedelta | None, sliding: bool) -> bool:
        database = await self._database()
        span: Any = ttl
        if database.kind == "sqlite" and ttl is not None:
            span = ttl // timedelta(microseconds=1)
        keys = {"tenant": self._tenant, "thread": thread_id, "ttl": span, "sliding": sliding, **clock(database)}
        return bool(await database.execute(load_queries("checkpoint", database.kind).set_ttl, keys))

    async def _delete_expired(self, limit: int) -> int:
        database = await self._database()
        rows = await database.fetch_all(
            load_queries("checkpoint", database.kind).list_expired,
            {"tenant": self._tenant, "limit": limit, **clock(database)},
        )
        gone = [await self._delete_if(row["thread_id"], True, None, None) for row in rows]
        return len(gone) - gone.count(None)

    async def _delete_threads(self, cutoff: datetime | None, wanted: str | None, limit: int) -> int:
        found = await self._list_threads(limit, "", wanted, cutoff)
        gone = [await self._delete_if(thread.thread_id, False, cutoff, wanted) for thread in found]
        return len(gone) - gone.count(None)
