# Generated from ../_async/memory.py by tests/unasync.py: edit that one.
"""Checkpoints in the memory of this process, gone with it; for tests and for trying things out.

States are kept serialized, so that nothing is shared with the caller and every backend refuses the same values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from checkpoint._sync.checkpointer import Checkpointer
from checkpoint._sync.retention import PruneRule
from checkpoint._sync.timetravel import newest_first
from checkpoint._sync.writes import Item
from checkpoint.growth import INLINE_BYTES
from checkpoint.matching import contains
from checkpoint.records import (
    Checkpoint,
    CheckpointInfo,
    Durability,
    PendingWrite,
    PruneReport,
    ThreadInfo,
    as_saved,
)
from checkpoint.serializer import Serializer
from checkpoint.states import serialize_state
from checkpoint.validation import check_durability
from persistence._sync.compat import Mutex
from persistence._sync.guards import SecretsOption, check_secrets


@dataclass(frozen=True, slots=True)
class _Kept:
    """A checkpoint as it is kept."""

    channels: dict[str, bytes]
    metadata: str
    timestamp: datetime
    parent: int | None
    node: str | None
    step: int | None
    key: str | None


@dataclass(slots=True)
class _Head:
    """A thread in one namespace: its checkpoints in the order of their versions, and the writes of each key."""

    created_at: datetime
    updated_at: datetime
    counter: int = 0
    kept: dict[int, _Kept] = field(default_factory=dict)
    writes: dict[str, dict[tuple[str, int], tuple[str, Item]]] = field(default_factory=dict)

    @property
    def latest(self) -> int:
        return next(reversed(self.kept), 0)

    def version_of(self, key: str) -> int | None:
        return next((version for version, kept in self.kept.items() if kept.key == key), None)

    def forget(self, version: int) -> _Kept | None:
        gone = self.kept.pop(version, None)
        if gone is not None and gone.key is not None:
            self.writes.pop(gone.key, None)
        return gone


@dataclass(slots=True)
class _Thread:
    """A thread: its namespaces, and until when it lives."""

    heads: dict[str, _Head] = field(default_factory=dict)
    ttl: timedelta | None = None
    expires_at: datetime | None = None

    def head(self, namespace: str) -> _Head:
        now = datetime.now(UTC)
        return self.heads.setdefault(namespace, _Head(created_at=now, updated_at=now))

    def saved(self, head: _Head, version: int, kept: _Kept) -> None:
        latest = head.latest
        head.kept[version] = kept
        if version < latest:
            head.kept = dict(sorted(head.kept.items()))
        head.counter = max(head.counter, version)
        head.updated_at = datetime.now(UTC)
        if self.ttl is not None:
            self.expires_at = head.updated_at + self.ttl


class MemoryCheckpointer(Checkpointer):
    """A checkpointer that keeps everything in this process; it joins no transaction.

    ``secrets`` is the option of ``DatabaseCheckpointer``.
    """

    def __init__(
        self,
        *,
        serializer: Serializer | None = None,
        durability: Durability = "sync",
        secrets: SecretsOption = None,
    ) -> None:
        self._durability = check_durability(durability)
        self._secrets = check_secrets(secrets)
        self._serializer = serializer or Serializer()
        self._mutex = Mutex()
        self._threads: dict[str, _Thread] = {}

    def _alive(self, thread_id: str) -> _Thread | None:
        """Return a thread that is there and has not expired."""
        found = self._threads.get(thread_id)
        if found is not None and found.expires_at is not None and found.expires_at <= datetime.now(UTC):
            return None
        return found

    def _made(self, thread_id: str) -> _Thread:
        """Return a thread, a new one where there is none or an expired one."""
        found = self._alive(thread_id)
        if found is None:
            found = self._threads[thread_id] = _Thread()
        return found

    def _head(self, thread_id: str, namespace: str) -> _Head | None:
        thread = self._alive(thread_id)
        return None if thread is None else thread.heads.get(namespace)

    def _save(
        self, checkpoint: Checkpoint, metadata: str, moment: datetime, expected: int | None, durable: bool
    ) -> Checkpoint | None:
        channels = serialize_state(checkpoint.state, self._serializer)
        with self._mutex:
            thread = self._alive(checkpoint.thread_id) or _Thread()
            head = thread.heads.get(checkpoint.namespace)
            latest = 0 if head is None else head.latest
            if head is not None and checkpoint.key is not None and head.version_of(checkpoint.key) is not None:
                return None
            version = checkpoint.version or (1 if head is None else head.counter + 1)
            refusal = self._refusal(checkpoint, expected, latest, head is not None and version in head.kept)
            if refusal is not None:
                raise refusal
            self._threads[checkpoint.thread_id] = thread
            head = thread.head(checkpoint.namespace)
            parent = checkpoint.parent_version or (latest or None if version > latest else None)
            if latest:
                before = head.kept[latest].channels
                # A channel that is as it was shares its bytes with the version before.
                channels = {
                    name: same if (same := before.get(name)) == data else data for name, data in channels.items()
                }
            kept = _Kept(channels, metadata, moment, parent, checkpoint.node, checkpoint.step, checkpoint.key)
            thread.saved(head, version, kept)
        return as_saved(checkpoint, version, moment, parent)

    def _load(
        self, thread_id: str, version: int | None, key: str | None, namespace: str, writes: bool
    ) -> Checkpoint | None:
        with self._mutex:
            head = self._head(thread_id, namespace)
            if head is None:
                return None
            if key is not None:
                version = head.version_of(key)
            elif version is None:
                version = head.latest
            kept = head.kept.get(version or 0)
            if version is None or kept is None:
                return None
            pending = self._writes_of(head, kept.key) if writes else []
        return self._checkpoint(thread_id, namespace, version, kept, pending)

    def _checkpoint(
        self, thread_id: str, namespace: str, version: int, kept: _Kept, pending: list[PendingWrite]
    ) -> Checkpoint:
        state = {channel: self._serializer.read_back(data) for channel, data in kept.channels.items()}
        return Checkpoint(thread_id, state, namespace=namespace, writes=tuple(pending), **_described(version, kept))

    def _chosen(self, head: _Head | None, limit: int, before: int, wanted: str | None) -> list[tuple[int, _Kept]]:
        if head is None:
            return []
        found = [entry for entry in reversed(head.kept.items()) if entry[0] < before]
        if wanted is not None:
            filter_ = json.loads(wanted)
            found = [entry for entry in found if contains(json.loads(entry[1].metadata), filter_)]
        return found[:limit]

    def _list(
        self, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str
    ) -> list[CheckpointInfo]:
        with self._mutex:
            found = self._chosen(self._head(thread_id, namespace), limit, before, wanted)
        return [_info(thread_id, namespace, version, kept) for version, kept in found]

    def _list_states(
        self, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str, writes: bool
    ) -> list[Checkpoint]:
        with self._mutex:
            head = self._head(thread_id, namespace)
            chosen = self._chosen(head, limit, before, wanted)
            found = [
                (version, kept, self._writes_of(head, kept.key) if writes and head is not None else [])
                for version, kept in chosen
            ]
        return [self._checkpoint(thread_id, namespace, *entry) for entry in found]

    def _list_threads(self, limit: int, after: str, wanted: str | None) -> list[ThreadInfo]:
        with self._mutex:
            found = [(name, self._alive(name)) for name in sorted(self._threads) if name > after]
            return [
                ThreadInfo(
                    thread_id=name,
                    versions={namespace: head.latest for namespace, head in thread.heads.items()},
                    created_at=min(head.created_at for head in thread.heads.values()),
                    updated_at=max(head.updated_at for head in thread.heads.values()),
                )
                for name, thread in found
                if thread is not None and (wanted is None or self._is_wanted(thread, wanted))
            ][:limit]

    def _is_wanted(self, thread: _Thread, wanted: str) -> bool:
        latest = self._chosen(thread.heads.get(""), 1, 2**64, None)
        return bool(latest) and contains(json.loads(latest[0][1].metadata), json.loads(wanted))

    def _delete(self, thread_id: str, version: int, namespace: str) -> bool:
        with self._mutex:
            head = self._head(thread_id, namespace)
            return head is not None and head.forget(version) is not None

    def _delete_thread(self, thread_id: str) -> int:
        with self._mutex:
            thread = self._alive(thread_id)
            self._threads.pop(thread_id, None)
            return 0 if thread is None else sum(len(head.kept) for head in thread.heads.values())

    def _writes_of(self, head: _Head, key: str | None) -> list[PendingWrite]:
        found = [
            self._as_write(task_id, item.channel, index, path, item.data)
            for (task_id, index), (path, item) in head.writes.get(key or "", {}).items()
        ]
        return sorted(found, key=lambda write: (write.task_path, write.task_id, write.index))

    def _put_writes(
        self, thread_id: str, namespace: str, key: str, task_id: str, task_path: str, items: list[Item]
    ) -> None:
        with self._mutex:
            thread = self._made(thread_id)
            kept = thread.head(namespace).writes.setdefault(key, {})
            for item in items:
                if item.idx < 0 or (task_id, item.idx) not in kept:
                    kept[task_id, item.idx] = (task_path, item)

    def _pending_writes(self, thread_id: str, namespace: str, key: str) -> list[PendingWrite]:
        with self._mutex:
            head = self._head(thread_id, namespace)
            return [] if head is None else self._writes_of(head, key)

    def _history(self, thread_id: str, namespace: str, limit: int, before: int) -> list[CheckpointInfo]:
        with self._mutex:
            head = self._head(thread_id, namespace)
            if head is None:
                return []
            found = newest_first(head.kept, head.latest, before, limit, lambda kept: kept.parent)
            return [_info(thread_id, namespace, version, head.kept[version]) for version in found]

    def _find(self, thread_id: str, namespace: str, step: int | None, node: str | None) -> int | None:
        with self._mutex:
            for version, kept in self._chosen(self._head(thread_id, namespace), 2**62, 2**64, None):
                if (step is None or kept.step == step) and (node is None or kept.node == node):
                    return version
        return None

    def _fork(self, thread_id: str, namespace: str, version: int, new_thread: str) -> tuple[bool, bool]:
        with self._mutex:
            head = self._head(thread_id, namespace)
            if head is None or version not in head.kept:
                return False, False
            thread = self._made(new_thread)
            if thread.head(namespace).counter:
                return True, False
            thread.saved(thread.head(namespace), 1, replace(head.kept[version], parent=None))
        return True, True

    def _copy_thread(self, thread_id: str, new_thread: str) -> int | None:
        with self._mutex:
            thread = self._alive(thread_id)
            if thread is None:
                return None
            if self._alive(new_thread) is not None:
                return -1
            now = datetime.now(UTC)
            copied = {
                namespace: _Head(
                    now, now, head.counter, dict(head.kept), {key: dict(found) for key, found in head.writes.items()}
                )
                for namespace, head in thread.heads.items()
            }
            self._threads[new_thread] = _Thread(copied)
            return sum(len(head.kept) for head in copied.values())

    def _rewind(self, thread_id: str, namespace: str, version: int, moment: datetime) -> int | None:
        with self._mutex:
            thread = self._alive(thread_id)
            head = None if thread is None else thread.heads.get(namespace)
            if thread is None or head is None or version not in head.kept:
                return None
            kept = replace(head.kept[version], parent=version, timestamp=moment, key=None)
            thread.saved(head, head.counter + 1, kept)
            return head.counter

    def _prune(self, thread_id: str | None, rule: PruneRule) -> PruneReport:
        checkpoints = size = 0
        with self._mutex:
            chosen = [self._alive(name) for name in list(self._threads) if thread_id in (None, name)]
            for head in [head for thread in chosen if thread is not None for head in thread.heads.values()]:
                gone = {
                    version: kept
                    for version, kept in list(head.kept.items())[: -rule.keep_last]
                    if (rule.cutoff is None or kept.timestamp < rule.cutoff)
                    and not (rule.keep_tagged and "tag" in json.loads(kept.metadata))
                }
                left = {
                    data
                    for version, kept in head.kept.items()
                    if version not in gone
                    for data in kept.channels.values()
                }
                freed = {
                    data for kept in gone.values() for data in kept.channels.values() if len(data) > INLINE_BYTES
                } - left
                checkpoints, size = checkpoints + len(gone), size + sum(map(len, freed))
                for version in () if rule.dry_run else gone:
                    head.forget(version)
        return PruneReport(checkpoints=checkpoints, bytes=size)

    def _set_ttl(self, thread_id: str, ttl: timedelta | None, sliding: bool) -> bool:
        with self._mutex:
            thread = self._alive(thread_id)
            if thread is None:
                return False
            thread.ttl = ttl if sliding else None
            thread.expires_at = None if ttl is None else datetime.now(UTC) + ttl
        return True

    def _delete_expired(self, limit: int) -> int:
        with self._mutex:
            now = datetime.now(UTC)
            gone = [
                name for name, kept in self._threads.items() if kept.expires_at is not None and kept.expires_at <= now
            ]
            for name in gone[:limit]:
                del self._threads[name]
            return len(gone[:limit])

    def _delete_threads(self, cutoff: datetime | None, wanted: str | None, limit: int) -> int:
        with self._mutex:
            gone = [
                name
                for name in sorted(self._threads)
                if (thread := self._alive(name)) is not None
                and (cutoff is None or all(head.updated_at < cutoff for head in thread.heads.values()))
                and (wanted is None or self._is_wanted(thread, wanted))
            ][:limit]
            for name in gone:
                del self._threads[name]
        return len(gone)


def _described(version: int, kept: _Kept) -> dict[str, Any]:
    """Return what a checkpoint and its listing have in common."""
    return {
        "version": version,
        "timestamp": kept.timestamp,
        "metadata": json.loads(kept.metadata),
        "parent_version": kept.parent,
        "node": kept.node,
        "step": kept.step,
        "key": kept.key,
    }


def _info(thread_id: str, namespace: str, version: int, kept: _Kept) -> CheckpointInfo:
    return CheckpointInfo(thread_id=thread_id, namespace=namespace, **_described(version, kept))
