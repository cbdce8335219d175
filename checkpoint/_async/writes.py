"""The contract of pending writes: what the tasks of a step wrote, kept so that a retried step need not repeat it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from checkpoint.pieces import HASH_BYTES, name_piece, open_piece, pack_piece
from checkpoint.records import PendingWrite
from checkpoint.serializer import Serializer
from checkpoint.validation import check_key, check_thread, check_writes
from persistence._async.guards import AsyncSecretsOption, guarded
from persistence.errors import CorruptError
from persistence.validation import check_text

SECRETS = "checkpoints"
"""Under which context a vault keeps the secrets of states: one for all threads, so that forks may be resumed."""


class Item(NamedTuple):
    """A write as it is stored; ``data`` is the hash of the serialized value, and that packed as a piece is."""

    idx: int
    channel: str
    data: bytes


class AsyncPendingWrites(ABC):
    """The part of a checkpointer that keeps pending writes; they go with their checkpoint and with their thread."""

    _serializer: Serializer
    _place: str | None
    _secrets: AsyncSecretsOption = None

    async def put_writes(
        self,
        thread_id: str,
        key: str,
        task_id: str,
        writes: Sequence[tuple[str, Any]],
        *,
        namespace: str = "",
        task_path: str = "",
        start: int = 0,
        indices: Sequence[int] | None = None,
    ) -> None:
        """Keep what a task wrote, as pairs of a channel and a value, for the checkpoint that has or will have ``key``.

        A write's index is its place counted from ``start``, or its entry of ``indices``. Doing it again changes
        nothing: of two writes with the same key, task and index the first stays, but with a negative index the last.
        ``task_path`` orders tasks. Neither the checkpoint nor the thread need exist.

        Raises:
            ValidationError: an id, an index or a value can't be stored faithfully; nothing was written.
        """
        check_thread(thread_id, namespace)
        check_key(thread_id, namespace, key, task_id)
        check_text("the task path", task_path, limit=10_000)
        places = check_writes(writes, start, indices)
        if self._secrets is not None:
            pairs: list[dict[str, Any]] = [{channel: value} for channel, value in writes]
            kept = await guarded(self._secrets, pairs, "a pending write", SECRETS)
            writes = [(channel, next(iter(pair.values()))) for (channel, _), pair in zip(writes, kept, strict=True)]
        items = [
            Item(index, channel, self._pack(channel, value))
            for index, (channel, value) in zip(places, writes, strict=True)
        ]
        if items:
            await self._put_writes(thread_id, namespace, key, task_id, task_path, items)

    async def pending_writes(self, thread_id: str, key: str, *, namespace: str = "") -> list[PendingWrite]:
        """Return the pending writes of a checkpoint, ordered by task path, task id and index; none is [].

        Raises:
            CorruptError: what is stored was damaged; the error names the task and the channel.
        """
        check_thread(thread_id, namespace)
        check_key(thread_id, namespace, key)
        return await self._pending_writes(thread_id, namespace, key)

    def _pack(self, channel: str, value: object) -> bytes:
        content = self._serializer.dumps(value, where=f"writes[{channel[:80]!r}]")
        kind, packed = pack_piece(content)
        return b"".join((kind, name_piece(kind, packed), packed))

    def _as_write(
        self, task_id: str, channel: str, index: int, task_path: str, data: bytes | memoryview
    ) -> PendingWrite:
        """Return a stored write as it was put."""
        kind, name = bytes(data[:1]), bytes(data[1 : 1 + HASH_BYTES])
        try:
            value = self._serializer.loads(open_piece(kind, data[1 + HASH_BYTES :], name)[0])
        except CorruptError as exc:
            raise CorruptError(
                f"the write of task {task_id!r} to channel {channel[:80]!r}: {exc.message}",
                hint=exc.hint,
                operation="pending_writes",
                connection=self._place,
            ) from exc
        return PendingWrite(task_id=task_id, channel=channel, value=value, index=index, task_path=task_path)

    @abstractmethod
    async def _put_writes(
        self, thread_id: str, namespace: str, key: str, task_id: str, task_path: str, items: list[Item]
    ) -> None: ...

    @abstractmethod
    async def _pending_writes(self, thread_id: str, namespace: str, key: str) -> list[PendingWrite]: ...
