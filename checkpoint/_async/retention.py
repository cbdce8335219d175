"""The contract of retention: pruning, times to live, and deleting threads that nobody uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from checkpoint.records import PruneReport, describe
from checkpoint.validation import check_cutoff, check_filter, check_ttl
from persistence.errors import NotFoundError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_id, check_limit, check_whole


class PruneRule(NamedTuple):
    """What is pruned of each namespace, as ``prune`` was told, checked."""

    keep_last: int
    cutoff: datetime | None
    keep_tagged: bool
    dry_run: bool
    batch: int


class AsyncRetention(ABC):
    """The part of a checkpointer that removes what is no longer wanted; nothing is removed unless it is asked for."""

    _place: str | None

    async def prune(
        self,
        thread_id: str | None = None,
        *,
        keep_last: int | None = None,
        older_than: timedelta | datetime | None = None,
        keep_tagged: bool = True,
        dry_run: bool = False,
        batch: int = 500,
    ) -> PruneReport:
        """Delete old checkpoints of a thread, or of every thread, with their pending writes; say what went.

        Deleted is what is not among the ``keep_last`` newest of its namespace (None: the latest is kept), and older
        than ``older_than`` (an age, or a time that its timestamp is before), and without a metadata key ``tag``
        unless ``keep_tagged`` is False. One of ``keep_last`` and ``older_than`` must be given. The latest of each
        namespace always stays, and so do the versions' numbers. ``dry_run`` deletes nothing and reports what would go.

        Each ``batch`` of checkpoints is a transaction of its own, so that writers wait for one batch at most, and
        what was pruned until a failure stays so. Nothing that a kept checkpoint needs goes: a batch first takes the
        lock that each save to that thread and namespace takes, and gives the thread a new stamp. A later statement
        deletes the checkpoints, and a third one those of their pieces that no checkpoint refers to; it sees every
        save that held the lock before, and each save that comes after it finds the stamp changed and sends all its
        pieces. Forks and copies read one snapshot, in which a checkpoint has all its pieces.
        """
        if thread_id is not None:
            check_id("the thread id", thread_id)
        if keep_last is None and older_than is None:
            raise ValidationError("prune needs keep_last or older_than", hint="delete_thread deletes a whole thread")
        keep = 1 if keep_last is None else check_whole("keep_last", keep_last)
        check_limit(batch, "batch")
        cutoff = check_cutoff(older_than)
        return await self._prune(thread_id, PruneRule(keep, cutoff, bool(keep_tagged), bool(dry_run), batch))

    async def set_ttl(self, thread_id: str, ttl: Duration | None, *, sliding: bool = True) -> None:
        """Let a thread expire ``ttl`` (seconds or a timedelta) from now, or from its last save if ``sliding``.

        An expired thread is as if it were deleted: no read shows it, and a save begins it anew. None lets it live on.

        Raises:
            NotFoundError: there is no such thread, or it has expired.
        """
        check_id("the thread id", thread_id)
        if not await self._set_ttl(thread_id, check_ttl(ttl), bool(sliding)):
            raise NotFoundError(
                f"there is no {describe(thread_id, '')}",
                hint="save a checkpoint first",
                operation="set_ttl",
                connection=self._place,
            )

    async def delete_expired(self, limit: int = 1000) -> int:
        """Delete at most ``limit`` threads that have expired, each in a transaction of its own; return how many.

        What ``durability="exit"`` holds back of them stays, and begins them anew when it is flushed.
        """
        check_limit(limit)
        return await self._delete_expired(limit)

    async def delete_threads(
        self,
        *,
        older_than: timedelta | datetime | None = None,
        filter: dict[str, Any] | None = None,
        limit: int = 1000,
    ) -> int:
        """Delete at most ``limit`` threads, each in a transaction of its own; return how many.

        Those whose last save is older than ``older_than`` (an age or a time), and whose latest checkpoint in the
        namespace ``""`` has metadata that contains ``filter``. One of the two must be given. What was saved to
        meanwhile stays, and so does what ``durability="exit"`` holds back.
        """
        check_limit(limit)
        cutoff, wanted = check_cutoff(older_than), check_filter(filter)
        if cutoff is None and wanted is None:
            raise ValidationError("delete_threads needs older_than or a filter that is not empty")
        return await self._delete_threads(cutoff, wanted, limit)

    @abstractmethod
    async def _prune(self, thread_id: str | None, rule: PruneRule) -> PruneReport: ...

    @abstractmethod
    async def _set_ttl(self, thread_id: str, ttl: timedelta | None, sliding: bool) -> bool: ...

    @abstractmethod
    async def _delete_expired(self, limit: int) -> int: ...

    @abstractmethod
    async def _delete_threads(self, cutoff: datetime | None, wanted: str | None, limit: int) -> int: ...
