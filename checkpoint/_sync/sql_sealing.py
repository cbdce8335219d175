# Generated from ../_async/sql_sealing.py by tests/unasync.py: edit that one.
"""Encryption in PostgreSQL or SQLite: what is stored is sealed anew, for another key or another place."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from checkpoint._sync.sql_base import CheckpointTables, clock
from checkpoint.records import describe
from persistence._sync.database import Database
from persistence._sync.executor import Row
from persistence.errors import ConfigError, CorruptError
from persistence.queries import load_queries
from persistence.validation import check_id

_BATCH = 100
_THREADS = 500

Place = tuple[str | int, ...]
Change = Callable[[bytes, Place, Place], bytes | None]
"""Makes of what lies in the first place what will lie in the second; None: it may stay."""


class SQLSealing(CheckpointTables):
    """The sealing of DatabaseCheckpointer."""

    def rotate_keys(self, thread_id: str | None = None) -> int:
        """Seal with the current key what another key sealed, or none; return how many things that were.

        Of one thread, or of all of this tenant. One namespace of a thread is one transaction, which its saves wait for;
        a run that was cut off is simply run again.

        Raises:
            ConfigError: this checkpointer has no cipher, or its cipher lacks a key that is in use.
            CorruptError: something was changed, or belongs elsewhere; what was done before stays done.
        """
        if not self._sealing.is_on:
            raise ConfigError("this checkpointer has no cipher", hint="DatabaseCheckpointer(…, cipher=Cipher(…))")
        database = self._database()
        if thread_id is not None:
            return self._rotate_thread(database, check_id("the thread id", thread_id))
        queries = load_queries("checkpoint", database.kind)
        count, after = 0, ""
        while True:
            values = {"tenant": self._tenant, "after": after, "limit": _THREADS}
            rows = database.fetch_all(queries.list_heads, values)
            for row in rows:
                count += self._rotate_thread(database, row["thread_id"])
            if len(rows) < _THREADS:
                return count
            after = rows[-1]["thread_id"]

    def _rotate_thread(self, database: Database, thread_id: str) -> int:
        def change(data: bytes, old: Place, new: Place) -> bytes | None:
            return self._sealing.renew(data, *new)

        count = 0
        for namespace in self._namespaces(database, thread_id):
            with database.transaction():
                keys = self._keys(thread_id, namespace)
                # The lock keeps blocks from moving meanwhile; the stamp may change, for bases hold no sealed bytes.
                database.execute(
                    load_queries("checkpoint", database.kind).lock_head, {**keys, "stamp": secrets.randbits(62)}
                )
                count += self._seal_anew(database, thread_id, namespace, thread_id, 0, change)
        return count

    def _together(self, database: Database) -> AbstractContextManager[Any]:
        """Return a transaction where copies have to be sealed; without a cipher one statement does it all."""
        return database.transaction() if self._sealing.is_on else nullcontext()

    def _seal_copies(self, database: Database, thread_id: str, source: str) -> None:
        """Seal a thread that was copied from another, in the transaction that did so."""
        for namespace in self._namespaces(database, thread_id) if self._sealing.is_on else ():
            self._seal_copy(database, thread_id, namespace, source, 0, writes=True)

    def _seal_copy(
        self, database: Database, thread_id: str, namespace: str, source: str, shift: int, *, writes: bool
    ) -> None:
        """Seal a namespace that was copied from another thread, whose versions were higher by ``shift``.

        ``writes`` tells whether its pending writes were, or are the thread's own.
        """
        if not self._sealing.is_on:
            return

        def change(data: bytes, old: Place, new: Place) -> bytes:
            return self._sealing.seal(bytes(self._sealing.open(data, *old)), *new)

        self._seal_anew(database, thread_id, namespace, source, shift, change, writes=writes)

    def _namespaces(self, database: Database, thread_id: str) -> list[str]:
        rows = database.fetch_all(
            load_queries("checkpoint", database.kind).lock_thread,
            {"tenant": self._tenant, "thread": thread_id, **clock(database)},
        )
        return [row["namespace"] for row in rows]

    def _seal_anew(
        self,
        database: Database,
        thread_id: str,
        namespace: str,
        source: str,
        shift: int,
        change: Change,
        *,
        writes: bool = True,
    ) -> int:
        """Change everything that is sealed in a namespace; return how many things did change."""
        try:
            return (
                self._seal_checkpoints(database, thread_id, namespace, source, shift, change)
                + self._seal_blocks(database, thread_id, namespace, source, shift, change)
                + (self._seal_writes(database, thread_id, namespace, source, change) if writes else 0)
            )
        except CorruptError as exc:
            raise CorruptError(
                f"{describe(source, namespace)}: {exc.message}", hint=exc.hint, connection=self._place
            ) from exc

    def _seal_checkpoints(
        self, database: Database, thread_id: str, namespace: str, source: str, shift: int, change: Change
    ) -> int:
        queries, sealing = load_queries("checkpoint", database.kind), self._sealing
        keys = self._keys(thread_id, namespace)
        count, rows, after = 0, [Row()], -(2**62)
        while rows:
            rows = database.fetch_all(queries.list_sealed, {**keys, "after": after, "limit": _BATCH}, binary=True)
            for row in rows:
                after = version = row["version"]
                old, new = (source, namespace, version + shift), (thread_id, namespace, version)
                manifest = change(
                    row["manifest"], sealing.manifest(*old, row["key"]), sealing.manifest(*new, row["key"])
                )
                data = row["data"]
                block = None if data is None else change(data, sealing.block(*old, 0), sealing.block(*new, 0))
                if manifest is not None or block is not None:
                    database.execute(
                        queries.seal_checkpoint,
                        {**keys, "version": version, "manifest": manifest or row["manifest"], "data": block or data},
                    )
                    count += 1
        return count

    def _seal_blocks(
        self, database: Database, thread_id: str, namespace: str, source: str, shift: int, change: Change
    ) -> int:
        queries, place = load_queries("checkpoint", database.kind), self._sealing.block
        keys = self._keys(thread_id, namespace)
        count, rows, after = 0, [Row()], (-(2**62), 0)
        while rows:
            cursor = {"after": after[0], "after_ordinal": after[1], "limit": _BATCH}
            rows = database.fetch_all(queries.list_sealed_blocks, {**keys, **cursor}, binary=True)
            for row in rows:
                after = version, ordinal = row["version"], row["ordinal"]
                old, new = (source, namespace, version + shift, ordinal), (thread_id, namespace, version, ordinal)
                data = change(row["data"], place(*old), place(*new))
                if data is not None:
                    named = {**keys, "version": version, "ordinal": ordinal, "data": data}
                    count += database.execute(queries.seal_block, named)
        return count

    def _seal_writes(
        self, database: Database, thread_id: str, namespace: str, source: str, change: Change
    ) -> int:
        queries, place = load_queries("checkpoint", database.kind), self._sealing.write
        keys = self._keys(thread_id, namespace)
        count, rows, after = 0, [Row()], ("", "", -(2**62))
        while rows:
            cursor = {"after": after[0], "after_task": after[1], "after_index": after[2], "limit": _BATCH}
            rows = database.fetch_all(queries.list_sealed_writes, {**keys, **cursor}, binary=True)
            for row in rows:
                after = key, task, index = row["key"], row["task_id"], row["idx"]
                rest = (namespace, key, task, index, row["channel"])
                data = change(row["data"], place(source, *rest), place(thread_id, *rest))
                if data is not None:
                    named = {**keys, "key": key, "task": task, "idx": index, "data": data}
                    count += database.execute(queries.seal_write, named)
        return count
