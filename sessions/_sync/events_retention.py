# Generated from ../_async/events_retention.py by tests/unasync.py: edit that one.
"""Retention of events: raw ones rolled up, those once more, and what is over deleted; in bounded transactions.

Protocol: on PostgreSQL a whole partition that is due is locked against writers, rolled up and emptied in one
transaction, and dropped in another one, which needs the table it hangs on for a moment. Of others, as on SQLite, a
batch of events is deleted and counted in one transaction. So each event is counted once, also when two programs run at
once or one is killed in the middle; and a reader sees it either as it was or rolled up.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from persistence import Database
from persistence.dialect import quote_identifier
from persistence.errors import LockTimeoutError, QueryError, TransactionError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_whole
from sessions._sync.events_base import EventsBase
from sessions.event_partitions import PREFIX, EventPartition, partition_of, suffix_of
from sessions.event_queries import ORIGIN, Condition, condition_of, many
from sessions.event_retention import EventPolicy, RollUpReport, RollUpStep
from sessions.events import FIRST_MOMENT, check_time

LOCK_SECONDS = 2
"""How long a run waits for a partition that is in use."""
UNDEFINED_TABLE = "42P01"
PARTITIONS = 100_000
"""The most partitions that a run looks at: raw ones of 270 years."""


class EventRetention(EventsBase):
    """The part of the event log that keeps it from growing for ever."""

    def roll_up(
        self,
        policy: EventPolicy,
        *,
        dry_run: bool = False,
        now: datetime | None = None,
        batch: int = 10_000,
        limit: int | None = None,
        timeout: Duration = 600,
    ) -> RollUpReport:
        """Do what a policy says with the events of the tenant, and return a report; ``dry_run`` only reports.

        It works through everything that is due, oldest first, at most ``batch`` events (up to 100,000) a transaction;
        ``limit`` ends it after about so many. A partition that holds nothing else goes at once, in a statement that may
        take ``timeout`` seconds, and is dropped. ``now`` (None: this moment) is what ages are counted from.

        Call it from time to time, from as many programs as you like; what one did, another doesn't do again.

        Raises:
            TransactionError: called inside a transaction, though it commits as it goes.
        """
        if not isinstance(policy, EventPolicy):
            raise ValidationError(f"a {type(policy).__name__} is no EventPolicy")
        steps = policy.steps(datetime.now(UTC) if now is None else check_time("now", now))
        check_whole("batch", batch, most=100_000)
        left = 2**62 if limit is None else check_whole("limit", limit)
        database = self._database()
        if database.in_transaction:
            raise TransactionError("roll_up commits as it goes", hint="call it outside of transactions")
        database.partitions.clear()  # another program's run may have dropped some
        run = RollUp(self, database, policy, batch, timeout)
        run.report.dry_run = dry_run
        for step in steps:
            for since, until, partition in run.spans(step):
                try:
                    if dry_run:
                        run.count(step, since, until, partition)
                    else:
                        run.roll_up(step, since, until, partition, left)
                except QueryError as exc:
                    if exc.code != UNDEFINED_TABLE:  # else another program's run has dropped the partition
                        raise
                if run.report.events >= left:
                    run.report.complete = False
                    return run.report
        return run.report


class RollUp:
    """One run of a policy."""

    def __init__(
        self, log: EventsBase, database: Database, policy: EventPolicy, batch: int, timeout: Duration
    ) -> None:
        self.report = RollUpReport()
        self._log = log
        self._database = database
        self._batch = batch
        self._timeout = timeout
        self._condition = condition_of(database.kind, kinds=policy.kinds)
        if self._condition.sql != "true":
            self._condition = Condition(f"({self._condition.sql})", self._condition.parameters)
        kept = None if policy.tags is None else many(database.kind, policy.tags)
        self._values = {**self._condition.parameters, "origin": ORIGIN, "kept_tags": kept}

    def spans(self, step: RollUpStep) -> list[tuple[datetime, datetime, EventPartition | None]]:
        """Return the spans of time that hold what is due, oldest first; on PostgreSQL those of its partitions."""
        if self._database.kind == "sqlite":
            return [(FIRST_MOMENT, step.until, None)]
        rows = self._database.fetch_all(
            *self._log._prepared(self._database, "list_event_partitions", {"limit": PARTITIONS})
        )
        found: list[tuple[datetime, datetime, EventPartition | None]] = []
        for row in rows:
            partition = partition_of(row)
            if partition is None or partition.retention != step.source:
                continue
            if partition.since is not None and partition.until is not None and partition.since < step.until:
                found.append((partition.since, min(partition.until, step.until), partition))
        return found

    def count(self, step: RollUpStep, since: datetime, until: datetime, partition: EventPartition | None) -> None:
        """Count what is due in a span, and tell whether its partition would go."""
        self.report.add(step.action, self._count(step, max(since, step.since), until, PREFIX))
        if partition is None or partition.until != until or partition.name in self.report.dropped:
            return
        if not self._has_others(partition):
            self.report.dropped.append(partition.name)

    def roll_up(
        self, step: RollUpStep, since: datetime, until: datetime, partition: EventPartition | None, left: int
    ) -> None:
        """Do a step for a span: its partition as a whole, if it holds nothing else, and otherwise in batches."""
        if partition is not None and step.target is not None:
            # A bucket never leaves its day, and so neither the coarser partition that holds this one.
            self._log._make_partition(self._database, step.target, suffix_of(step.target, since), since)
        if partition is not None and partition.until == until:
            try:
                emptied = self._empty(step, since, until, partition)
                if emptied:
                    self._drop(partition)
                    return
            except LockTimeoutError:
                self.report.busy.append(partition.name)
                return
        while self.report.events < left:
            done = self._roll_up_batch(step, since, until)
            if done < self._batch:
                return

    def _empty(self, step: RollUpStep, since: datetime, until: datetime, partition: EventPartition) -> bool:
        """Roll up a whole partition and empty it, in one transaction; False where it holds something else."""
        database, leaf = self._database, quote_identifier(partition.name)
        with database.transaction(timeout=self._timeout):
            self._limit_lock()
            if not self._is_there(partition):
                return True
            database.execute(f"LOCK TABLE {leaf} IN SHARE ROW EXCLUSIVE MODE")
            if self._has_others(partition):
                return False
            events = self._count(step, since, until, leaf)
            made = 0
            if step.target is not None and events:
                made = self._execute("roll_up_partition", step, since, until, partition)
            if events:
                database.execute(f"TRUNCATE {leaf}")
        self.report.add(step.action, events, made)
        return True

    def _drop(self, partition: EventPartition) -> None:
        """Drop an empty partition, which blocks the table that it hangs on for the moment of the commit."""
        database, leaf = self._database, quote_identifier(partition.name)
        with database.transaction(timeout=self._timeout):
            self._limit_lock()
            parent = quote_identifier(f"{PREFIX}_{partition.retention}")
            database.execute(f"LOCK TABLE ONLY {parent} IN ACCESS EXCLUSIVE MODE")
            if not self._is_there(partition):
                return
            sql, given = self._log._filled(database, "is_empty_partition", {}, {"leaf": leaf})
            if not database.fetch_value(sql, given):
                return
            database.execute(f"DROP TABLE {leaf}")
        database.partitions.clear()
        self.report.dropped.append(partition.name)

    def _limit_lock(self) -> None:
        values = {"limit": f"{LOCK_SECONDS}s"}
        self._database.fetch_all(*self._log._prepared(self._database, "limit_event_lock", values))

    def _is_there(self, partition: EventPartition) -> bool:
        values = {"name": partition.name}
        return bool(
            self._database.fetch_value(*self._log._prepared(self._database, "is_event_partition", values))
        )

    def _has_others(self, partition: EventPartition) -> bool:
        places = {"leaf": quote_identifier(partition.name), "filter": self._condition.sql}
        sql, given = self._log._filled(self._database, "has_other_events", self._values, places)
        return bool(self._database.fetch_value(sql, given, prepare=False))

    def _roll_up_batch(self, step: RollUpStep, since: datetime, until: datetime) -> int:
        name = "delete_events" if step.target is None else "roll_up_events"
        if self._database.kind == "sqlite":
            return self._roll_up_on_sqlite(step, since, until)
        sql, given = self._statement(name, step, since, until, {"limit": self._batch})
        row = self._database.fetch_one(sql, given, timeout=self._timeout, prepare=False)
        events, made = (0, 0) if row is None else (int(row["events"]), int(row["made"]))
        self.report.add(step.action, events, made)
        return events

    def _roll_up_on_sqlite(self, step: RollUpStep, since: datetime, until: datetime) -> int:
        database = self._database
        with database.transaction(timeout=self._timeout):
            sql, given = self._statement("last_due_event", step, since, until, {"limit": self._batch - 1})
            end = database.fetch_one(sql, given) or {"at": until, "id": 0}
            last = {"last_at": end["at"], "last_id": end["id"]}
            made = 0
            if step.target is not None:
                made = database.execute(*self._statement("roll_up_events", step, since, until, last))
            events = database.execute(*self._statement("delete_events", step, since, until, last))
        self.report.add(step.action, events, made)
        return events

    def _count(self, step: RollUpStep, since: datetime, until: datetime, leaf: str) -> int:
        sql, given = self._statement("count_due_events", step, since, until, {}, {"leaf": leaf})
        return int(self._database.fetch_value(sql, given, timeout=self._timeout, prepare=False))

    def _execute(
        self, name: str, step: RollUpStep, since: datetime, until: datetime, partition: EventPartition
    ) -> int:
        places = {"leaf": quote_identifier(partition.name)}
        sql, given = self._statement(name, step, since, until, {}, places)
        return self._database.execute(sql, given, timeout=self._timeout, prepare=False)

    def _statement(
        self,
        name: str,
        step: RollUpStep,
        since: datetime,
        until: datetime,
        more: dict[str, Any],
        places: dict[str, str] | None = None,
    ) -> tuple[str, dict[str, Any]]:
        length: Any = step.length
        if self._database.kind == "sqlite":
            length = round(step.length.total_seconds() * 1e6)
        values = {
            **self._values,
            "source": step.source,
            "target": step.target,
            "since": since,
            "until": until,
            "length": length,
            # Random, so that the events that two runs make for one bucket never share it.
            "first_id": secrets.randbits(62),
            **more,
        }
        return self._log._filled(self._database, name, values, {"filter": self._condition.sql, **(places or {})})
