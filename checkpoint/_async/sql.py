"""Checkpoints in PostgreSQL or SQLite: one statement and one commit a save, and only what changed is sent and stored.

Three tables. A head for each thread and namespace: the latest version, the counter of versions, a stamp. A row for
each checkpoint: its manifest, and the hashes of its pieces (``refs``). The pieces, by thread, namespace and hash.

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
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any, ClassVar

from checkpoint._async.checkpointer import AsyncCheckpointer
from checkpoint.pieces import PLAIN, Base, Bases, Encoded, cut, decode_state, encode_state, serialize_state, split_refs
from checkpoint.records import Checkpoint, CheckpointInfo, ThreadInfo, describe
from checkpoint.serializer import Serializer
from persistence._async.compat import Mutex
from persistence._async.database import AsyncDatabase
from persistence._async.executor import Row
from persistence._async.manager import AsyncDatabaseManager
from persistence._async.store import AsyncSQLStore
from persistence.dialect import from_json
from persistence.errors import ConflictError, CorruptError
from persistence.migrations import MigrationLine
from persistence.queries import load_queries

BASE_THREADS = 1024
BASE_BYTES = 32 * 1024 * 1024
"""How much of the last checkpoints seen a checkpointer remembers, in order to send only what changed."""
_TRIES = 10


class AsyncDatabaseCheckpointer(AsyncSQLStore, AsyncCheckpointer):
    """A checkpointer on a PostgreSQL or SQLite connection of a manager, bound to one tenant.

    Calls inside a transaction on that connection join it. ``serializer`` holds the classes that may be in states.
    """

    line: ClassVar[MigrationLine] = MigrationLine.of_package("checkpoint")

    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        *,
        tenant: str = "default",
        serializer: Serializer | None = None,
        migrate: bool = True,
    ) -> None:
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self._place = name
        self._serializer = serializer or Serializer()
        self._mutex = Mutex()
        self._bases = Bases(BASE_THREADS, BASE_BYTES)

    def _keys(self, thread_id: str, namespace: str, **more: Any) -> dict[str, Any]:
        return {"tenant": self._tenant, "thread": thread_id, "namespace": namespace, **more}

    def _recall(self, thread_id: str, namespace: str) -> Base | None:
        with self._mutex:
            return self._bases.get((thread_id, namespace))

    def _remember(self, thread_id: str, namespace: str, base: Base | None) -> None:
        with self._mutex:
            if base is None:
                self._bases.drop((thread_id, namespace))
            else:
                self._bases.put((thread_id, namespace), base)

    async def _save(
        self, checkpoint: Checkpoint, metadata: str, moment: datetime, expected: int | None
    ) -> tuple[int, int | None]:
        thread_id, namespace = checkpoint.thread_id, checkpoint.namespace
        base = self._recall(thread_id, namespace)
        encoded = encode_state(serialize_state(checkpoint.state, self._serializer, base), base)
        database = await self._database()
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
        )
        row = None
        if base is not None and (expected is None or expected == base.latest):
            row = await self._write(database, values, encoded, base, None)
        if row is None:
            row = await self._save_whole(database, checkpoint, values, encoded, expected)
        version: int = row["version"]
        latest = version if checkpoint.version is None else None
        self._remember(thread_id, namespace, encoded.as_base(stamp, latest))
        return version, row["parent_version"]

    async def _save_whole(
        self,
        database: AsyncDatabase,
        checkpoint: Checkpoint,
        values: dict[str, Any],
        encoded: Encoded,
        expected: int | None,
    ) -> Row:
        """Save with every piece; where that changes nothing, say why."""
        queries = load_queries("checkpoint", database.kind)
        latest = 0
        for _ in range(_TRIES):
            row = await self._write(database, values, encoded, None, expected)
            if row is not None:
                return row
            keys = self._keys(checkpoint.thread_id, checkpoint.namespace, version=checkpoint.version)
            found = await database.fetch_one(queries.inspect, keys) or {"latest": 0, "taken": False}
            latest = found["latest"]
            refusal = self._refusal(checkpoint, expected, latest, bool(found["taken"]))
            if refusal is not None:
                raise refusal
        raise ConflictError(
            f"{describe(checkpoint.thread_id, checkpoint.namespace)} kept changing",
            expected=expected,
            actual=latest,
            operation="save_checkpoint",
            connection=self._place,
        )

    async def _write(
        self, database: AsyncDatabase, values: dict[str, Any], encoded: Encoded, base: Base | None, expected: int | None
    ) -> Row | None:
        """Store a checkpoint and the pieces that ``base`` lacks; None: the head is not as it was expected."""
        missing = encoded.missing(base)
        if database.kind == "sqlite":
            return await self._write_sqlite(database, values, encoded, missing, base, expected)
        queries = load_queries("checkpoint", "postgresql")
        if base is not None and len(missing) < 2 and values["version"] is None:
            lean = {**values, "base": base.stamp}
            del lean["version"]
            if not missing:
                return await database.fetch_one(queries.save_none, lean)
            lean["hash"], lean["data"] = missing[0], PLAIN + encoded.pieces[missing[0]]
            return await database.fetch_one(queries.save_one, lean)
        values = {**values, "expected": expected, **_packed([(key, encoded.pieces[key]) for key in missing])}
        if base is None and not expected:
            return await database.fetch_one(queries.save_first, values)
        return await database.fetch_one(queries.save_many, {**values, "base": None if base is None else base.stamp})

    async def _write_sqlite(
        self,
        database: AsyncDatabase,
        values: dict[str, Any],
        encoded: Encoded,
        missing: list[bytes],
        base: Base | None,
        expected: int | None,
    ) -> Row | None:
        queries = load_queries("checkpoint", "sqlite")
        keys = {name: values[name] for name in ("tenant", "thread", "namespace")}
        head = {**keys, "version": values["version"], "stamp": values["stamp"], "now": values["now"]}
        async with database.transaction():
            if base is None and not expected:
                row = await database.fetch_one(queries.make_head, {**head, "expected": expected})
            else:
                stamp = None if base is None else base.stamp
                row = await database.fetch_one(queries.advance_head, {**head, "expected": expected, "base": stamp})
            if row is None:
                return None
            if missing:
                await database.execute_many(
                    queries.save_piece,
                    [{**keys, "hash": key, "data": PLAIN + encoded.pieces[key]} for key in missing],
                )
            saved = {
                "version": values["version"] or row["counter"],
                "parent": values["parent"] or row["parent"],
            }
            rest = ("timestamp", "step", "node", "metadata", "manifest", "refs")
            await database.execute(queries.save_checkpoint, {**keys, **saved, **{name: values[name] for name in rest}})
        return {"version": saved["version"], "parent_version": saved["parent"]}

    async def _load(self, thread_id: str, version: int | None, namespace: str) -> Checkpoint | None:
        database = await self._database()
        queries = load_queries("checkpoint", database.kind)
        if version is None:
            rows = await database.fetch_all(queries.load_latest, self._keys(thread_id, namespace), binary=True)
        else:
            rows = await database.fetch_all(
                queries.load_version, self._keys(thread_id, namespace, version=version), binary=True
            )
        if not rows:
            return None
        row = rows[0]
        pieces: list[Any] = (
            cut(row["data"], row["sizes"])
            if database.kind == "postgresql"
            else [each["data"] for each in rows if each["place"] is not None]
        )
        try:
            state, channels = decode_state(row["manifest"], row["refs"], pieces, self._serializer)
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
        return Checkpoint(thread_id, state, namespace=namespace, **_described(database, row))

    async def _list(self, thread_id: str, limit: int, before: int, namespace: str) -> list[CheckpointInfo]:
        database = await self._database()
        rows = await database.fetch_all(
            load_queries("checkpoint", database.kind).list_checkpoints,
            self._keys(thread_id, namespace, limit=limit, before=before),
        )
        return [CheckpointInfo(thread_id=thread_id, namespace=namespace, **_described(database, row)) for row in rows]

    async def _list_threads(self, limit: int, after: str) -> list[ThreadInfo]:
        database = await self._database()
        rows = await database.fetch_all(
            load_queries("checkpoint", database.kind).list_threads,
            {"tenant": self._tenant, "limit": limit, "after": after},
        )
        moment: Any = database.dialect.moment
        return [
            ThreadInfo(
                thread_id=row["thread_id"],
                versions=from_json(row["versions"]),
                created_at=moment(row["created_at"]),
                updated_at=moment(row["updated_at"]),
            )
            for row in rows
        ]

    async def _delete(self, thread_id: str, version: int, namespace: str) -> bool:
        database = await self._database()
        queries = load_queries("checkpoint", database.kind)
        keys = self._keys(thread_id, namespace)
        self._remember(thread_id, namespace, None)
        async with database.transaction():
            if not await database.execute(queries.lock_head, {**keys, "stamp": secrets.randbits(62)}):
                return False
            row = await database.fetch_one(queries.delete_checkpoint, {**keys, "version": version})
            if row is None:
                return False
            pieces = [{**keys, "hash": key} for key in split_refs(row["refs"])]
            if pieces:
                await database.execute_many(queries.delete_piece, pieces)
            await database.execute(queries.refresh_head, keys)
        return True

    async def _delete_thread(self, thread_id: str) -> int:
        database = await self._database()
        queries = load_queries("checkpoint", database.kind)
        keys = {"tenant": self._tenant, "thread": thread_id}
        async with database.transaction():
            heads = await database.fetch_all(queries.lock_thread, keys)
            if not heads:
                return 0
            for head in heads:
                self._remember(thread_id, head["namespace"], None)
            marked = {**keys, "stamp": secrets.randbits(62)}
            await database.execute(queries.mark_thread, marked)
            count = await database.execute(queries.delete_thread_checkpoints, marked)
            await database.execute(queries.delete_thread_pieces, marked)
            await database.execute(queries.delete_thread_heads, marked)
        return count


def _packed(pieces: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Return pieces as the two byte strings and two arrays that PostgreSQL cuts them out of."""
    starts, sizes, start = [], [], 1
    for _, content in pieces:
        starts.append(start)
        sizes.append(len(content) + 1)
        start += len(content) + 1
    return {
        "hashes": b"".join(key for key, _ in pieces),
        "data": b"".join(part for _, content in pieces for part in (PLAIN, content)),
        "starts": "{" + ",".join(map(str, starts)) + "}",
        "sizes": "{" + ",".join(map(str, sizes)) + "}",
    }


def _described(database: AsyncDatabase, row: Row) -> dict[str, Any]:
    """Return what a checkpoint and its listing have in common."""
    return {
        "version": row["version"],
        "timestamp": database.dialect.moment(row["created_at"]),
        "metadata": from_json(row["metadata"]),
        "parent_version": row["parent_version"],
        "node": row["node"],
        "step": row["step"],
    }
