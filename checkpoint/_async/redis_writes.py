"""Pending writes in Redis: one script a call, also when they are loaded with their checkpoint."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from checkpoint._async.redis_base import AsyncCheckpointKeys
from checkpoint._async.writes import AsyncPendingWrites, Item
from checkpoint.records import PendingWrite
from checkpoint.redis_format import in_pairs, pack_write, unpack_write, write_fields
from checkpoint.sealing import SEALED
from persistence.errors import CorruptError


class AsyncRedisWrites(AsyncCheckpointKeys, AsyncPendingWrites):
    """The pending writes of AsyncRedisCheckpointer."""

    async def _put_writes(
        self, thread_id: str, namespace: str, key: str, task_id: str, task_path: str, items: list[Item]
    ) -> None:
        fields = write_fields(namespace, key, task_id)
        values: list[object] = []
        for index, channel, content in items:
            data = content
            if self._sealing.is_on:
                place = self._sealing.write(thread_id, namespace, key, task_id, index, channel)
                data = self._sealing.seal(content, *place)
            values += (index, pack_write(task_path, channel, data))
        stamp = secrets.randbits(62)
        if self._recall(thread_id, namespace) is not None:
            # Of a thread that is there nothing needs to be registered.
            if await self._run("put_writes", self._keys(thread_id), namespace, stamp, 0, fields, *values):
                return
            self._remember(thread_id, namespace, None)
        await self._run_registered("put_writes", thread_id, namespace, stamp, 1, fields, *values)

    async def _pending_writes(self, thread_id: str, namespace: str, key: str) -> list[PendingWrite]:
        found = await self._run("pending_writes", self._keys(thread_id), namespace, key)
        return self._opened(found, thread_id, namespace, key)

    def _opened(self, found: Sequence[bytes], thread_id: str, namespace: str, key: str) -> list[PendingWrite]:
        """Return writes in their order; ``found`` is fields and values in turns."""
        writes = []
        for field, value in in_pairs(found).items():
            try:
                task_id, channel, index, task_path, stored = unpack_write(field, value)
                data: bytes | memoryview = stored
                if self._sealing.is_on or stored[:1] == SEALED:
                    place = self._sealing.write(thread_id, namespace, key, task_id, index, channel)
                    data = self._sealing.open(stored, *place)
            except CorruptError as exc:
                raise CorruptError(
                    exc.message, hint=exc.hint, operation="pending_writes", connection=self._place
                ) from exc
            writes.append(self._as_write(task_id, channel, index, task_path, data))
        return sorted(writes, key=lambda write: (write.task_path, write.task_id, write.index))
