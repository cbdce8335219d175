# Generated from ../_async/sql_writes.py by tests/unasync.py: edit that one.
"""Pending writes in PostgreSQL or SQLite: one statement a call, also when they are loaded with their checkpoint.

A write refers to the head of its thread, which ``put_writes`` makes where it is missing, by a foreign key: its check
waits for a delete of the thread that is under way, and the delete of the head takes the writes along.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from checkpoint._sync.sql_base import CheckpointTables, clock
from checkpoint._sync.writes import PendingWrites, Item
from checkpoint.records import PendingWrite
from checkpoint.sealing import SEALED
from persistence._sync.database import Database
from persistence._sync.executor import Row
from persistence.queries import load_queries


class SQLWrites(CheckpointTables, PendingWrites):
    """The pending writes of DatabaseCheckpointer."""

    def _put_writes(
        self, thread_id: str, namespace: str, key: str, task_id: str, task_path: str, items: list[Item]
    ) -> None:
        database = self._database()
        values = self._keys(thread_id, namespace, key=key, task=task_id, path=task_path)
        if self._sealing.is_on:
            place = self._sealing.write
            items = [
                Item(
                    index, channel, self._sealing.seal(data, *place(thread_id, namespace, key, task_id, index, channel))
                )
                for index, channel, data in items
            ]
        put = self._put_writes_sqlite if database.kind == "sqlite" else self._put_writes_postgresql
        while put(database, values, items):
            self._delete_thread(thread_id, expired=True)

    def _put_writes_postgresql(self, database: Database, values: dict[str, Any], items: list[Item]) -> bool:
        """Store them; True when the thread has expired, and nothing was stored."""
        listed, start = [], 1
        for index, channel, data in items:
            listed.append((index, channel, start, len(data)))
            start += len(data)
        expired: bool = database.fetch_value(
            load_queries("checkpoint", "postgresql").put_writes,
            {
                **values,
                "stamp": secrets.randbits(62),
                "now": datetime.now(UTC),
                "items": json.dumps(listed, ensure_ascii=False),
                "data": b"".join([item.data for item in items]),
            },
        )
        return expired

    def _put_writes_sqlite(self, database: Database, values: dict[str, Any], items: list[Item]) -> bool:
        queries = load_queries("checkpoint", "sqlite")
        keys = {name: values[name] for name in ("tenant", "thread", "namespace")}
        with database.transaction():
            if not database.execute(
                queries.touch_head, {**keys, "stamp": secrets.randbits(62), **clock(database)}
            ):
                return True
            database.execute_many(
                queries.put_write,
                [{**values, "idx": index, "channel": channel, "data": data} for index, channel, data in items],
            )
        return False

    def _pending_writes(self, thread_id: str, namespace: str, key: str) -> list[PendingWrite]:
        database = self._database()
        keys = self._keys(thread_id, namespace, key=key, **clock(database))
        rows = database.fetch_all(load_queries("checkpoint", database.kind).pending_writes, keys, binary=True)
        return self._opened(rows, keys)

    def _opened(self, rows: list[Row], keys: dict[str, Any]) -> list[PendingWrite]:
        """Return the writes of the checkpoint that ``keys`` name."""
        place = (keys["thread"], keys["namespace"], keys["key"])
        return [
            self._open(place, row["task_id"], row["channel"], row["idx"], row["task_path"], row["data"]) for row in rows
        ]

    def _open(
        self,
        place: tuple[str, str, str],
        task_id: str,
        channel: str,
        index: int,
        task_path: str,
        data: bytes | memoryview,
    ) -> PendingWrite:
        if self._sealing.is_on or bytes(data[:1]) == SEALED:
            data = self._sealing.open(data, *self._sealing.write(*place, task_id, index, channel))
        return self._as_write(task_id, channel, index, task_path, data)

    def _load_rows(
        self, database: Database, statement: str, keys: dict[str, Any], writes: bool
    ) -> tuple[list[Row], tuple[PendingWrite, ...]]:
        """Return the rows of a statement that loads one checkpoint, and the pending writes if they are asked for."""
        queries = load_queries("checkpoint", database.kind)
        if database.kind == "postgresql":
            whole = with_writes(statement, queries.with_writes) if writes else statement
            with self._reading_refs(keys):
                rows = database.fetch_all(whole, keys, binary=True)
            return rows, self._cut_writes(rows[0], keys) if rows and writes else ()
        with self._reading_refs(keys):
            found = database.fetch_all(f"{statement}\n{queries.with_writes}" if writes else statement, keys)
        rows = [row for row in found if row["task_id"] is None]
        pending = [row for row in found if row["task_id"] is not None]
        if len(rows) > 1:
            rows.sort(key=itemgetter("place"))
        if not pending:
            return rows, ()
        pending.sort(key=itemgetter("task_path", "task_id", "idx"))
        return rows, tuple(self._opened(pending, {**keys, "key": rows[0]["key"]}))

    def _cut_writes(self, row: Row, keys: dict[str, Any]) -> tuple[PendingWrite, ...]:
        """Return the writes that came along with a checkpoint of PostgreSQL."""
        if row["writes"] is None:
            return ()
        whole, start, found = memoryview(row["writes_data"]), 0, []
        for task_id, channel, index, task_path, size in json.loads(row["writes"]):
            place = (keys["thread"], keys["namespace"], row["key"])
            found.append(self._open(place, task_id, channel, index, task_path, whole[start : start + size]))
            start += size
        return tuple(found)


def with_writes(statement: str, join: str) -> str:
    """Return a statement that loads checkpoints, with the pending writes of each in the same row."""
    return f"SELECT loaded.*, pending.* FROM (\n{statement}\n) AS loaded\n{join}"
