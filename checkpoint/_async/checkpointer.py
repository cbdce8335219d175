"""The contract of every checkpointer: what is refused, what is returned, in which order.

A backend fills in the methods with an underscore; what they are given has been validated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime

from checkpoint.records import Checkpoint, CheckpointInfo, ThreadInfo, describe
from checkpoint.validation import MAX_VERSION, check_checkpoint, check_thread
from persistence.errors import ConflictError, DuplicateError, NotFoundError, PersistenceError
from persistence.validation import check_id, check_limit, check_whole


class AsyncCheckpointer(ABC):
    """Keeps the checkpoints of workflow threads, under versions 1, 2, 3, … in each thread and namespace.

    A version is given once: after a delete the next save goes on counting. The latest is the highest version, whatever
    the clocks say. What was saved or loaded is the caller's own; changing it never changes what is stored.
    """

    async def save_checkpoint(self, checkpoint: Checkpoint, *, expected_version: int | None = None) -> Checkpoint:
        """Store a checkpoint and return it with its version, timestamp and parent filled in.

        Without a version it becomes the next one, atomically, however many save at once. The thread need not exist.
        ``expected_version`` is the version that must be the latest now; 0 means that there must be none. After a
        failure nothing is stored.

        Raises:
            ValidationError: an id, a number, the metadata or a value of the state can't be stored faithfully.
            DuplicateError: the thread has a checkpoint of that version.
            ConflictError: the latest version is another than expected; the error has both.
        """
        metadata = check_checkpoint(checkpoint, expected_version)
        moment = datetime.now(UTC) if checkpoint.timestamp is None else checkpoint.timestamp.astimezone(UTC)
        version, parent = await self._save(checkpoint, metadata, moment, expected_version)
        return Checkpoint(
            checkpoint.thread_id,
            checkpoint.state,
            metadata=checkpoint.metadata,
            version=version,
            timestamp=moment,
            parent_version=parent,
            namespace=checkpoint.namespace,
            node=checkpoint.node,
            step=checkpoint.step,
        )

    async def load_checkpoint(self, thread_id: str, version: int | None = None, *, namespace: str = "") -> Checkpoint:
        """Return a checkpoint with its state; without a version the latest.

        Raises:
            NotFoundError: there is no such thread or version.
            CorruptError: what is stored was damaged; the error names the channel.
        """
        check_thread(thread_id, namespace)
        if version is not None:
            check_whole("the version", version)
        found = await self._load(thread_id, version, namespace)
        if found is None:
            what = f"checkpoint {version}" if version is not None else "checkpoint"
            raise NotFoundError(
                f"there is no {what} of {describe(thread_id, namespace)}",
                hint="list_checkpoints shows what there is, latest() returns None instead",
                operation="load_checkpoint",
                connection=self._place,
            )
        return found

    async def latest(self, thread_id: str, *, namespace: str = "") -> Checkpoint | None:
        """Return the checkpoint with the highest version, or None when the thread has none.

        Raises:
            CorruptError: what is stored was damaged; the error names the channel.
        """
        check_thread(thread_id, namespace)
        return await self._load(thread_id, None, namespace)

    async def list_checkpoints(
        self, thread_id: str, *, limit: int = 100, before: int | None = None, namespace: str = ""
    ) -> list[CheckpointInfo]:
        """Return the checkpoints of a thread without their states, newest first; none for an unknown thread.

        ``before`` is the cursor: only versions below it are listed.
        """
        check_thread(thread_id, namespace)
        check_limit(limit)
        if before is not None:
            check_whole("the version", before)
        return await self._list(thread_id, limit, MAX_VERSION * 2 - 1 if before is None else before, namespace)

    async def list_threads(self, *, limit: int = 100, after: str | None = None) -> list[ThreadInfo]:
        """Return the threads, ordered by id (by code points); ``after`` is the cursor, the last id seen."""
        check_limit(limit)
        if after is not None:
            check_id("the thread id", after)
        return await self._list_threads(limit, after or "")

    async def delete_checkpoint(self, thread_id: str, version: int, *, namespace: str = "") -> bool:
        """Delete one checkpoint of this thread; tell whether it was there. Every other one stays whole."""
        check_thread(thread_id, namespace)
        check_whole("the version", version)
        return await self._delete(thread_id, version, namespace)

    async def delete_thread(self, thread_id: str) -> int:
        """Delete a thread with all its namespaces; return how many checkpoints it had."""
        check_id("the thread id", thread_id)
        return await self._delete_thread(thread_id)

    _place: str | None = None
    """The connection's name, for errors."""

    @abstractmethod
    async def _save(
        self, checkpoint: Checkpoint, metadata: str, moment: datetime, expected: int | None
    ) -> tuple[int, int | None]:
        """Store it; return its version and parent."""

    @abstractmethod
    async def _load(self, thread_id: str, version: int | None, namespace: str) -> Checkpoint | None: ...

    @abstractmethod
    async def _list(self, thread_id: str, limit: int, before: int, namespace: str) -> list[CheckpointInfo]: ...

    @abstractmethod
    async def _list_threads(self, limit: int, after: str) -> list[ThreadInfo]: ...

    @abstractmethod
    async def _delete(self, thread_id: str, version: int, namespace: str) -> bool: ...

    @abstractmethod
    async def _delete_thread(self, thread_id: str) -> int: ...

    def _refusal(
        self, checkpoint: Checkpoint, expected: int | None, latest: int, taken: bool
    ) -> PersistenceError | None:
        """Return why a save changed nothing, None when nothing speaks against it any more."""
        thread = describe(checkpoint.thread_id, checkpoint.namespace)
        if expected is not None and latest != expected:
            return ConflictError(
                f"the latest checkpoint of {thread} is {latest or 'none'}, not {expected or 'none'}",
                expected=expected,
                actual=latest,
                hint="load the latest, and build on that",
                operation="save_checkpoint",
                connection=self._place,
            )
        if taken:
            return DuplicateError(
                f"checkpoint {checkpoint.version} of {thread} already exists",
                hint="leave the version out to get the next one",
                operation="save_checkpoint",
                connection=self._place,
            )
        return None
