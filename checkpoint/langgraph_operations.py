"""What each operation of a LangGraph saver asks of a checkpointer, once for both sides.

An operation is a generator: it yields a ``Call``, is resumed with the call's result or its error, and returns its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from checkpoint.langgraph_format import (
    Seen,
    checkpoint_id_of,
    config_of,
    just_before,
    numbered,
    parent_of,
    thread_of,
    to_record,
    to_tuple,
)
from checkpoint.records import Checkpoint, CheckpointInfo, ThreadInfo
from persistence.errors import NotFoundError, ValidationError

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import Checkpoint as GraphCheckpoint
    from langgraph.checkpoint.base import CheckpointMetadata, CheckpointTuple, DeltaChannelHistory

PAGE = 32
"""How many checkpoints with their states a listing reads at once."""
KNOWN_VERSIONS = 4096
KNOWN_THREADS = 1024
_COUNTERS = "counters_since_delta_snapshot"

K = TypeVar("K")
R = TypeVar("R")
V = TypeVar("V")


class Call(NamedTuple):
    """What an operation wants a checkpointer to do."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


Steps = Generator[Call, Any, R]
Pages = Generator["Call | list[CheckpointTuple]", Any, None]
"""An operation that also yields pages of what it was asked for."""


def call(method: str, *arguments: Any, **options: Any) -> Call:
    """Return the call of a checkpointer's method."""
    return Call(method, arguments, options)


class Operations:
    """The operations, and the versions of the checkpoints seen, so that a parent or a cursor needn't be looked up."""

    def __init__(self, append_only: Collection[str] = ()) -> None:
        self._append_only = append_only
        self._versions: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str], tuple[int | None, Seen | None]] = OrderedDict()
        self._mutex = Lock()

    def get(self, config: RunnableConfig) -> Steps[CheckpointTuple | None]:
        thread_id, namespace, checkpoint_id = thread_of(config)
        found = yield from self._load(thread_id, namespace, checkpoint_id)
        return None if found is None else to_tuple(found)

    def _load(self, thread_id: str, namespace: str, checkpoint_id: str | None) -> Steps[Checkpoint | None]:
        try:
            found: Checkpoint = yield call(
                "load_checkpoint", thread_id, key=checkpoint_id, namespace=namespace, writes=True
            )
        except NotFoundError:
            return None
        self._note(found)
        return found

    def put(
        self, config: RunnableConfig, checkpoint: GraphCheckpoint, metadata: CheckpointMetadata
    ) -> Steps[RunnableConfig]:
        place = thread_of(config)
        thread_id, namespace, parent_id = place
        with self._mutex:
            parent = None if parent_id is None else self._versions.get((thread_id, namespace, parent_id))
            version, before = self._seen.get((thread_id, namespace), (None, None))
        if parent is None and parent_id is not None:
            parent = yield from self._version(thread_id, namespace, parent_id)
        if parent is None or version != parent:
            before = None
        record, seen = to_record(place, config, checkpoint, metadata, parent, before, self._append_only)
        saved: Checkpoint = yield call("save_checkpoint", record)
        self._note(saved, seen=seen)
        return config_of(thread_id, namespace, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Steps[None]:
        thread_id, namespace, checkpoint_id = thread_of(config)
        if checkpoint_id is None:
            raise ValidationError("the config of writes names no checkpoint", hint='"checkpoint_id" names it')
        kept, indices = numbered(list(writes))
        if kept:
            yield call(
                "put_writes",
                thread_id,
                checkpoint_id,
                task_id,
                kept,
                namespace=namespace,
                task_path=task_path,
                indices=indices,
            )

    def delete_thread(self, thread_id: str) -> Steps[None]:
        yield call("delete_thread", str(thread_id))

    def copy_thread(self, source: str, target: str) -> Steps[None]:
        yield call("copy_thread", str(source), str(target))

    def pages(
        self,
        config: RunnableConfig | None,
        filter: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Pages:
        named = {} if config is None else config.get("configurable", {})
        listing = Listing(filter or None, checkpoint_id_of(before), limit)
        if config is None or named.get("thread_id") is None:
            yield from self._pages_of_all(listing)
            return
        thread_id, namespace, checkpoint_id = thread_of(config)
        namespaces = [namespace]
        if named.get("checkpoint_ns") is None:
            thread = yield from self._thread(thread_id)
            namespaces = [] if thread is None else sorted(thread.versions)
        for each in namespaces:
            if checkpoint_id is None:
                yield from self._pages_of(thread_id, each, listing)
                continue
            found = yield from self._load(thread_id, each, checkpoint_id)
            if found is not None and (yield from self._passes(found, listing.filter)):
                yield listing.take([to_tuple(found)], checked=False)

    def _passes(self, found: Checkpoint, filter: dict[str, Any] | None) -> Steps[bool]:
        """Tell whether a checkpoint passes a filter, as the checkpointer has it."""
        if filter is None or found.version is None:
            return True
        page: list[CheckpointInfo] = yield call(
            "list_checkpoints",
            found.thread_id,
            namespace=found.namespace,
            limit=1,
            before=found.version + 1,
            filter=filter,
        )
        return [info.version for info in page] == [found.version]

    def _pages_of_all(self, listing: Listing) -> Pages:
        after: str | None = None
        while listing.goes_on:
            threads: list[ThreadInfo] = yield call("list_threads", limit=PAGE, after=after)
            for thread in threads:
                for namespace in sorted(thread.versions):
                    yield from self._pages_of(thread.thread_id, namespace, listing)
            if len(threads) < PAGE:
                return
            after = threads[-1].thread_id

    def _pages_of(self, thread_id: str, namespace: str, listing: Listing) -> Pages:
        cursor = yield from self._version(thread_id, namespace, listing.before)
        # An id that isn't here has no version, but LangGraph's ids are in the order of their times.
        checked = cursor is not None or listing.before is None
        while listing.goes_on:
            size = listing.size if checked else PAGE  # of what isn't checked, any number may be too late
            page: list[Checkpoint] = yield call(
                "list_checkpoints",
                thread_id,
                namespace=namespace,
                limit=size,
                before=cursor,
                filter=listing.filter,
                states=True,
                writes=True,
            )
            self._note(*page)
            yield listing.take([to_tuple(record) for record in page], checked=checked)
            if len(page) < size:
                return
            cursor = page[-1].version

    def _thread(self, thread_id: str) -> Steps[ThreadInfo | None]:
        """Return what a listing of threads says of one; it comes first after the id just before its own."""
        after = just_before(thread_id)
        while True:
            found: list[ThreadInfo] = yield call("list_threads", limit=1, after=after)
            if not found or found[0].thread_id > thread_id:
                return None
            if found[0].thread_id == thread_id:
                return found[0]
            after = found[0].thread_id

    def delete_for_runs(self, run_ids: Sequence[str]) -> Steps[None]:
        after: str | None = None
        while run_ids:
            threads: list[ThreadInfo] = yield call("list_threads", limit=PAGE, after=after)
            for thread in threads:
                for namespace in thread.versions:
                    for run_id in run_ids:
                        yield from self._delete_all(thread.thread_id, namespace, filter={"run_id": str(run_id)})
            if len(threads) < PAGE:
                return
            after = threads[-1].thread_id

    def _delete_all(
        self,
        thread_id: str,
        namespace: str,
        *,
        before: int | None = None,
        filter: dict[str, Any] | None = None,
        kept: Collection[int] = (),
    ) -> Steps[None]:
        """Delete the checkpoints of one namespace but those kept."""
        while True:
            page: list[CheckpointInfo] = yield call(
                "list_checkpoints", thread_id, namespace=namespace, limit=1000, before=before, filter=filter
            )
            for info in page:
                if info.version not in kept:
                    yield call("delete_checkpoint", thread_id, info.version, namespace=namespace)
            if len(page) < 1000:
                return
            before = page[-1].version

    def prune(self, thread_ids: Sequence[str], strategy: str) -> Steps[None]:
        if strategy not in ("keep_latest", "delete"):
            raise ValidationError(f"{strategy!r} is no strategy", hint="keep_latest, or delete")
        for thread_id in map(str, thread_ids):
            if strategy == "delete":
                yield call("delete_thread", thread_id)
                continue
            thread = yield from self._thread(thread_id)
            if thread is None:
                continue
            needed = {}
            for namespace, latest in thread.versions.items():
                if latest:
                    needed[namespace] = yield from self._needed(thread_id, namespace)
            if all(len(kept) == 1 for kept in needed.values()):
                yield call("prune", thread_id, keep_last=1, keep_tagged=False)
                continue
            for namespace, kept in needed.items():
                yield from self._delete_all(thread_id, namespace, before=max(kept), kept=kept)

    def _needed(self, thread_id: str, namespace: str) -> Steps[set[int]]:
        """Return the versions that the latest of a namespace needs: its own, and those that its delta channels do."""
        heads: list[CheckpointInfo] = yield call("list_checkpoints", thread_id, namespace=namespace, limit=1)
        if not heads:
            return {1}
        head = heads[0]
        channels = [*head.metadata.get(_COUNTERS, ())]
        if not channels or head.key is None:
            return {head.version}
        _, walked = yield from self.delta_history(config_of(thread_id, namespace, head.key), channels)
        return {head.version, *walked}

    def delta_history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Steps[tuple[dict[str, DeltaChannelHistory], list[int]]]:
        """Return the history of channels, and the versions that it was found in.

        Walks from parent to parent, through pages of the listing, in which a parent is near; what isn't found there
        is asked for by its id.
        """
        history: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
        walked: list[int] = []
        if not channels:
            return history, walked
        thread_id, namespace, checkpoint_id = thread_of(config)
        target = yield from self._load(thread_id, namespace, checkpoint_id)
        remaining = set(channels)
        page: list[Checkpoint] = [] if target is None else [target]
        size, wanted = 4, None if target is None else target.key
        while wanted is not None and remaining:
            record = next((each for each in page if each.key == wanted), None)
            if record is None and page:
                size = min(size * 2, PAGE)
                page = yield call(
                    "list_checkpoints",
                    thread_id,
                    namespace=namespace,
                    limit=size,
                    before=page[-1].version,
                    states=True,
                    writes=True,
                )
                continue
            if record is None:
                record = yield from self._load(thread_id, namespace, wanted)
                if record is None:
                    break
                page = [record]
            found = to_tuple(record)
            if record is not target:
                walked.append(record.version or 0)
                _gather(found, history, remaining)
            wanted = parent_of(found)
        for entry in history.values():
            entry["writes"].reverse()
        return history, walked

    def _note(self, *records: Checkpoint, seen: Seen | None = None) -> None:
        """Remember the versions of checkpoints, and what the next one may have in common with the last of them."""
        with self._mutex:
            for record in records:
                if record.key is not None and record.version is not None:
                    place = (record.thread_id, record.namespace)
                    _put(self._versions, (*place, record.key), record.version, KNOWN_VERSIONS)
                    if seen is not None:
                        _put(self._seen, place, (record.version, seen), KNOWN_THREADS)

    def _version(self, thread_id: str, namespace: str, checkpoint_id: str | None) -> Steps[int | None]:
        if checkpoint_id is None:
            return None
        with self._mutex:
            version = self._versions.get((thread_id, namespace, checkpoint_id))
        if version is None:
            found = yield from self._load(thread_id, namespace, checkpoint_id)
            version = None if found is None else found.version
        return version


@dataclass
class Listing:
    """What a list was asked for, and how much of it is left."""

    filter: dict[str, Any] | None
    before: str | None
    left: int | None

    @property
    def goes_on(self) -> bool:
        return self.left is None or self.left > 0

    @property
    def size(self) -> int:
        return PAGE if self.left is None else min(self.left, PAGE)

    def take(self, found: list[CheckpointTuple], *, checked: bool) -> list[CheckpointTuple]:
        """Return those of a page that are before the cursor, if that wasn't checked, within what is left."""
        if not checked:
            before = self.before
            found = [each for each in found if before is None or each.checkpoint["id"] < before]
        if self.left is not None:
            found = found[: self.left]
            self.left -= len(found)
        return found


def _put(known: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Remember a value as the newest of at most so many."""
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)


def _gather(found: CheckpointTuple, history: dict[str, DeltaChannelHistory], remaining: set[str]) -> None:
    """Add to the history, newest first, what one ancestor has; a channel with a stored value goes no further."""
    for write in reversed(found.pending_writes or ()):
        if write[1] in remaining:
            history[write[1]]["writes"].append(write)
    values = found.checkpoint["channel_values"]
    for channel in remaining & values.keys():
        history[channel]["seed"] = values[channel]
        remaining.discard(channel)
