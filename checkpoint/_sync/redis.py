# Generated from ../_async/redis.py by tests/unasync.py: edit that one.
"""Checkpoints in Redis: one script and one round trip a call, and only what changed is sent and stored.

What lies where is told in docs/formats.md. All keys of a thread are in one slot of a cluster, and a script is alone on
the server while it runs, so there is no lock. From that follows, as on SQL databases (sql.py):

- Versions have neither holes nor doubles: the script advances the counter.
- *A save never refers to a block that is missing.* Either it sends every piece, and refers to no other version. Or it
  leaves out what is stored of the checkpoint that this process saw last, its base, and refers to that by how many
  versions ago it was saved; then the script asks for the base's stamp, a random number that is new with each save and
  delete. If it isn't the head's any more (another writer, a delete, a restored backup, a failover that lost the last
  saves), nothing changes and everything is sent.
- *A delete never removes a block that a checkpoint needs*: see redis_retention.py.
- *The latest is not sent to who has it*: a load gives the base's stamp along and gets no blocks while the head has it.
- *Half a checkpoint is never seen.* A script's changes are one transaction in the append-only file and on replicas.

**Threads** are listed from a sorted set of the tenant's, in a slot of its own. A thread is registered before it is
made, in the same round trip, by every call that may make one. A crash between the two leaves a name without a thread,
which a listing passes over; a thread without its name can't be. A name is forgotten when its thread is not there and it
was registered more than an hour ago, which no pipeline lasts: so nobody forgets what is about to be made. A call with a
base makes no thread and registers none. ``delete_expired`` also forgets names, of threads that nobody looked at.

**Expiry** is a time in the thread's heads, compared with the server's clock by each script; besides, Redis deletes all
keys of the thread together just after it (PEXPIREAT).
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime

from checkpoint._sync.checkpointer import Checkpointer
from checkpoint._sync.redis_retention import RedisRetention
from checkpoint._sync.redis_timetravel import RedisTimeTravel
from checkpoint.blocks import Added
from checkpoint.records import Checkpoint, as_saved, describe
from checkpoint.redis_format import NO_HEAD, Row, pack_record, pack_save, unpack_record
from checkpoint.states import Base, encode_state, hints_of, restore_state
from persistence.errors import ConflictError, CorruptError, DuplicateError
from persistence.validation import metadata_json

_TRIES = 10


class RedisCheckpointer(RedisRetention, RedisTimeTravel, Checkpointer):
    """A checkpointer on a Redis connection of a manager, bound to one tenant; ``DatabaseCheckpointer`` makes it.

    It needs Redis 6.2 or newer, and joins no transaction. How durable a save is, the server's ``appendfsync`` decides
    and not ``durability``: with ``always`` it has answered when the save is on disk, ``everysec`` may lose the last
    second, and without an append-only file everything since the last snapshot goes with the server. (WAITAOF is not
    used: it doesn't hasten the server's disk, and with ``everysec`` each save would take up to a second.) The server
    must not evict keys: ``maxmemory-policy noeviction``.

    With a ``cipher``, and on a cluster, a fork or copy passes through this process, and the first save of a thread in a
    process takes a request more.
    """

    def _save(
        self, checkpoint: Checkpoint, metadata: str, moment: datetime, expected: int | None, durable: bool
    ) -> Checkpoint | None:
        thread_id, namespace = checkpoint.thread_id, checkpoint.namespace
        base = self._recall(thread_id, namespace)
        encoded = encode_state(checkpoint.state, self._serializer, base, hints_of(checkpoint, base))
        stamp = secrets.randbits(62)
        for _ in range(_TRIES):
            if base is not None and expected is not None and expected != base.latest:
                base = None
            version = 0 if base is None else checkpoint.version or base.counter + 1
            written = encoded.write(base, version)
            guard: int | str | None = None if base is None else base.stamp
            stored = written
            if self._sealing.is_on:
                if base is None:
                    guard, version = self._foresee(checkpoint)
                stored = self._sealing.seal_written(written, thread_id, namespace, version, checkpoint.key)
            record = pack_record(checkpoint, metadata, moment, stored.manifest, stored.refs)
            outcome, *found = self._send(checkpoint, stamp, base, guard, expected, record, stored.added)
            if outcome == b"saved":
                made, counter = int(found[0]), int(found[2])
                self._remember(thread_id, namespace, encoded.as_base(stamp, made, counter, written, base))
                return as_saved(checkpoint, made, moment, None if found[1] == b"-" else int(found[1]))
            if outcome == b"kept":
                return None
            if outcome == b"refused":
                refusal = self._refusal(checkpoint, expected, int(found[0]), found[1] == b"1", found[2] == b"1")
                if refusal is not None:
                    raise refusal
            base = None
        raise ConflictError(
            f"{describe(thread_id, namespace)} kept changing", operation="save_checkpoint", connection=self._place
        )

    def _foresee(self, checkpoint: Checkpoint) -> tuple[int | str, int]:
        """Return what the next save has to find, so that its version is known before it is sealed, and that."""
        found = self._run("find_head", self._keys(checkpoint.thread_id), checkpoint.namespace)
        if found is None:
            return NO_HEAD, checkpoint.version or 1
        return int(found[0]), checkpoint.version or int(found[1]) + 1

    def _send(
        self,
        checkpoint: Checkpoint,
        stamp: int,
        base: Base | None,
        guard: int | str | None,
        expected: int | None,
        record: bytes,
        added: Added,
    ) -> list[bytes]:
        """Store a checkpoint and its new blocks, or learn why nothing was stored."""
        asked = pack_save(
            checkpoint.namespace,
            stamp,
            guard,
            expected,
            checkpoint.version,
            checkpoint.key,
            checkpoint.parent_version,
        )
        arguments = (asked, record, added.beside or b"", *added.extra)
        if base is not None:
            answer = self._run("save", self._keys(checkpoint.thread_id), *arguments)
        else:
            answer = self._run_registered("save", checkpoint.thread_id, *arguments)
        return [*answer.split()]

    def _load(
        self, thread_id: str, version: int | None, key: str | None, namespace: str, writes: bool
    ) -> Checkpoint | None:
        base = self._recall(thread_id, namespace) if version is None and key is None else None
        base = None if base is None or base.latest is None else base
        answer = self._run(
            "load",
            self._keys(thread_id),
            namespace,
            version or "",
            key or "",
            "" if base is None else base.stamp,
            int(writes),
        )
        if answer is None:
            return None
        row = Row(answer)
        if base is None or row.stamp != base.stamp:
            return self._loaded(thread_id, namespace, row)
        # Nobody has saved to or deleted from the thread since: its state is what is remembered.
        try:
            described = unpack_record(row.version, row.record).described()
        except CorruptError as exc:
            raise self._damaged(exc, row.version, thread_id, namespace) from exc
        pending = tuple(self._opened(row.pending, thread_id, namespace, described["key"] or ""))
        state = restore_state(base.channels, self._serializer)
        return Checkpoint(thread_id, state, namespace=namespace, writes=pending, **described)

    def _fork(self, thread_id: str, namespace: str, version: int, new_thread: str) -> tuple[bool, bool]:
        if not self._sealing.is_on and not self._is_cluster:
            return super()._fork(thread_id, namespace, version, new_thread)
        # It is sealed to its thread, or goes to another server: it is opened here, and saved anew.
        found = self._load(thread_id, version, None, namespace, False)
        if found is None or found.timestamp is None:
            return False, False
        head = self._run("find_head", self._keys(new_thread), namespace)
        if head is not None and int(head[1]):
            return True, False
        forked = replace(found, thread_id=new_thread, version=1, parent_version=None)
        try:
            saved = self._save(forked, metadata_json(found.metadata), found.timestamp, 0, True)
        except (ConflictError, DuplicateError):
            saved = None
        return True, saved is not None
