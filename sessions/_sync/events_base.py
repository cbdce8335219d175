# Generated from ../_async/events_base.py by tests/unasync.py: edit that one.
"""What the parts of the event log share: its statements, and how events are written into partitions made as needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from persistence import Database, DatabaseManager
from persistence._sync.guards import SecretsOption, check_secrets, guarded
from persistence._sync.manager import named_connection
from persistence.dialect import compile_statement
from persistence.errors import ConstraintError
from persistence.fields import Duration
from persistence.queries import fill, load_queries
from sessions._sync.store import SessionsStore
from sessions._sync.wake_ups import WakeUps
from sessions.event_chains import GENESIS, chained, content_of
from sessions.event_partitions import suffixes_of
from sessions.events import AUDIT, COLUMNS, Event, EventRetention, event_row, row_values

CONTEXT = "events"
"""Under which context a vault keeps the secrets of events."""
CHECK_VIOLATION = "23514"
"""What PostgreSQL says of a row that no partition takes."""
_AT, _RETENTION, _KIND, _CHAIN = (COLUMNS.index(name) for name in ("at", "retention", "kind", "chain"))


class EventsBase(SessionsStore):
    """The events of one tenant, on a PostgreSQL or SQLite connection of a manager.

    ``secrets`` says what becomes of secrets in messages and tags: a ``SecretVault`` keeps them, under the context
    ``events``, and references stand in their place; ``"redact"`` takes them out; ``"refuse"`` is a ValidationError.
    ``notify`` (PostgreSQL) has an append wake followers of the log, at most once in so many seconds for this store.
    """

    @named_connection
    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        tenant: str = "default",
        migrate: bool = True,
        secrets: SecretsOption = None,
        notify: Duration | None = None,
    ) -> None:
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self._secrets = check_secrets(secrets)
        self._wake_ups = None if notify is None else WakeUps(manager, name, "events", tenant=tenant, every=notify)

    def _rows(self, events: Sequence[Event], rows: list[tuple[Any, ...]]) -> tuple[list[Event], list[Any]]:
        """Return events and their rows, already checked, as they are to be kept."""
        if self._secrets is None:
            return list(events), rows
        given = [(event.message, event.tags) for event in events]
        kept = guarded(self._secrets, given, "the event", CONTEXT)
        changed = [
            event if new is old else replace(event, message=new[0], tags=new[1])
            for event, new, old in zip(events, kept, given, strict=True)
        ]
        return changed, [
            row if new is old else event_row(self._tenant, new)
            for row, new, old in zip(rows, changed, events, strict=True)
        ]

    def _erase(self, events: Sequence[Event]) -> int:
        """Delete events that stand in no chain, and return how many went."""
        if not events:
            return 0
        database = self._database()
        places = [(database.dialect.time(event.time), event.id) for event in events]
        values: dict[str, Any] = {"low": min(places)[0], "high": max(places)[0]}
        if database.kind == "postgresql":
            values |= {"times": [at for at, _ in places], "ids": [id for _, id in places]}
        else:
            values["places"] = json.dumps(places)
        return database.execute(*self._prepared(database, "erase_events", values))

    def _filled(
        self, database: Database, name: str, values: dict[str, Any], places: Mapping[str, str]
    ) -> tuple[str, dict[str, Any]]:
        """Return a statement with its marked places filled, and those of the values that it takes then."""
        sql = fill(getattr(load_queries("sessions", database.kind), name), places)
        given = {"tenant": self._tenant, **values}
        return sql, {parameter: given[parameter] for parameter in compile_statement(sql, database.kind).names}

    def _write(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        """Store rows, all or none, and return what the store gave the last one, if that is an audit event.

        A partition that another program dropped since this one saw it is made again, and the write repeated.
        """
        database = self._database()
        given = self._write_into(database, rows)
        if self._wake_ups is not None:
            self._wake_ups.tell("", in_transaction=database.in_transaction)
        return given

    def _write_into(self, database: Database, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        self._make_partitions(database, rows)
        try:
            return self._write_rows(database, rows)
        except ConstraintError as exc:
            if exc.code != CHECK_VIOLATION or database.kind != "postgresql":
                raise
            database.partitions.clear()
            if database.in_transaction:
                raise
        self._make_partitions(database, rows)
        return self._write_rows(database, rows)

    def _make_partitions(self, database: Database, rows: Sequence[tuple[Any, ...]]) -> None:
        if database.kind != "postgresql":
            return
        wanted = suffixes_of((row[_RETENTION], row[_AT]) for row in rows)
        for (retention, suffix), moment in wanted.items():
            self._make_partition(database, retention, suffix, moment)

    def _make_partition(
        self, database: Database, retention: EventRetention, suffix: str, moment: datetime
    ) -> None:
        if (retention, suffix) in database.partitions:
            return
        sql = load_queries("sessions", "postgresql").make_event_partition
        made = database.fetch_value(sql, {"retention": retention, "moment": moment})
        # What this transaction has made, it may still take back; what it found there, nobody but it could have made.
        doubtful = (retention, f"{suffix}?")
        if not database.in_transaction:
            database.partitions.discard(doubtful)
            database.partitions.add((retention, suffix))
        elif made:
            database.partitions.add(doubtful)
        elif doubtful not in database.partitions:
            database.partitions.add((retention, suffix))

    def _write_rows(self, database: Database, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        audits = [row for row in rows if row[_KIND] == AUDIT]
        if len(rows) > 1 or (audits and database.kind == "sqlite"):
            return self._write_many(database, rows, audits)
        if not audits:
            database.execute(*self._prepared(database, "append_event", row_values(rows[0])))
            return {}
        content = content_of(dict(zip(COLUMNS, rows[0], strict=True)))
        values = {**row_values(rows[0]), "content": content, "genesis": GENESIS}
        return database.fetch_one(*self._prepared(database, "append_audit", values)) or {}

    def _write_many(
        self, database: Database, rows: Sequence[tuple[Any, ...]], audits: list[tuple[Any, ...]]
    ) -> dict[str, Any]:
        """Store rows by COPY; with audit events among them, in one transaction with the heads of their chains."""
        if not audits:
            database.copy_into("holdfast_events", COLUMNS, rows)
            return {}
        with database.transaction():
            done = [row for row in rows if row[_KIND] != AUDIT]
            # In the order of their names, so that two batches never wait for each other.
            for chain in sorted({row[_CHAIN] for row in audits}):
                head = database.fetch_one(
                    *self._prepared(database, "lock_event_chain", {"chain": chain, "genesis": GENESIS})
                )
                if head is not None:
                    done += chained([row for row in audits if row[_CHAIN] == chain], head["seq"], head["hash"])
                    moved = {"chain": chain, "seq": done[-1][-2], "hash": done[-1][-1]}
                    database.execute(*self._prepared(database, "move_event_chain", moved))
            database.copy_into("holdfast_events", COLUMNS, done)
        return {"chain_seq": done[-1][-2], "hash": done[-1][-1]}
