# Generated from ../_async/timetravel.py by tests/unasync.py: edit that one.
"""The contract of time travel: where a state came from, what changed, and going on from an earlier one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NoReturn

from checkpoint.records import Checkpoint, CheckpointInfo, Durability, StateDiff, describe
from checkpoint.serializer import Serializer
from checkpoint.validation import MAX_VERSION, check_fork, check_thread
from persistence.errors import UNIQUE_VIOLATION, DuplicateError, NotFoundError, ValidationError
from persistence.validation import check_id, check_limit, check_whole


class TimeTravel(ABC):
    """The part of a checkpointer that looks back along a thread, and forks, copies and rewinds it."""

    _serializer: Serializer
    _place: str | None

    def history(
        self, thread_id: str, *, namespace: str = "", limit: int = 100, before: int | None = None
    ) -> list[CheckpointInfo]:
        """Return how the latest checkpoint came about: itself, its parent, the parent's parent, and so on.

        The chain ends at the first without a parent, or where a parent was deleted or pruned, or has no lower version.
        ``before`` is the cursor: only versions below it are listed. None for an unknown thread.
        """
        check_thread(thread_id, namespace)
        check_limit(limit)
        if before is not None:
            check_whole("the version", before)
        return self._history(thread_id, namespace, limit, MAX_VERSION * 2 - 1 if before is None else before)

    def at_step(self, thread_id: str, step: int, *, namespace: str = "") -> Checkpoint | None:
        """Return the latest checkpoint that has this step, None when there is none."""
        check_thread(thread_id, namespace)
        check_whole("the step", step, least=-MAX_VERSION, most=MAX_VERSION)
        return self._at(thread_id, namespace, step, None)

    def at_node(self, thread_id: str, node: str, *, namespace: str = "") -> Checkpoint | None:
        """Return the latest checkpoint that this node made, None when there is none."""
        check_thread(thread_id, namespace)
        check_id("the node", node)
        return self._at(thread_id, namespace, None, node)

    def diff(self, thread_id: str, a: int, b: int, *, namespace: str = "") -> StateDiff:
        """Return how the state of version ``a`` became that of version ``b``, by channel.

        Raises:
            NotFoundError: there is no such thread or version.
        """
        check_thread(thread_id, namespace)
        check_whole("the version", a)
        check_whole("the version", b)
        found = []
        for version in (a, b):
            loaded = self._load(thread_id, version, None, namespace, False)
            if loaded is None:
                self._not_there("diff", thread_id, namespace, version)
            found.append(loaded.state)
        old, new = found
        both = [channel for channel in old if channel in new]
        return StateDiff(
            added={channel: value for channel, value in new.items() if channel not in old},
            removed={channel: value for channel, value in old.items() if channel not in new},
            changed={
                channel: (old[channel], new[channel])
                for channel in both
                if self._serializer.dumps(old[channel]) != self._serializer.dumps(new[channel])
            },
        )

    def fork(self, thread_id: str, version: int, new_thread: str, *, namespace: str = "") -> Checkpoint:
        """Begin a thread with a checkpoint of another as its version 1, and return that.

        The state, metadata, key, node and step are the same; the pending writes stay behind. The payload is copied by
        the database. The two threads share nothing afterwards.

        Raises:
            NotFoundError: there is no such thread or version.
            DuplicateError: the new thread has had a checkpoint in that namespace.
        """
        check_fork(thread_id, new_thread, namespace)
        check_whole("the version", version)
        found, saved = self._fork(thread_id, namespace, version, new_thread)
        if not found:
            self._not_there("fork", thread_id, namespace, version)
        if not saved:
            self._there_already("fork", new_thread, namespace)
        forked = self._load(new_thread, 1, None, namespace, False)
        if forked is None:
            self._not_there("fork", new_thread, namespace, 1)
        return forked

    def copy_thread(self, thread_id: str, new_thread: str) -> int:
        """Copy a thread, with all namespaces, versions, keys and pending writes; return how many checkpoints it has.

        The payload is copied by the database. A time to live is not copied.

        Raises:
            NotFoundError: there is no such thread.
            DuplicateError: the new thread exists.
        """
        check_fork(thread_id, new_thread)
        copied = self._copy_thread(thread_id, new_thread)
        if copied is None:
            self._not_there("copy_thread", thread_id, "", None)
        if copied < 0:
            self._there_already("copy_thread", new_thread, "")
        return copied

    def rewind(self, thread_id: str, version: int, *, namespace: str = "") -> Checkpoint:
        """Save an earlier checkpoint again as the latest, and return that; everything in between stays.

        Its state, metadata, node and step are those of ``version``, which is its parent; its time is now, and it has
        no key.

        Raises:
            NotFoundError: there is no such thread or version.
        """
        check_thread(thread_id, namespace)
        check_whole("the version", version)
        try:
            made = self._rewind(thread_id, namespace, version, datetime.now(UTC))
        except ValidationError:  # its pieces lie too many versions back: they are saved again
            far = self._load(thread_id, version, None, namespace, False)
            if far is None:
                self._not_there("rewind", thread_id, namespace, version)
            again = replace(far, version=None, timestamp=None, parent_version=version, key=None)
            return self.save_checkpoint(again, durability="sync")
        if made is None:
            self._not_there("rewind", thread_id, namespace, version)
        found = self._load(thread_id, made, None, namespace, False)
        if found is None:
            self._not_there("rewind", thread_id, namespace, made)
        return found

    def _at(self, thread_id: str, namespace: str, step: int | None, node: str | None) -> Checkpoint | None:
        version = self._find(thread_id, namespace, step, node)
        return None if version is None else self._load(thread_id, version, None, namespace, False)

    def _not_there(self, operation: str, thread_id: str, namespace: str, version: int | None) -> NoReturn:
        what = f"checkpoint {version}" if version is not None else "checkpoint"
        raise NotFoundError(
            f"there is no {what} of {describe(thread_id, namespace)}",
            hint="list_checkpoints shows what there is, latest() returns None instead",
            operation=operation,
            connection=self._place,
        )

    def _there_already(self, operation: str, thread_id: str, namespace: str) -> NoReturn:
        raise DuplicateError(
            f"{describe(thread_id, namespace)} already exists",
            hint="give a new thread id, or delete that thread first",
            operation=operation,
            connection=self._place,
            code=UNIQUE_VIOLATION,
        )

    @abstractmethod
    def save_checkpoint(
        self, checkpoint: Checkpoint, *, expected_version: int | None = None, durability: Durability | None = None
    ) -> Checkpoint: ...

    @abstractmethod
    def _load(
        self, thread_id: str, version: int | None, key: str | None, namespace: str, writes: bool
    ) -> Checkpoint | None: ...

    @abstractmethod
    def _history(self, thread_id: str, namespace: str, limit: int, before: int) -> list[CheckpointInfo]: ...

    @abstractmethod
    def _find(self, thread_id: str, namespace: str, step: int | None, node: str | None) -> int | None:
        """Return the latest version of that step or node."""

    @abstractmethod
    def _fork(self, thread_id: str, namespace: str, version: int, new_thread: str) -> tuple[bool, bool]:
        """Return whether the checkpoint was there, and whether it was copied."""

    @abstractmethod
    def _copy_thread(self, thread_id: str, new_thread: str) -> int | None:
        """Return how many checkpoints were copied, None when there is no thread, -1 when the new one is there."""

    @abstractmethod
    def _rewind(self, thread_id: str, namespace: str, version: int, moment: datetime) -> int | None:
        """Return the new version, None when there is none to go back to."""


def newest_first(chain: dict[int, Any], latest: int, before: int, limit: int, parent: Any) -> list[int]:
    """Return the versions of a chain of parents below ``before``, for checkpointers that hold it in memory."""
    found: list[int] = []
    version: int | None = latest
    while version in chain and len(found) < limit:
        if version < before:
            found.append(version)
        above = version
        version = parent(chain[version])
        if version is not None and version >= above:
            break
    return found
