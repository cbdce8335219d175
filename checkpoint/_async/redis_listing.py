"""Listings of checkpoints and threads in Redis.

Metadata is compared here and not by the server, whose Lua has no whole numbers of 64 bits; a listing with a filter
takes a round trip for each 500 checkpoints, or threads, that it looks at.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from checkpoint._async.redis_writes import AsyncRedisWrites
from checkpoint.decoding import Shared, decode_state
from checkpoint.matching import contains
from checkpoint.records import Checkpoint, CheckpointInfo, ThreadInfo
from checkpoint.redis_format import Heads, Record, Row, tenant_keys, unpack_heads, unpack_record
from persistence.dialect import from_json
from persistence.errors import CorruptError

_PAGE = 500
LATELY = 3_600_000_000
"""For so many microseconds after it was registered a thread stays so, there or not: whoever registered it may be about
to make it, within the same pipeline."""


class Found(NamedTuple):
    """A thread as it was found."""

    thread_id: str
    heads: Heads


class AsyncRedisListing(AsyncRedisWrites):
    """The listings of AsyncRedisCheckpointer."""

    async def _list(
        self, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str
    ) -> list[CheckpointInfo]:
        records = await self._list_records(thread_id, limit, before, wanted, namespace)
        return [CheckpointInfo(thread_id=thread_id, namespace=namespace, **record.described()) for record in records]

    async def _list_records(
        self, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str
    ) -> list[Record]:
        keys = self._keys(thread_id)
        if wanted is None:
            found = await self._run("rows", keys, namespace, before, limit, 0, 0)
            return self._records(found, thread_id, namespace)
        filter_ = json.loads(wanted)
        records: list[Record] = []
        while len(records) < limit:
            found = await self._run("rows", keys, namespace, before, _PAGE, 0, 0)
            page = self._records(found, thread_id, namespace)
            records += [record for record in page if contains(from_json(record.metadata), filter_)]
            if len(page) < _PAGE:
                break
            before = page[-1].version
        return records[:limit]

    async def _list_states(
        self, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str, writes: bool
    ) -> list[Checkpoint]:
        keys = self._keys(thread_id)
        # Neighbours have most blocks in common: the server sends them once, and they are opened once.
        shared = Shared()
        if wanted is None:
            found = await self._run("rows", keys, namespace, before, limit, 1, int(writes))
            return [self._loaded(thread_id, namespace, Row(row), shared) for row in found]
        chosen = [record.version for record in await self._list_records(thread_id, limit, before, wanted, namespace)]
        if not chosen:
            return []
        found = await self._run("rows", keys, namespace, before, limit, 1, int(writes), *chosen)
        return [self._loaded(thread_id, namespace, Row(row), shared) for row in found]

    def _loaded(self, thread_id: str, namespace: str, row: Row, shared: Shared | None = None) -> Checkpoint:
        """Return a checkpoint with the state that its blocks hold, and remember it if it is the latest."""
        try:
            record = unpack_record(row.version, row.record)
            manifest, blocks = self._unsealed(thread_id, namespace, record, row.blocks)
            decoded = decode_state(row.version, manifest, record.refs, blocks, self._serializer, shared)
        except CorruptError as exc:
            raise self._damaged(exc, row.version, thread_id, namespace) from exc
        if row.stamp is not None:
            base = self._recall(thread_id, namespace)
            if base is None or not base.is_of(row.stamp, row.version):
                self._remember(thread_id, namespace, decoded.as_base(row.stamp, row.counter, row.version))
        pending = tuple(self._opened(row.pending, thread_id, namespace, record.key or ""))
        return Checkpoint(thread_id, decoded.state, namespace=namespace, writes=pending, **record.described())

    async def _list_threads(self, limit: int, after: str, wanted: str | None) -> list[ThreadInfo]:
        found = await self._find_threads(limit, after, wanted, None)
        return [
            ThreadInfo(
                thread_id=thread.thread_id,
                versions=thread.heads.versions,
                created_at=thread.heads.created_at,
                updated_at=thread.heads.updated_at,
            )
            for thread in found
        ]

    async def _find_threads(self, limit: int, after: str, wanted: str | None, cutoff: datetime | None) -> list[Found]:
        """Return the threads after one, in order, that were last used before the cutoff and have the metadata."""
        filter_ = None if wanted is None else json.loads(wanted)
        found: list[Found] = []
        async for thread_id, answer in self._walk_threads(after, limit, wanted is not None):
            heads = unpack_heads(answer[0])
            if cutoff is not None and heads.updated_at >= cutoff:
                continue
            if filter_ is not None:
                latest = str(heads.versions.get("", 0)).encode()
                record = [] if answer[1] is None else self._records([latest, answer[1]], thread_id, "")
                if not record or not contains(from_json(record[0].metadata), filter_):
                    continue
            found.append(Found(thread_id, heads))
            if len(found) == limit:
                break
        return found

    async def _walk_threads(self, after: str, limit: int, is_filtered: bool) -> AsyncIterator[tuple[str, Any]]:
        """Yield the threads that are there, in order, each with what is asked of it."""
        client = self._manager.get_redis(self._name).client
        threads = tenant_keys(self._tenant)[0]
        page = _PAGE if is_filtered else min(max(limit, 100), _PAGE)
        while True:
            start = b"(" + after.encode() if after else b"-"
            listed = await client.execute_command("ZRANGEBYLEX", threads, start, b"+", "LIMIT", 0, page)
            names = [name.decode() for name in listed]
            answers = await self._describe(names, is_filtered)
            for thread_id, answer in zip(names, answers, strict=True):
                if answer is not None:
                    yield thread_id, answer
            if len(names) < page:
                return
            after = names[-1]

    async def _describe(self, names: Sequence[str], is_filtered: bool) -> list[Any]:
        answers = await self._run_many(
            [("describe_thread", self._keys(thread_id), (int(is_filtered),)) for thread_id in names]
        )
        gone = [thread_id for thread_id, answer in zip(names, answers, strict=True) if answer is None]
        if gone:
            await self._unregister(gone)
        return answers

    async def _unregister(self, gone: Sequence[str]) -> None:
        """Forget threads that are not there, but for those registered lately."""
        await self._run("unregister", tenant_keys(self._tenant)[:2], LATELY, *gone)
