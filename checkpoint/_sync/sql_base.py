# Generated from ../_async/sql_base.py by tests/unasync.py: edit that one.
"""What the parts of the checkpointer on SQL databases share: keys of rows, the clock, rows as records, deleting."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple

from checkpoint._sync.group import GroupCommit
from checkpoint._sync.remembering import Remembering
from checkpoint.matching import contains
from checkpoint.records import Durability
from checkpoint.refs import ReadingRefs, read_refs
from checkpoint.serializer import Serializer
from checkpoint.states import Base, Written
from persistence._sync.database import Database
from persistence._sync.executor import Row
from persistence._sync.guards import SecretsOption
from persistence._sync.manager import DatabaseManager, named_connection
from persistence._sync.store import SQLStore
from persistence.dialect import from_json, to_micros
from persistence.errors import CorruptError
from persistence.migrations import MigrationLine
from persistence.queries import load_queries
from persistence.secrets import Cipher


class Saved(NamedTuple):
    """What a save was given: its version, its parent, and the highest version given."""

    version: int
    parent: int | None
    counter: int


class Attempt(NamedTuple):
    """A save as it is tried once: what is stored, and what it has to find.

    ``meanwhile`` may be called while the server is at it.
    """

    version: int | None
    values: dict[str, Any]
    written: Written
    base: Base | None
    expected: int | None
    relaxed: bool
    meanwhile: Callable[[], object] | None = None


class CheckpointTables(Remembering, SQLStore):
    """A store on the tables of checkpoints, bound to one tenant."""

    line: ClassVar[MigrationLine] = MigrationLine.of_package("checkpoint")

    @named_connection
    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        tenant: str = "default",
        serializer: Serializer | None = None,
        migrate: bool = True,
        durability: Durability = "sync",
        group_commit: bool = False,
        cipher: Cipher | None = None,
        secrets: SecretsOption = None,
    ) -> None:
        Remembering.__init__(
            self, name, tenant, serializer=serializer, durability=durability, cipher=cipher, secrets=secrets
        )
        SQLStore.__init__(self, manager, name, tenant=tenant, migrate=migrate)
        self._group = GroupCommit() if group_commit else None

    def _keys(self, thread_id: str, namespace: str, **more: Any) -> dict[str, Any]:
        return {"tenant": self._tenant, "thread": thread_id, "namespace": namespace, **more}

    def _reading_refs(self, keys: dict[str, Any]) -> ReadingRefs:
        return ReadingRefs(self._place, keys)

    def _refs_of(self, thread_id: str, namespace: str, row: Row) -> list[int]:
        """Return the refs of a checkpoint's row."""
        try:
            return read_refs(row["refs"])
        except CorruptError as exc:
            raise self._damaged(exc, row["version"], thread_id, namespace) from exc

    def _delete_thread(
        self, thread_id: str, *, expired: bool = False, cutoff: datetime | None = None, wanted: str | None = None
    ) -> int:
        """Delete a thread and return how many checkpoints it had, 0 of one that has expired, or that may not go."""
        return self._delete_if(thread_id, expired, cutoff, wanted) or 0

    def _delete_if(
        self, thread_id: str, expired: bool, cutoff: datetime | None, wanted: str | None
    ) -> int | None:
        """Delete a thread; None: it is not there or, as its lock shows, has not expired, was used, or has changed."""
        database = self._database()
        queries = load_queries("checkpoint", database.kind)
        keys = {"tenant": self._tenant, "thread": thread_id}
        with database.transaction():
            heads = database.fetch_all(queries.lock_thread, {**keys, **clock(database)})
            is_over = all(head["expired"] for head in heads)
            if not heads or (expired and not is_over):
                return None
            if cutoff is not None and max(head["updated_at"] for head in heads) >= database.dialect.time(cutoff):
                return None
            if wanted is not None and not self._is_wanted(database, thread_id, wanted):
                return None
            for head in heads:
                self._remember(thread_id, head["namespace"], None)
            marked = {**keys, "stamp": secrets.randbits(62)}
            database.execute(queries.mark_thread, marked)
            count = database.execute(queries.delete_thread_checkpoints, marked)
            database.execute(queries.delete_thread_blocks, marked)
            database.execute(queries.delete_thread_heads, marked)
        return 0 if is_over else count

    def _is_wanted(self, database: Database, thread_id: str, wanted: str) -> bool:
        rows = database.fetch_all(
            load_queries("checkpoint", database.kind).list_checkpoints,
            self._keys(thread_id, "", limit=1, before=2**62 * 2 - 1, **self._filter(database, None), **clock(database)),
        )
        return bool(rows) and contains(from_json(rows[0]["metadata"]), json.loads(wanted))

    def _filter(self, database: Database, wanted: str | None) -> dict[str, str]:
        """Return the filter as the statement for PostgreSQL takes it; for SQLite it is tried here, row by row."""
        return {"filter": wanted or "{}"} if database.kind == "postgresql" else {}

    def _forget(self, database: Database, keys: dict[str, Any], versions: Sequence[int]) -> tuple[int, int]:
        """Delete checkpoints with what only they need, under the head's lock; how many there were, and their bytes."""
        queries = load_queries("checkpoint", database.kind)
        listed = ",".join(map(str, versions))
        if database.kind == "postgresql":
            with self._reading_refs(keys):
                row = database.fetch_one(queries.forget, {**keys, "versions": f"{{{listed}}}"}) or {}
            found = row["checkpoints"], int(row["bytes"])
        else:
            gone = {**keys, "versions": f"[{listed}]"}
            with self._reading_refs(keys):
                moved = database.fetch_all(queries.move_blocks, gone)
            dropped = database.fetch_all(queries.drop_blocks, gone)
            database.execute(queries.drop_writes, gone)
            rows = database.fetch_all(queries.drop_checkpoints, gone)
            found = len(rows), sum(row["size"] for row in rows + dropped) - sum(row["size"] for row in moved)
        database.execute(queries.refresh_head, keys)
        return found


def next_saved(base: Base, parent: int | None) -> Saved:
    """Return what the next save on a base is given; ``parent`` is the one that it names."""
    return Saved(base.counter + 1, parent or base.latest or None, base.counter + 1)


def clock(database: Database) -> dict[str, int]:
    """Return the time now as SQLite's statements take it; PostgreSQL's ask the server's clock."""
    return {"now": to_micros(datetime.now(UTC))} if database.kind == "sqlite" else {}


def described(database: Database, row: Row) -> dict[str, Any]:
    """Return what a checkpoint and its listing have in common."""
    return {
        "version": row["version"],
        "timestamp": database.dialect.moment(row["created_at"]),
        "metadata": from_json(row["metadata"]),
        "parent_version": row["parent_version"],
        "node": row["node"],
        "step": row["step"],
        "key": row["key"],
    }
