"""The contract of every checkpointer: what is refused, what is returned, in which order.

A backend fills in the methods with an underscore; what they are given has been validated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, overload

from checkpoint._async.durability import AsyncHeld
from checkpoint._async.retention import AsyncRetention
from checkpoint._async.timetravel import AsyncTimeTravel
from checkpoint._async.writes import SECRETS, AsyncPendingWrites
from checkpoint.exporting import export_line
from checkpoint.records import Checkpoint, CheckpointInfo, Durability, ThreadInfo, describe
from checkpoint.validation import MAX_VERSION, check_checkpoint, check_durability, check_filter, check_key, check_thread
from persistence._async.guards import guarded
from persistence.errors import (
    UNIQUE_VIOLATION,
    ConflictError,
    DuplicateError,
    NotFoundError,
    PersistenceError,
    ValidationError,
)
from persistence.validation import check_id, check_limit, check_whole

_TRIES = 10
_THREADS = 1000
_STATES = 20
"""How many threads and states an export reads at once."""


class AsyncCheckpointer(AsyncTimeTravel, AsyncPendingWrites, AsyncRetention, AsyncHeld):
    """Keeps the checkpoints of workflow threads, under versions 1, 2, 3, … in each thread and namespace.

    A version is given once: after a delete the next save goes on counting. The latest is the highest version, whatever
    the clocks say. What was saved or loaded is the caller's own; changing it never changes what is stored.
    """

    async def save_checkpoint(
        self, checkpoint: Checkpoint, *, expected_version: int | None = None, durability: Durability | None = None
    ) -> Checkpoint:
        """Store a checkpoint and return it with its version, timestamp and parent filled in.

        Without a version it becomes the next one, atomically, however many save at once. The thread need not exist.
        ``expected_version`` is the version that must be the latest now; 0 means that there must be none. After a
        failure nothing is stored. With a ``key`` that the thread has in that namespace, nothing is written, whatever
        else is asked for, and what is there is returned: so a save may be repeated after a lost answer.

        ``durability`` (None: the checkpointer's own) is ``"sync"``: durable when it returns; ``"async"``: PostgreSQL
        commits without waiting for its disk, so that a crash of the server may lose the last moments, but never
        leaves half of a checkpoint (a surrounding transaction and SQLite decide that for themselves); or ``"exit"``:
        held in this process, where no read sees it, until ``flush``, ``aclose`` or the next save of another kind to
        that thread and namespace. Of those held the last is saved; its version is given then.

        Raises:
            ValidationError: an id, a number, the metadata or a value of the state can't be stored faithfully.
            DuplicateError: the thread has a checkpoint of that version.
            ConflictError: the latest version is another than expected; the error has both.
        """
        metadata = check_checkpoint(checkpoint, expected_version)
        moment = datetime.now(UTC) if checkpoint.timestamp is None else checkpoint.timestamp.astimezone(UTC)
        place = (checkpoint.thread_id, checkpoint.namespace)
        chosen = self._durability if durability is None else check_durability(durability)
        if chosen == "exit":
            return self._hold(replace(checkpoint, timestamp=moment), expected_version)
        held = self._held().get(place)
        if held is not None and held is not checkpoint:
            await self.save_checkpoint(held, durability="sync")
        kept = await self._guarded(checkpoint)
        saved = await self._save_or_find(kept, metadata, moment, expected_version, chosen == "sync")
        if held is not None:
            self._held().release(place, held)
        return saved

    async def _guarded(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint with what is to be kept of the secrets in its state."""
        if self._secrets is None:
            return checkpoint
        state = await guarded(self._secrets, checkpoint.state, "the state", SECRETS)
        return checkpoint if state is checkpoint.state else replace(checkpoint, state=state)

    async def _save_or_find(
        self, checkpoint: Checkpoint, metadata: str, moment: datetime, expected_version: int | None, durable: bool
    ) -> Checkpoint:
        """Save it, or return what is there under its key."""
        for _ in range(_TRIES):
            saved = await self._save(checkpoint, metadata, moment, expected_version, durable)
            if saved is not None:
                return saved
            there = await self._load(checkpoint.thread_id, None, checkpoint.key, checkpoint.namespace, False)
            if there is not None:
                return there
        raise ConflictError(
            f"{describe(checkpoint.thread_id, checkpoint.namespace)} kept changing",
            operation="save_checkpoint",
            connection=self._place,
        )

    async def load_checkpoint(
        self,
        thread_id: str,
        version: int | None = None,
        *,
        key: str | None = None,
        namespace: str = "",
        writes: bool = False,
    ) -> Checkpoint:
        """Return a checkpoint with its state: that of the version or the key; without either the latest.

        With ``writes`` its pending writes come along.

        Raises:
            NotFoundError: there is no such thread, version or key.
            CorruptError: what is stored was damaged; the error names the channel.
        """
        check_thread(thread_id, namespace)
        if version is not None:
            check_whole("the version", version)
        if key is not None:
            check_key(thread_id, namespace, key)
            if version is not None:
                raise ValidationError("load_checkpoint takes a version or a key, not both")
        found = await self._load(thread_id, version, key, namespace, writes)
        if found is None:
            what = "checkpoint" if version is None else f"checkpoint {version}"
            what = what if key is None else f"checkpoint with the key {key!r}"
            raise NotFoundError(
                f"there is no {what} of {describe(thread_id, namespace)}",
                hint="list_checkpoints shows what there is, latest() returns None instead",
                operation="load_checkpoint",
                connection=self._place,
            )
        return found

    async def latest(self, thread_id: str, *, namespace: str = "", writes: bool = False) -> Checkpoint | None:
        """Return the checkpoint with the highest version, or None when the thread has none.

        With ``writes`` its pending writes come along.

        Raises:
            CorruptError: what is stored was damaged; the error names the channel.
        """
        check_thread(thread_id, namespace)
        return await self._load(thread_id, None, None, namespace, writes)

    @overload
    async def list_checkpoints(
        self,
        thread_id: str,
        *,
        limit: int = 100,
        before: int | None = None,
        filter: dict[str, Any] | None = None,
        namespace: str = "",
        states: Literal[False] = False,
        writes: Literal[False] = False,
    ) -> list[CheckpointInfo]: ...
    @overload
    async def list_checkpoints(
        self,
        thread_id: str,
        *,
        limit: int = 100,
        before: int | None = None,
        filter: dict[str, Any] | None = None,
        namespace: str = "",
        states: Literal[True],
        writes: bool = False,
    ) -> list[Checkpoint]: ...
    async def list_checkpoints(
        self,
        thread_id: str,
        *,
        limit: int = 100,
        before: int | None = None,
        filter: dict[str, Any] | None = None,
        namespace: str = "",
        states: bool = False,
        writes: bool = False,
    ) -> list[CheckpointInfo] | list[Checkpoint]:
        """Return the checkpoints of a thread, newest first; none for an unknown thread.

        Without ``states`` nothing of the states is read; ``writes`` goes with them. ``before`` is the cursor: only
        versions below it are listed. ``filter`` is what the metadata must contain: equal values under its keys, at any
        depth; of a list, each item of the filter's.
        """
        check_thread(thread_id, namespace)
        check_limit(limit)
        if before is not None:
            check_whole("the version", before)
        wanted = check_filter(filter)
        below = MAX_VERSION * 2 - 1 if before is None else before
        if states:
            return await self._list_states(thread_id, limit, below, wanted, namespace, writes)
        if writes:
            raise ValidationError("writes are listed with states only", hint="states=True")
        return await self._list(thread_id, limit, below, wanted, namespace)

    async def list_threads(
        self, *, filter: dict[str, Any] | None = None, limit: int = 100, after: str | None = None
    ) -> list[ThreadInfo]:
        """Return the threads, ordered by id (by code points); ``after`` is the cursor, the last id seen.

        ``filter`` is what the metadata of the latest checkpoint in the namespace ``""`` must contain, as in
        ``list_checkpoints``.
        """
        check_limit(limit)
        if after is not None:
            check_id("the thread id", after)
        return await self._list_threads(limit, after or "", check_filter(filter))

    async def delete_checkpoint(self, thread_id: str, version: int, *, namespace: str = "") -> bool:
        """Delete one checkpoint with its pending writes; tell whether it was there. Every other one stays whole."""
        check_thread(thread_id, namespace)
        check_whole("the version", version)
        return await self._delete(thread_id, version, namespace)

    async def delete_thread(self, thread_id: str) -> int:
        """Delete a thread with all its namespaces and pending writes; return how many checkpoints it had.

        What ``durability="exit"`` held back of it by then is dropped.
        """
        held = self._held().of_thread(check_id("the thread id", thread_id))
        count = await self._delete_thread(thread_id)
        for place, checkpoint in held.items():
            self._held().release(place, checkpoint)
        return count

    async def erase_user(self, user_id: str) -> dict[str, int]:
        """Delete the threads of a user, and return under ``checkpoints`` how many checkpoints they had.

        A thread is the user's whose latest checkpoint in the namespace ``""`` has the id as ``user_id`` in its
        metadata, or what ``durability="exit"`` holds back of it. What has expired is found no more, and goes with
        ``delete_expired``.
        """
        user, after = check_id("user_id", user_id), ""
        count = 0
        while page := await self._list_user_threads(user, _THREADS, after):
            for thread in page:
                count += await self.delete_thread(thread.thread_id)
            after = page[-1].thread_id
        for thread_id in self._held().of_user(user):
            count += await self.delete_thread(thread_id)
        return {"checkpoints": count}

    async def export_user(self, user_id: str) -> AsyncIterator[str]:
        """Yield the checkpoints of those threads as JSON lines of kind ``checkpoint``, by thread, newest first.

        What a state holds that JSON has no form for comes as text. No connection is held between pages.
        """
        user, after = check_id("user_id", user_id), ""
        while page := await self._list_user_threads(user, _THREADS, after):
            for thread in page:
                for namespace in sorted(thread.versions):
                    async for checkpoint in self._each_state(thread.thread_id, namespace):
                        yield export_line(checkpoint)
            after = page[-1].thread_id

    async def _list_user_threads(self, user_id: str, limit: int, after: str) -> list[ThreadInfo]:
        """Return the threads of a user after one of them, by id."""
        return await self._list_threads(limit, after, check_filter({"user_id": user_id}))

    async def _each_state(self, thread_id: str, namespace: str) -> AsyncIterator[Checkpoint]:
        before = None
        while page := await self.list_checkpoints(
            thread_id, namespace=namespace, limit=_STATES, before=before, states=True
        ):
            for checkpoint in page:
                yield checkpoint
            before = page[-1].version

    _place: str | None = None
    """The connection's name, for errors."""

    @abstractmethod
    async def _save(
        self, checkpoint: Checkpoint, metadata: str, moment: datetime, expected: int | None, durable: bool
    ) -> Checkpoint | None:
        """Store it and return it as it was saved, None when a checkpoint of its key is there."""

    @abstractmethod
    async def _list(
        self, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str
    ) -> list[CheckpointInfo]: ...

    @abstractmethod
    async def _list_states(
        self, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str, writes: bool
    ) -> list[Checkpoint]: ...

    @abstractmethod
    async def _list_threads(self, limit: int, after: str, wanted: str | None) -> list[ThreadInfo]: ...

    @abstractmethod
    async def _delete(self, thread_id: str, version: int, namespace: str) -> bool: ...

    @abstractmethod
    async def _delete_thread(self, thread_id: str) -> int: ...

    def _refusal(
        self, checkpoint: Checkpoint, expected: int | None, latest: int, taken: bool, held: bool = False
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
                code=UNIQUE_VIOLATION,
            )
        if held:
            return DuplicateError(
                f"checkpoint {checkpoint.version} of {thread} was deleted, and others still need a part of it",
                hint="leave the version out to get the next one",
                operation="save_checkpoint",
                connection=self._place,
                code=UNIQUE_VIOLATION,
            )
        return None
