# Generated from ../_async/sql.py by tests/unasync.py: edit that one.
"""Checkpoints in PostgreSQL or SQLite: one statement and one commit a save, and only what changed is sent and stored.

Four tables. A head for each thread and namespace: the latest version, the counter of versions, a stamp, its expiry. A
row for each checkpoint: its manifest, and the hashes of its pieces (``refs``). The pieces, by thread, namespace and
hash. And pending writes (sql_writes.py).

Protocol. Every save and every delete begins by changing the head's row, and so holds its lock until it commits; a save
also writes a new random stamp, and so does a delete. From that follows:

- Versions have neither holes nor doubles, for the counter is advanced under the lock.
- Pieces of a thread are added and removed only by who holds the lock of its head.
- *A save never refers to a piece that is missing.* Either it sends every piece (``ON CONFLICT DO NOTHING`` looks at
  what is committed now, and everybody who could be about to remove a piece waits for the lock). Or it leaves out what
  the checkpoint that this process saw last, its base, has stored; then its UPDATE asks for the base's stamp, which is
  compared with the newest row after the wait for the lock. While the stamp is the same, nobody has saved to or
  deleted from the thread since, and the base's pieces are there. If it isn't (another writer, a delete, a restored
  backup, a failover that lost the last commits), the statement changes nothing and everything is sent. It is an UPDATE
  and no upsert, so that a thread deleted meanwhile isn't made anew from half of its pieces.
- *A delete never removes a piece that a checkpoint needs.* It takes the lock first and looks for other users of a piece
  in a later statement, whose snapshot has every save that held the lock before. Inside a repeatable read transaction,
  whose snapshot may be older, PostgreSQL refuses the lock if the head has changed since (a serialization error).
- A base may come from a transaction that is rolled back later: its stamp goes with it, and matches nothing any more.
- *The latest is not sent to who has it.* A load gives the base's stamp along and gets no pieces while the head has it;
  the state is made anew from the base's bytes. It is the same round trip.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from checkpoint._sync.checkpointer import Checkpointer
from checkpoint._sync.sql_base import clock, described
from checkpoint._sync.sql_retention import SQLRetention
from checkpoint._sync.sql_timetravel import SQLTimeTravel
from checkpoint.growth import Part
from checkpoint.pieces import cut, pack_piece, split_refs
from checkpoint.records import Checkpoint, PendingWrite, describe
from checkpoint.states import Base, Encoded, decode_state, encode_state, restore_state
from persistence._sync.database import Database
from persistence._sync.executor import Row
from persistence.errors import ConflictError, CorruptError, DuplicateError, SerializationError
from persistence.queries import load_queries

_TRIES = 10
_RELAXED = ", set_config('synchronous_commit', 'off', true)"
"""Ends the RETURNING of a save that doesn't wait for the server's disk: the setting ends with the statement."""


class DatabaseCheckpointer(SQLTimeTravel, SQLRetention, Checkpointer):
    """A checkpointer on a PostgreSQL or SQLite connection of a manager, bound to one tenant.

    Calls inside a transaction on that connection join it. ``serializer`` holds the classes that may be in states;
    ``durability`` is how durable saves are that don't say it.
    """

    def _save(
        self, checkpoint: Checkpoint, metadata: str, moment: datetime, expected: int | None, durable: bool
    ) -> tuple[int, int | None] | None:
        thread_id, namespace = checkpoint.thread_id, checkpoint.namespace
        base = self._recall(thread_id, namespace)
        encoded = encode_state(checkpoint.state, self._serializer, base)
        database = self._database()
        stamp = secrets.randbits(62)
        values = self._keys(
            thread_id,
            namespace,
            version=checkpoint.version,
            stamp=stamp,
            now=database.dialect.time(datetime.now(UTC)),
            parent=checkpoint.parent_version,
            timestamp=database.dialect.time(moment),
            step=checkpoint.step,
            node=checkpoint.node,
            metadata=metadata,
            manifest=encoded.manifest,
            refs=encoded.refs,
            key=checkpoint.key,
        )
        relaxed = "" if durable or database.in_transaction else _RELAXED
        row = None
        if base is not None and (expected is None or expected == base.latest):
            row = self._write_once(database, values, encoded, base, None, relaxed)
        if row is None:
            row = self._save_whole(database, checkpoint, values, encoded, expected, relaxed)
        if row is None:
            return None
        version: int = row["version"]
        latest = version if checkpoint.version is None else None
        self._remember(thread_id, namespace, encoded.as_base(stamp, latest))
        return version, row["parent_version"]

    def _save_whole(
        self,
        database: Database,
        checkpoint: Checkpoint,
        values: dict[str, Any],
        encoded: Encoded,
        expected: int | None,
        relaxed: str,
    ) -> Row | None:
        """Save with every piece; where that changes nothing, say why. None: its key is there."""
        queries = load_queries("checkpoint", database.kind)
        latest = 0
        for _ in range(_TRIES):
            row = self._write_once(database, values, encoded, None, expected, relaxed)
            if row is not None:
                return row
            keys = self._keys(checkpoint.thread_id, checkpoint.namespace, **clock(database))
            found = database.fetch_one(
                queries.inspect, {**keys, "version": checkpoint.version, "key": checkpoint.key}
            ) or {"latest": 0, "taken": False, "kept": False, "expired": False}
            if found["expired"]:
                self._delete_thread(checkpoint.thread_id, expired=True)
                continue
            if found["kept"]:
                return None
            latest = found["latest"]
            refusal = self._refusal(checkpoint, expected, latest, bool(found["taken"]))
            if refusal is not None:
                raise refusal
            database.execute(queries.renew_head, keys)
        raise ConflictError(
            f"{describe(checkpoint.thread_id, checkpoint.namespace)} kept changing",
            expected=expected,
            actual=latest,
            operation="save_checkpoint",
            connection=self._place,
        )

    def _write_once(
        self,
        database: Database,
        values: dict[str, Any],
        encoded: Encoded,
        base: Base | None,
        expected: int | None,
        relaxed: str,
    ) -> Row | None:
        """Store a checkpoint; None also when its key or version was saved by another at this moment."""
        try:
            return self._write(database, values, encoded, base, expected, relaxed)
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

    def _write(
        self,
        database: Database,
        values: dict[str, Any],
        encoded: Encoded,
        base: Base | None,
        expected: int | None,
        relaxed: str,
    ) -> Row | None:
        """Store a checkpoint and the pieces that ``base`` lacks; None: the head is not as it was expected."""
        missing = encoded.missing(base)
        if database.kind == "sqlite":
            return self._write_sqlite(database, values, encoded, missing, base, expected)
        queries = load_queries("checkpoint", "postgresql")
        if base is not None and len(missing) < 2 and values["version"] is None:
            lean = {**values, "base": base.stamp}
            del lean["version"]
            if not missing:
                return database.fetch_one(queries.save_none + relaxed, lean)
            lean["hash"], lean["data"] = missing[0], pack_piece(encoded.pieces[missing[0]])
            return database.fetch_one(queries.save_one + relaxed, lean)
        values = {**values, "expected": expected, **_packed([(key, encoded.pieces[key]) for key in missing])}
        if base is None and not expected:
            return database.fetch_one(queries.save_first + relaxed, values)
        values["base"] = None if base is None else base.stamp
        return database.fetch_one(queries.save_many + relaxed, values)

    def _write_sqlite(
        self,
        database: Database,
        values: dict[str, Any],
        encoded: Encoded,
        missing: list[bytes],
        base: Base | None,
        expected: int | None,
    ) -> Row | None:
        queries = load_queries("checkpoint", "sqlite")
        keys = {name: values[name] for name in ("tenant", "thread", "namespace")}
        head = {name: values[name] for name in ("tenant", "thread", "namespace", "version", "stamp", "now", "key")}
        with database.transaction():
            if base is None and not expected:
                row = database.fetch_one(queries.make_head, {**head, "expected": expected})
            else:
                stamp = None if base is None else base.stamp
                row = database.fetch_one(queries.advance_head, {**head, "expected": expected, "base": stamp})
            if row is None:
                return None
            pieces = [{**keys, "hash": key, "data": pack_piece(encoded.pieces[key])} for key in missing]
            if len(pieces) == 1:
                database.execute(queries.save_piece, pieces[0])  # the commonest, without a savepoint around it
            elif pieces:
                database.execute_many(queries.save_piece, pieces)
            saved = {
                "version": values["version"] or row["counter"],
                "parent": values["parent"] or row["parent"],
            }
            rest = ("timestamp", "step", "node", "metadata", "manifest", "refs", "key")
            database.execute(queries.save_checkpoint, {**keys, **saved, **{name: values[name] for name in rest}})
        return {"version": saved["version"], "parent_version": saved["parent"]}

    def _load(
        self, thread_id: str, version: int | None, key: str | None, namespace: str, writes: bool
    ) -> Checkpoint | None:
        database = self._database()
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
        rows, pending = self._load_rows(database, statement, keys, writes)
        if not rows:
            return None
        row = rows[0]
        if base is not None and row["stamp"] == base.stamp and row["version"] == base.latest:
            # Nobody has saved to or deleted from the thread since: its state is what is remembered.
            state = restore_state(base.channels, self._serializer)
            return Checkpoint(thread_id, state, namespace=namespace, writes=pending, **described(database, row))
        return self._loaded(database, thread_id, namespace, rows, pending)

    def _loaded(
        self,
        database: Database,
        thread_id: str,
        namespace: str,
        rows: list[Row],
        pending: tuple[PendingWrite, ...],
        opened: dict[bytes, Part] | None = None,
    ) -> Checkpoint:
        """Return the checkpoint that one row of PostgreSQL holds, or a row for each piece of SQLite."""
        row = rows[0]
        pieces: list[Any] = (
            cut(row["data"], row["sizes"])
            if database.kind == "postgresql"
            else [each["data"] for each in rows if each["place"] is not None]
        )
        try:
            state, channels = decode_state(row["manifest"], row["refs"], pieces, self._serializer, opened)
        except CorruptError as exc:
            raise CorruptError(
                f"checkpoint {row['version']} of {describe(thread_id, namespace)}: {exc.message}",
                hint=exc.hint or "load an earlier version, or restore a backup",
                operation="load_checkpoint",
                connection=self._place,
            ) from exc
        if row["stamp"] is not None:
            hashes = frozenset(split_refs(row["refs"]))
            self._remember(thread_id, namespace, Base(row["stamp"], row["version"], channels, hashes))
        return Checkpoint(thread_id, state, namespace=namespace, writes=pending, **described(database, row))


def _packed(pieces: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Return pieces as the two byte strings and two arrays that PostgreSQL cuts them out of."""
    packed = [pack_piece(content) for _, content in pieces]
    starts, sizes, start = [], [], 1
    for data in packed:
        starts.append(start)
        sizes.append(len(data))
        start += len(data)
    return {
        "hashes": b"".join(key for key, _ in pieces),
        "data": b"".join(packed),
        "starts": "{" + ",".join(map(str, starts)) + "}",
        "sizes": "{" + ",".join(map(str, sizes)) + "}",
    }
