"""Retention in Redis: what goes is worked out here, page by page, and deleted in batches of one script each.

*Nothing that a kept checkpoint needs goes.* This process reads what each checkpoint needs, and the namespace's epoch,
which is new after every change but a save of the next version. A batch asks for that epoch: if it is another, all is
read anew. Of what was saved since, the script itself looks up what it needs, and keeps that. Then it gives the
namespace a new stamp, so that no save goes on from blocks that it believes stored. So the server is never kept busy for
longer than a page or a batch takes, however long the thread, and writers don't hold a prune up.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from checkpoint._async.redis_listing import LATELY, AsyncRedisListing
from checkpoint._async.retention import AsyncRetention, PruneRule
from checkpoint.records import PruneReport, describe
from checkpoint.redis_format import micros, pack_moment, tenant_keys, unpack_heads
from checkpoint.redis_pruning import DamagedError, Line, choose, plan, read_line
from persistence.errors import ConflictError
from persistence.validation import LIMIT

_PAGE = 1000
_TRIES = 100


class AsyncRedisRetention(AsyncRedisListing, AsyncRetention):
    """The retention of AsyncRedisCheckpointer."""

    async def _delete(self, thread_id: str, version: int, namespace: str) -> bool:
        self._remember(thread_id, namespace, None)

        def only(lines: list[Line]) -> list[int]:
            return [line.version for line in lines if line.version == version]

        return bool((await self._forget(thread_id, namespace, only, False, 1)).checkpoints)

    async def _forget(
        self, thread_id: str, namespace: str, victims: Callable[[list[Line]], list[int]], dry_run: bool, size: int
    ) -> PruneReport:
        """Delete the checkpoints that ``victims`` chooses of all; say how many went, and the bytes that this freed."""
        keys = self._keys(thread_id)
        checkpoints = freed = 0
        for _ in range(_TRIES):
            read = await self._lines(keys, namespace)
            if read is None:
                continue
            epoch, seen, lines = read
            try:
                batches = plan(lines, victims(lines), size)
            except DamagedError as exc:
                raise self._damaged(exc, exc.version, thread_id, namespace) from exc
            if dry_run:
                checkpoints = freed = 0
            for batch in batches:
                answer = await self._run(
                    "forget",
                    keys,
                    namespace,
                    secrets.randbits(62),
                    int(dry_run),
                    epoch,
                    seen,
                    len(batch.versions),
                    *batch.versions,
                    *batch.blocks,
                )
                if answer is None:
                    break
                checkpoints, freed, epoch = checkpoints + answer[0], freed + answer[1], answer[2]
            else:
                return PruneReport(checkpoints=checkpoints, bytes=freed)
        raise ConflictError(
            f"{describe(thread_id, namespace)} kept changing", operation="prune", connection=self._place
        )

    async def _lines(self, keys: tuple[bytes, ...], namespace: str) -> tuple[bytes, bytes, list[Line]] | None:
        """Return a namespace's epoch, the version up to which all are known, and what each checkpoint needs.

        None: the epoch changed while they were read.
        """
        epoch, seen, *found = await self._run("refs", keys, namespace, "", _PAGE)
        current, page = epoch, found
        while len(page) == 2 * _PAGE and current == epoch:
            current, _, *page = await self._run("refs", keys, namespace, page[-2], _PAGE)
            found += page
        if current != epoch:
            return None
        return epoch, seen, [read_line(*pair) for pair in zip(found[::2], found[1::2], strict=True)]

    async def _delete_thread(self, thread_id: str) -> int:
        return await self._drop(thread_id) or 0

    async def _drop(self, thread_id: str, *heads: bytes) -> int | None:
        """Delete a thread, if its heads are these; None: it is not there, or has changed."""
        count: int | None = await self._run("drop_thread", self._keys(thread_id), *heads)
        if count is not None:
            await self._unregister([thread_id])
        return count

    async def _prune(self, thread_id: str | None, rule: PruneRule) -> PruneReport:
        before = None if rule.cutoff is None else pack_moment(rule.cutoff)

        def victims(lines: list[Line]) -> list[int]:
            return choose(lines, rule.keep_last, before, rule.keep_tagged)

        checkpoints = size = 0
        if thread_id is not None:
            answers = await self._describe([thread_id], False)
            heads = [] if answers[0] is None else [(thread_id, answers[0])]
        else:
            heads = [found async for found in self._walk_threads("", LIMIT, False)]
        for name, answer in heads:
            for namespace in unpack_heads(answer[0]).versions:
                report = await self._forget(name, namespace, victims, rule.dry_run, rule.batch)
                checkpoints, size = checkpoints + report.checkpoints, size + report.bytes
                if report.checkpoints:
                    self._remember(name, namespace, None)
        return PruneReport(checkpoints=checkpoints, bytes=size)

    async def _set_ttl(self, thread_id: str, ttl: timedelta | None, sliding: bool) -> bool:
        given: object = "" if ttl is None else micros(ttl)
        expires: bytes | None = await self._run("set_ttl", self._keys(thread_id), given, int(sliding))
        if expires is None:
            return False
        await self._note([(thread_id, expires, b"")])
        return True

    async def _note(self, moments: list[tuple[str, bytes, bytes]]) -> None:
        """Note when threads expire, where what was noted before is as given, or whatever it was where that is empty."""
        flat: list[Any] = []
        for moment in moments:
            flat += moment
        await self._run("note_expiry", tenant_keys(self._tenant)[2:], *flat)

    async def _delete_expired(self, limit: int) -> int:
        # Redis deletes most of them by itself, and only their names are left here.
        due = await self._run("expiring", tenant_keys(self._tenant)[2:], limit)
        noted = [(name.decode(), moment) for name, moment in zip(due[::2], due[1::2], strict=True)]
        answers = await self._run_many([("expire_thread", self._keys(name), ()) for name, _ in noted])
        gone = [name for (name, _), answer in zip(noted, answers, strict=True) if answer == b"gone"]
        if gone:
            await self._unregister(gone)
        if noted:
            await self._note(
                [
                    (name, b"0" if answer == b"gone" else answer, moment)
                    for (name, moment), answer in zip(noted, answers, strict=True)
                ]
            )
        await self._sweep(limit)
        return len(gone)

    async def _sweep(self, limit: int) -> None:
        """Forget names of threads that are not there: of the names that nobody looked at for longest.

        Those of threads that are there are registered anew, so that another sweep looks at others.
        """
        keys = tenant_keys(self._tenant)[:2]
        names = [name.decode() for name in await self._run("registered", keys, LATELY, limit)]
        answers = await self._describe(names, False)
        there = [name for name, answer in zip(names, answers, strict=True) if answer is not None]
        if there:
            await self._run_many([("register", keys, there)])

    async def _delete_threads(self, cutoff: datetime | None, wanted: str | None, limit: int) -> int:
        found = await self._find_threads(limit, "", wanted, cutoff)
        calls = [("drop_thread", self._keys(thread.thread_id), thread.heads.fields) for thread in found]
        answers = await self._run_many(calls)
        gone = [thread.thread_id for thread, answer in zip(found, answers, strict=True) if answer is not None]
        if gone:
            await self._unregister(gone)
        return len(gone)
