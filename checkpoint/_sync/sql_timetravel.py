# Generated from ../_async/sql_timetravel.py by tests/unasync.py: edit that one.
"""Time travel in PostgreSQL or SQLite. The database copies what is copied; nothing of it passes through the client.

On PostgreSQL a fork or copy is one statement and takes no lock on its source: all of it reads one snapshot, and in each
snapshot a checkpoint has all its blocks, because saves and deletes commit both at once. With a cipher it is sealed anew
by this process, in the same transaction, because what is sealed opens in one place only.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime

from checkpoint._sync.sql_base import clock, described
from checkpoint._sync.sql_sealing import SQLSealing
from checkpoint._sync.timetravel import TimeTravel
from checkpoint.records import CheckpointInfo
from checkpoint.refs import pack_refs
from checkpoint.states import move_manifest
from persistence.errors import DuplicateError
from persistence.queries import load_queries


class SQLTimeTravel(SQLSealing, TimeTravel):
    """The time travel of DatabaseCheckpointer."""

    def _history(self, thread_id: str, namespace: str, limit: int, before: int) -> list[CheckpointInfo]:
        database = self._database()
        rows = database.fetch_all(
            load_queries("checkpoint", database.kind).history,
            self._keys(thread_id, namespace, limit=limit, before=before, **clock(database)),
        )
        return [CheckpointInfo(thread_id=thread_id, namespace=namespace, **described(database, row)) for row in rows]

    def _find(self, thread_id: str, namespace: str, step: int | None, node: str | None) -> int | None:
        database = self._database()
        row = database.fetch_one(
            load_queries("checkpoint", database.kind).find_checkpoint,
            self._keys(thread_id, namespace, step=step, node=node, **clock(database)),
        )
        return None if row is None else row["version"]

    def _fork(self, thread_id: str, namespace: str, version: int, new_thread: str) -> tuple[bool, bool]:
        found, saved = self._fork_once(thread_id, namespace, version, new_thread)
        if found and not saved and self._delete_if(new_thread, True, None, None) is not None:
            return self._fork_once(thread_id, namespace, version, new_thread)
        return found, saved

    def _fork_once(self, thread_id: str, namespace: str, version: int, new_thread: str) -> tuple[bool, bool]:
        database = self._database()
        queries = load_queries("checkpoint", database.kind)
        values = self._keys(thread_id, namespace, version=version, new_thread=new_thread)
        head = {"stamp": secrets.randbits(62), "now": database.dialect.time(datetime.now(UTC))}
        if database.kind == "postgresql":
            with self._together(database):
                with self._reading_refs(values):
                    row = database.fetch_one(queries.fork, {**values, **head}) or {"found": False, "saved": False}
                if row["saved"]:
                    self._seal_copy(database, new_thread, namespace, thread_id, version - 1, writes=False)
            return row["found"], row["saved"]
        with database.transaction():
            target = {name: values[name] for name in ("tenant", "namespace", "new_thread")}
            keys = self._keys(thread_id, namespace, **clock(database))
            if not database.fetch_all(queries.load_manifest, {**keys, "version": version}):
                return False, False
            if not database.execute(queries.fork_head, {**target, **head}):
                return True, False
            with self._reading_refs(keys):
                database.execute(queries.fork_blocks, values)
            database.execute(queries.fork_checkpoint, {**values, "now": head["now"]})
            self._seal_copy(database, new_thread, namespace, thread_id, version - 1, writes=False)
        return True, True

    def _copy_thread(self, thread_id: str, new_thread: str) -> int | None:
        copied = self._copy_once(thread_id, new_thread)
        if copied == -1 and self._delete_if(new_thread, True, None, None) is not None:
            return self._copy_once(thread_id, new_thread)
        return copied

    def _copy_once(self, thread_id: str, new_thread: str) -> int | None:
        database = self._database()
        values = {
            "tenant": self._tenant,
            "thread": thread_id,
            "new_thread": new_thread,
            "stamp": secrets.randbits(62),
            "now": database.dialect.time(datetime.now(UTC)),
        }
        queries = load_queries("checkpoint", database.kind)
        if database.kind == "postgresql":
            try:
                with self._together(database):
                    row = database.fetch_one(queries.copy_thread, values)
                    if row is not None and row["made"]:
                        self._seal_copies(database, new_thread, thread_id)
            except DuplicateError:
                if database.in_transaction:
                    raise
                return -1
            if row is None or row["made"]:
                return 0 if row is None else row["saved"]
            return -1 if row["found"] else None
        with database.transaction():
            if not database.execute(queries.copy_heads, values):
                source = {name: values[name] for name in ("tenant", "thread", "now")}
                return -1 if database.fetch_value(queries.inspect_copy, source) else None
            both = {name: values[name] for name in ("tenant", "thread", "new_thread")}
            database.execute(queries.copy_blocks, both)
            database.execute(queries.copy_writes, both)
            copied = database.execute(queries.copy_checkpoints, both)
            self._seal_copies(database, new_thread, thread_id)
        return copied

    def _rewind(self, thread_id: str, namespace: str, version: int, moment: datetime) -> int | None:
        database = self._database()
        queries = load_queries("checkpoint", database.kind)
        keys = self._keys(thread_id, namespace)
        stamp = {"stamp": secrets.randbits(62)}
        now = database.dialect.time(moment)
        self._remember(thread_id, namespace, None)
        with database.transaction():
            if not database.execute(queries.lock_head, {**keys, **stamp}):
                return None
            chosen = {**keys, "version": version, **clock(database)}
            with self._reading_refs(keys):
                row = database.fetch_one(queries.load_manifest, chosen, binary=True)
            if row is None:
                return None
            is_text = database.kind == "sqlite"
            refs = self._refs_of(thread_id, namespace, {**row, "version": version})
            sealing, place = self._sealing, (thread_id, namespace)
            opened = bytes(sealing.open(row["manifest"], *sealing.manifest(*place, version, row["key"])))
            manifest, moved = move_manifest(opened, refs, row["next"] - version)
            values = {
                **keys,
                "version": version,
                "now": now,
                "step": row["step"],
                "node": row["node"],
                "metadata": row["metadata"],
                "manifest": sealing.seal(manifest, *sealing.manifest(*place, row["next"], None)),
                "refs": json.dumps(moved) if is_text else pack_refs(moved),
            }
            if is_text:
                database.execute(queries.rewind_head, {**keys, **stamp, "now": now})
                database.execute(queries.rewind, {**values, "next": row["next"]})
            else:
                database.execute(queries.rewind, {**values, **stamp})
        found: int = row["next"]
        return found
