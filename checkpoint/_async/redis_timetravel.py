"""Time travel in Redis. A fork or copy is one script: nothing that isn't sealed passes through the client."""

from __future__ import annotations

import secrets
from datetime import datetime

from checkpoint._async.redis_sealing import AsyncRedisSealing
from checkpoint._async.timetravel import AsyncTimeTravel
from checkpoint.records import Checkpoint, CheckpointInfo, describe
from checkpoint.redis_format import Record, pack_record, pack_save, unpack_record
from checkpoint.states import move_manifest
from persistence.errors import ConflictError, CorruptError

_TRIES = 100


class AsyncRedisTimeTravel(AsyncRedisSealing, AsyncTimeTravel):
    """The time travel of AsyncRedisCheckpointer."""

    async def _history(self, thread_id: str, namespace: str, limit: int, before: int) -> list[CheckpointInfo]:
        records: list[Record] = []
        version = b""
        while len(records) < limit:
            version, *found = await self._run(
                "history", self._keys(thread_id), namespace, version, before, limit - len(records)
            )
            records += self._records(found, thread_id, namespace)
            if not version:
                break
        return [CheckpointInfo(thread_id=thread_id, namespace=namespace, **record.described()) for record in records]

    async def _find(self, thread_id: str, namespace: str, step: int | None, node: str | None) -> int | None:
        below: bytes | int = 2**63 - 1
        while True:
            found, below = await self._run(
                "find",
                self._keys(thread_id),
                namespace,
                below,
                "" if step is None else step,
                "" if node is None else node,
            )
            if found or not below:
                return int(found) if found else None

    async def _fork(self, thread_id: str, namespace: str, version: int, new_thread: str) -> tuple[bool, bool]:
        source = self._keys(thread_id)[:2]
        stamp = secrets.randbits(62)
        found, saved = await self._run_registered("fork", new_thread, namespace, stamp, version, more=source)
        return bool(found), bool(saved)

    async def _copy_thread(self, thread_id: str, new_thread: str) -> int | None:
        if self._sealing.is_on:
            return await self._copy_sealed(thread_id, new_thread)
        source = self._keys(thread_id)
        if self._is_cluster:
            dumps = await self._run("dump_thread", source)
            if dumps is None:
                return None
            found: int = await self._run_registered("restore_thread", new_thread, secrets.randbits(62), *dumps)
            return found
        copied: int | None = await self._run_registered("copy_thread", new_thread, secrets.randbits(62), more=source)
        return copied

    async def _rewind(self, thread_id: str, namespace: str, version: int, moment: datetime) -> int | None:
        keys = self._keys(thread_id)
        self._remember(thread_id, namespace, None)
        for _ in range(_TRIES):
            found = await self._run("peek", keys, namespace, version)
            if found is None:
                return None
            stamp, counter, data = found
            made = int(counter) + 1
            try:
                record = unpack_record(version, data)
                opened, _ = self._unsealed(thread_id, namespace, record, [None] * len(record.refs))
                manifest, refs = move_manifest(opened, record.refs, made - version)
                sealing = self._sealing
                manifest = sealing.seal(manifest, *sealing.manifest(thread_id, namespace, made, None))
            except CorruptError as exc:
                raise self._damaged(exc, version, thread_id, namespace) from exc
            described = record.described()
            again = Checkpoint(
                thread_id, {}, metadata=described["metadata"], node=record.node, step=record.step, namespace=namespace
            )
            packed = pack_record(again, record.metadata, moment, manifest, refs)
            # The base: while the stamp is the same, the blocks are there and the next version is what it was.
            asked = pack_save(namespace, secrets.randbits(62), int(stamp), None, None, None, version)
            if (await self._run("save", keys, asked, packed)).startswith(b"saved"):
                return made
        raise ConflictError(
            f"{describe(thread_id, namespace)} kept changing", operation="rewind", connection=self._place
        )
