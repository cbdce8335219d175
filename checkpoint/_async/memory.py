"""Checkpoints in the memory of this process, gone with it; for tests and for trying things out.

States are kept serialized, so that nothing is shared with the caller and every backend refuses the same values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from checkpoint._async.checkpointer import AsyncCheckpointer
from checkpoint.pieces import serialize_state
from checkpoint.records import Checkpoint, CheckpointInfo, ThreadInfo
from checkpoint.serializer import Serializer
from persistence._async.compat import Mutex
from persistence.dialect import from_json


class _Kept(NamedTuple):
    """A checkpoint as it is kept."""

    channels: dict[str, bytes]
    metadata: str
    timestamp: datetime
    parent: int | None
    node: str | None
    step: int | None


@dataclass(slots=True)
class _Head:
    """A thread in one namespace: its checkpoints in the order of their versions."""

    created_at: datetime
    updated_at: datetime
    counter: int = 0
    kept: dict[int, _Kept] = field(default_factory=dict)

    @property
    def latest(self) -> int:
        return next(reversed(self.kept), 0)


class AsyncMemoryCheckpointer(AsyncCheckpointer):
    """A checkpointer that keeps everything in this process; it joins no transaction."""

    def __init__(self, *, serializer: Serializer | None = None) -> None:
        self._serializer = serializer or Serializer()
        self._mutex = Mutex()
        self._threads: dict[str, dict[str, _Head]] = {}

    async def _save(
        self, checkpoint: Checkpoint, metadata: str, moment: datetime, expected: int | None
    ) -> tuple[int, int | None]:
        channels = {name: data for name, (data, _) in serialize_state(checkpoint.state, self._serializer).items()}
        now = datetime.now(UTC)
        with self._mutex:
            heads = self._threads.get(checkpoint.thread_id, {})
            head = heads.get(checkpoint.namespace) or _Head(created_at=now, updated_at=now)
            version = checkpoint.version or head.counter + 1
            latest = head.latest
            refusal = self._refusal(checkpoint, expected, latest, version in head.kept)
            if refusal is not None:
                raise refusal
            self._threads.setdefault(checkpoint.thread_id, heads)[checkpoint.namespace] = head
            parent = checkpoint.parent_version or (latest or None if version > latest else None)
            if latest:
                before = head.kept[latest].channels
                # A channel that is as it was shares its bytes with the version before.
                channels = {
                    name: same if (same := before.get(name)) == data else data for name, data in channels.items()
                }
            head.kept[version] = _Kept(channels, metadata, moment, parent, checkpoint.node, checkpoint.step)
            if version < latest:
                head.kept = dict(sorted(head.kept.items()))
            head.counter = max(head.counter, version)
            head.updated_at = now
        return version, parent

    async def _load(self, thread_id: str, version: int | None, namespace: str) -> Checkpoint | None:
        with self._mutex:
            head = self._threads.get(thread_id, {}).get(namespace)
            if head is None:
                return None
            version = head.latest if version is None else version
            kept = head.kept.get(version)
        if kept is None:
            return None
        return Checkpoint(
            thread_id,
            {channel: self._serializer.loads(data) for channel, data in kept.channels.items()},
            metadata=from_json(kept.metadata),
            version=version,
            timestamp=kept.timestamp,
            parent_version=kept.parent,
            namespace=namespace,
            node=kept.node,
            step=kept.step,
        )

    async def _list(self, thread_id: str, limit: int, before: int, namespace: str) -> list[CheckpointInfo]:
        with self._mutex:
            head = self._threads.get(thread_id, {}).get(namespace)
            found = (
                [] if head is None else [entry for entry in reversed(head.kept.items()) if entry[0] < before][:limit]
            )
        return [
            CheckpointInfo(
                thread_id=thread_id,
                version=version,
                timestamp=kept.timestamp,
                metadata=from_json(kept.metadata),
                parent_version=kept.parent,
                namespace=namespace,
                node=kept.node,
                step=kept.step,
            )
            for version, kept in found
        ]

    async def _list_threads(self, limit: int, after: str) -> list[ThreadInfo]:
        with self._mutex:
            return [
                ThreadInfo(
                    thread_id=thread_id,
                    versions={namespace: head.latest for namespace, head in heads.items()},
                    created_at=min(head.created_at for head in heads.values()),
                    updated_at=max(head.updated_at for head in heads.values()),
                )
                for thread_id, heads in sorted(self._threads.items())
                if thread_id > after
            ][:limit]

    async def _delete(self, thread_id: str, version: int, namespace: str) -> bool:
        with self._mutex:
            head = self._threads.get(thread_id, {}).get(namespace)
            return head is not None and head.kept.pop(version, None) is not None

    async def _delete_thread(self, thread_id: str) -> int:
        with self._mutex:
            return sum(len(head.kept) for head in self._threads.pop(thread_id, {}).values())
