"""Checkpoints in PostgreSQL or SQLite: one statement and one commit a save, and only what changed is sent and stored.

Four tables. A head for each thread and namespace: the latest version, the counter of versions, a stamp, its expiry. A
row for each checkpoint: its manifest, the block of pieces that it added, and which blocks it needs (``refs``). Blocks
that don't lie beside their checkpoint: large pieces, and what deleted checkpoints left to others. And pending writes
(sql_writes.py).

Protocol. Every save and every delete begins by changing the head's row, and so holds its lock until it commits; a save
also writes a new random stamp, and so does a delete. From that follows:

- Versions have neither holes nor doubles, for the counter is advanced under the lock.
- Blocks of a thread are added and removed only by who holds the lock of its head.
- *A save never refers to a block that is missing.* Either it sends every piece, and refers to no other version. Or it
  leaves out what is stored of the checkpoint that this process saw last, its base, and refers to that by how many
  versions ago it was saved, for it knows which version it will be; then its UPDATE asks for the base's stamp, which is
  compared with the newest row after the wait for the lock. While the stamp is the same, nobody has saved to or deleted
  from the thread since: the base's pieces are there, and the next version is what it was. If it isn't (another writer,
  a delete, a restored backup, a failover that lost the last commits), the statement changes nothing and everything is
  sent. It is an UPDATE and no upsert, so that a thread deleted meanwhile isn't made anew from half of its pieces.
- *A delete never removes a block that a checkpoint needs.* It takes the lock first and looks for other users of a block
  in a later statement, whose snapshot has every save that held the lock before. Inside a repeatable read transaction,
  whose snapshot may be older, PostgreSQL refuses the lock if the head has changed since (a serialization error).
- *No version is stored twice.* A block that outlives its version keeps its place, and so that version is refused to
  who asks for it by number.
- A base may come from a transaction that is rolled back later: its stamp goes with it, and matches nothing any more.
- *The latest is not sent to who has it.* A load gives the base's stamp along and gets no pieces while the head has it;
  the state is made anew from the base's bytes. It is the same round trip.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from checkpoint._async.checkpointer import AsyncCheckpointer
from checkpoint._async.redis import AsyncRedisCheckpointer
from checkpoint._async.sql_base import Attempt, Saved, clock, described, next_saved
from checkpoint._async.sql_retention import AsyncSQLRetention
from checkpoint._async.sql_timetravel import AsyncSQLTimeTravel
from checkpoint.blocks import LAST_ORDINAL
from checkpoint.decoding import Shared, decode_state
from checkpoint.pieces import cut
from checkpoint.records import Checkpoint, PendingWrite, as_saved, describe
from checkpoint.refs import pack_refs
from checkpoint.sealing import SEALED
from checkpoint.states import Base, Encoded, Written, encode_state, head_alone, hints_of, restore_state
from persistence._async.database import AsyncDatabase
from persistence._async.executor import Row
from persistence._async.manager import check_manager
from persistence.dialect import to_micros
from persistence.errors import ConflictError, CorruptError, DuplicateError, SerializationError
from persistence.queries import load_queries

_TRIES = 10
_RELAXED = "set_config('synchronous_commit', 'off', true)"
"""Returned by a save that doesn't wait for the server's disk: the setting ends with the statement."""
_RETURNING = "\nRETURNING "


class _Outcome:
    """What a save leaves behind: what this process remembers, and what its caller gets.

    It is made while the server is at work, of what the save is about to be given, and holds if it was given that.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        moment: datetime,
        encoded: Encoded,
        written: Written,
        base: Base | None,
        stamp: int,
    ) -> None:
        self._given = checkpoint, moment, encoded, written, base, stamp
        self._saved: Saved | None = None
        self._made: tuple[Base, Checkpoint] | None = None

    def foresee(self) -> None:
        """Make it of the next version, as far as that is known."""
        checkpoint, _, _, _, base, _ = self._given
        if base is not None:
            self.of(next_saved(base, checkpoint.parent_version))

    def of(self, saved: Saved) -> tuple[Base, Checkpoint]:
        """Return it of what the save was given."""
        if self._made is None or self._saved != saved:
            checkpoint, moment, encoded, written, base, stamp = self._given
            remembered = encoded.as_base(stamp, saved.version, saved.counter, written, base)
            self._made = remembered, as_saved(checkpoint, saved.version, moment, saved.parent)
            self._saved = saved
        return self._made


class AsyncDatabaseCheckpointer(AsyncSQLTimeTravel, AsyncSQLRetention, AsyncCheckpointer):
    """A checkpointer on a PostgreSQL or SQLite connection of a manager, bound to one tenant.

    Calls inside a transaction on that connection join it. ``serializer`` holds the classes that may be in states;
    ``durability`` is how durable saves are that don't say it. With ``group_commit`` durable saves to PostgreSQL that
    come while others are on their way share a round trip and a commit: for many writers on few connections, where a
    commit takes long (a remote server, synchronous replication); on a near server it is slower.

    A ``cipher`` (``persistence.Cipher``) seals states and pending writes, channels' names included, each to its thread,
    version and key; thread ids, keys, nodes and metadata stay readable, for listings search them. Forks and copies are
    made by this process then. What was stored without a cipher is refused until ``rotate_keys`` has sealed it.

    ``secrets`` says what becomes of secrets in states and pending writes: a ``SecretVault`` keeps them, under the
    context ``checkpoints``, and references stand in their place; ``"redact"`` takes them out; ``"refuse"`` is a
    ValidationError. Texts are looked through in dicts, lists and tuples, each of them on each save.

    On a Redis connection this makes an ``AsyncRedisCheckpointer``, which counts as one of these; ``migrate`` and
    ``group_commit`` mean nothing there.
    """

    if not TYPE_CHECKING:  # there __init__ says what is taken, and this class what is made

        def __new__(cls, manager=None, name=None, *arguments, **options):
            if cls is not AsyncDatabaseCheckpointer or manager is None or name is None:
                return super().__new__(cls)
            check_manager(manager)
            if manager.get(name).kind != "redis":
                return super().__new__(cls)
            taken = {option: value for option, value in options.items() if option not in ("migrate", "group_commit")}
            return AsyncRedisCheckpointer(manager, name, *arguments, **taken)

    async def _save(
        self, checkpoint: Checkpoint, metadata: str, moment: datetime, expected: int | None, durable: bool
    ) -> Checkpoint | None:
        thread_id, namespace = checkpoint.thread_id, checkpoint.namespace
        base = self._recall(thread_id, namespace)
        parent = checkpoint.parent_version
        encoded = encode_state(checkpoint.state, self._serializer, base, hints_of(checkpoint, base))
        database = await self._database()
        stamp = secrets.randbits(62)
        values = {
            "tenant": self._tenant,
            "thread": thread_id,
            "namespace": namespace,
            "stamp": stamp,
            "parent": parent,
            "timestamp": moment.isoformat() if database.kind == "postgresql" else to_micros(moment),
            "step": checkpoint.step,
            "node": checkpoint.node,
            "metadata": metadata,
            "key": checkpoint.key,
        }
        relaxed = not durable and not database.in_transaction
        saved = None
        if base is not None and (expected is None or expected == base.latest):
            written = encoded.write(base, checkpoint.version or base.counter + 1)
            outcome = _Outcome(checkpoint, moment, encoded, written, base, stamp)
            attempt = Attempt(checkpoint.version, values, written, base, None, relaxed, outcome.foresee)
            saved = await self._write_once(database, attempt)
        if saved is None:
            written = encoded.write(None, 0)
            outcome = _Outcome(checkpoint, moment, encoded, written, None, stamp)
            attempt = Attempt(checkpoint.version, values, written, None, expected, relaxed)
            saved = await self._save_whole(database, checkpoint, attempt)
        if saved is None:
            return None
        remembered, found = outcome.of(saved)
        self._remember(thread_id, namespace, remembered)
        return found

    async def _save_whole(self, database: AsyncDatabase, checkpoint: Checkpoint, attempt: Attempt) -> Saved | None:
        """Save with every piece; where that changes nothing, say why. None: its key is there."""
        queries = load_queries("checkpoint", database.kind)
        latest, expected = 0, attempt.expected
        for _ in range(_TRIES):
            guard = None
            if self._sealing.is_on:
                guard, version = await self._foresee(database, checkpoint)
                attempt = attempt._replace(base=guard, version=version)
            if guard is None or expected in (None, guard.latest):
                saved = await self._write_once(database, attempt)
                if saved is not None:
                    return saved
            keys = self._keys(checkpoint.thread_id, checkpoint.namespace, **clock(database))
            found = await database.fetch_one(
                queries.inspect, {**keys, "version": checkpoint.version, "key": checkpoint.key}
            ) or {"latest": 0, "stamp": None, "taken": False, "held": False, "kept": False, "expired": False}
            if found["expired"]:
                await self._delete_thread(checkpoint.thread_id, expired=True)
                continue
            if found["kept"]:
                return None
            latest = found["latest"]
            refusal = self._refusal(checkpoint, expected, latest, bool(found["taken"]), bool(found["held"]))
            if refusal is not None:
                raise refusal
            if checkpoint.version is not None and found["stamp"] is not None:
                # A lower version than the counter: free as long as nobody saves or deletes.
                attempt = attempt._replace(values={**attempt.values, "base": found["stamp"]})
            await database.execute(queries.renew_head, keys)
        raise ConflictError(
            f"{describe(checkpoint.thread_id, checkpoint.namespace)} kept changing",
            expected=expected,
            actual=latest,
            operation="save_checkpoint",
            connection=self._place,
        )

    async def _foresee(self, database: AsyncDatabase, checkpoint: Checkpoint) -> tuple[Base | None, int | None]:
        """Return what the next save has to find unchanged, so that its version is known before it is sealed.

        For a thread that isn't there, that is the version itself.
        """
        keys = self._keys(checkpoint.thread_id, checkpoint.namespace)
        head = await database.fetch_one(load_queries("checkpoint", database.kind).find_head, keys)
        if head is None:
            return None, checkpoint.version or 1
        return head_alone(head["stamp"], head["counter"], head["latest"]), checkpoint.version

    async def _write_once(self, database: AsyncDatabase, attempt: Attempt) -> Saved | None:
        """Store a checkpoint and its new blocks; None: the head is not as it was expected, or its key is there."""
        values, base = attempt.values, attempt.base
        if self._sealing.is_on:
            number = attempt.version or (1 if base is None else base.counter + 1)
            sealed = self._sealing.seal_written(
                attempt.written, values["thread"], values["namespace"], number, values["key"]
            )
            attempt = attempt._replace(written=sealed)
        try:
            if database.kind == "sqlite":
                return await self._write_sqlite(database, attempt)
            return await self._write_postgresql(database, attempt)
        except DuplicateError as exc:
            if not database.in_transaction:
                return None
            raise SerializationError(
                f"another saved the same checkpoint of {describe(values['thread'], values['namespace'])} meanwhile",
                hint="run the transaction again as a whole: run_transaction() does so",
                operation="save_checkpoint",
                connection=self._place,
                code=exc.code,
            ) from exc

    async def _write_postgresql(self, database: AsyncDatabase, attempt: Attempt) -> Saved | None:
        queries = load_queries("checkpoint", "postgresql")
        version, values, written, base, expected, relaxed, meanwhile = attempt
        extra = written.added.extra
        values = {
            **values,
            "manifest": written.manifest,
            "refs": pack_refs(written.refs),
            "data": written.added.beside,
        }
        is_next = base is not None and base.latest is not None and version is None and not extra
        # In a transaction a violation would undo it all, so a key is looked for.
        if is_next and base is not None and (values["key"] is None or not database.in_transaction):
            saved = next_saved(base, values["parent"])
            values["base"] = base.stamp
            values["parent"] = saved.parent
            statement = queries.save_next + _RETURNING + _RELAXED if relaxed else queries.save_next
            if self._group is None or relaxed or database.in_transaction:
                stored = bool(await database.execute(statement, values, meanwhile=meanwhile))
            else:
                stored = await self._group.run(database, statement, values)
            return saved if stored else None
        values.update(_joined(extra), version=version, expected=expected)
        if base is None and not expected and "base" not in values:
            statement = queries.save_first
        else:
            statement = queries.save_any
            values.setdefault("base", None if base is None else base.stamp)
        row = await database.fetch_one(f"{statement}, {_RELAXED}" if relaxed else statement, values)
        return None if row is None else Saved(row["version"], row["parent_version"], row["counter"])

    async def _write_sqlite(self, database: AsyncDatabase, attempt: Attempt) -> Saved | None:
        queries = load_queries("checkpoint", "sqlite")
        version, values, written, base, expected, *_ = attempt
        keys = {name: values[name] for name in ("tenant", "thread", "namespace")}
        head = {**keys, "version": version, "stamp": values["stamp"], "key": values["key"], **clock(database)}
        extra = written.added.extra
        if base is not None and base.latest is not None and version is None and not (extra or database.in_transaction):
            saved = next_saved(base, values["parent"])
            moved = {**keys, "stamp": values["stamp"], "base": base.stamp, **clock(database)}
            stored = {**values, "parent": saved.parent, "manifest": written.manifest, "data": written.added.beside}
            stored["refs"] = str(written.refs)
            calls = [(queries.advance_next, moved), (queries.save_next, stored)]
            found = await database.fetch_batch(calls)
            return saved if found[1] else None
        async with database.transaction():
            if base is None and not expected:
                row = await database.fetch_one(queries.make_head, {**head, "expected": expected})
            else:
                stamp = None if base is None else base.stamp
                row = await database.fetch_one(queries.advance_head, {**head, "expected": expected, "base": stamp})
            if row is None:
                return None
            saved = Saved(version or row["counter"], values["parent"] or row["parent"], row["counter"])
            if extra:
                block = {**keys, "version": saved.version}
                await database.execute_many(
                    queries.save_block,
                    [{**block, "ordinal": ordinal, "data": data} for ordinal, data in enumerate(extra, 1)],
                )
            stored = {
                **values,
                "version": saved.version,
                "parent": saved.parent,
                "manifest": written.manifest,
                "refs": str(written.refs),
                "data": written.added.beside,
            }
            del stored["stamp"]
            stored.pop("base", None)
            await database.execute(queries.save_checkpoint, stored)
        return saved

    async def _load(
        self, thread_id: str, version: int | None, key: str | None, namespace: str, writes: bool
    ) -> Checkpoint | None:
        database = await self._database()
        queries = load_queries("checkpoint", database.kind)
        keys = self._keys(thread_id, namespace, **clock(database))
        base: Base | None = None
        if key is not None:
            statement, keys["key"] = queries.load_key, key
        elif version is not None:
            statement, keys["version"] = queries.load_version, version
        else:
            statement = queries.load_latest
            base = self._recall(thread_id, namespace)
            base = None if base is None or base.latest is None else base
            keys["base"] = None if base is None else base.stamp
        rows, pending = await self._load_rows(database, statement, keys, writes)
        if not rows:
            return None
        row = rows[0]
        if base is not None and base.is_of(row["stamp"], row["version"]):
            # Nobody has saved to or deleted from the thread since: its state is what is remembered.
            state = restore_state(base.channels, self._serializer)
            return Checkpoint(thread_id, state, namespace=namespace, writes=pending, **described(database, row))
        if database.kind == "postgresql":
            stored = cut(row["data"], row["sizes"])
        else:
            stored = [each["data"] for each in rows if each["place"] is not None]
        refs = self._refs_of(thread_id, namespace, row)
        return self._loaded(database, thread_id, namespace, row, refs, stored, pending)

    def _loaded(
        self,
        database: AsyncDatabase,
        thread_id: str,
        namespace: str,
        row: Row,
        refs: Sequence[int],
        stored: list[Any],
        pending: tuple[PendingWrite, ...],
        shared: Shared | None = None,
    ) -> Checkpoint:
        """Return the checkpoint of a row; ``stored`` is the block of each ref, None where it is missing."""
        try:
            manifest, stored = self._unsealed(thread_id, namespace, row, refs, stored)
            decoded = decode_state(row["version"], manifest, refs, stored, self._serializer, shared)
        except CorruptError as exc:
            raise self._damaged(exc, row["version"], thread_id, namespace) from exc
        if row["stamp"] is not None:
            base = self._recall(thread_id, namespace)
            if base is None or not base.is_of(row["stamp"], row["version"]):
                self._remember(thread_id, namespace, decoded.as_base(row["stamp"], row["counter"], row["version"]))
        return Checkpoint(thread_id, decoded.state, namespace=namespace, writes=pending, **described(database, row))

    def _unsealed(
        self, thread_id: str, namespace: str, row: Row, refs: Sequence[int], stored: list[Any]
    ) -> tuple[bytes, list[Any]]:
        """Return the manifest and the blocks of a checkpoint, opened where they are sealed."""
        sealing, version = self._sealing, row["version"]
        if not sealing.is_on and bytes(row["manifest"][:1]) != SEALED:
            return row["manifest"], stored
        manifest = bytes(sealing.open(row["manifest"], *sealing.manifest(thread_id, namespace, version, row["key"])))
        blocks = [
            data
            if data is None
            else sealing.open(data, *sealing.block(thread_id, namespace, version - (ref >> 8), ref & LAST_ORDINAL))
            for ref, data in zip(refs, stored, strict=True)
        ]
        return manifest, blocks


def _joined(blocks: list[bytes]) -> dict[str, Any]:
    """Return blocks as the byte string and the two arrays that PostgreSQL cuts them out of."""
    starts, sizes, start = [], [], 1
    for data in blocks:
        starts.append(str(start))
        sizes.append(str(len(data)))
        start += len(data)
    return {
        "extra": b"".join(blocks),
        "starts": f"{{{','.join(starts)}}}",
        "sizes": f"{{{','.join(sizes)}}}",
    }


AsyncDatabaseCheckpointer.register(AsyncRedisCheckpointer)
