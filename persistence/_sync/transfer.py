# Generated from ../_async/transfer.py by tests/unasync.py: edit that one.
"""Copies what the packages keep in one database to another, table by table, so that it can go on after any end.

Protocol: rows are read in the order of their table's key, a batch at a time. A batch and the key that it ended with are
written in one transaction of the target, so whoever goes on repeats nothing and leaves nothing out. The source is only
read. A batch is read as the source is at that moment: who needs a copy of one moment stops the writers first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from secrets import randbits
from typing import Any

from persistence import transfers
from persistence._sync.database import Database
from persistence._sync.executor import Row
from persistence._sync.migrator import Migrator
from persistence._sync.postgresql import PostgreSQLDatabase
from persistence._sync.schema import expected_schema
from persistence._sync.sqlite import SQLiteDatabase
from persistence._sync.transaction import Transaction
from persistence.copied_columns import Route
from persistence.dialect import quote_identifier
from persistence.errors import CapabilityError, ConflictError, MigrationError
from persistence.migrations import MigrationLine, shipped_lines
from persistence.queries import load_queries
from persistence.schemas import made_tables
from persistence.transfers import (
    BATCH_BYTES,
    BATCH_ROWS,
    MOST_DIFFERENCES,
    CopiedTable,
    CopyDifference,
    CopyProgress,
    TableCopy,
    TablePair,
    Tables,
    in_order,
    plan_of,
    table_copy,
    tables_from_rows,
)
from persistence.validation import check_whole

SCAN_SECONDS = 3600.0
"""How long looking through a table, before anything is copied, may take."""


class Transfer:
    """A copy of all that the packages keep in ``source`` to ``target``, each on PostgreSQL or SQLite.

    ``lines`` are the migration lines whose tables are copied (left out: those of the installed packages); one that the
    source hasn't is passed over. ``batch_rows`` bounds a batch, which holds about 4 MB whatever its rows are.
    """

    def __init__(
        self,
        source: Database,
        target: Database,
        *,
        lines: Iterable[MigrationLine] | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self._source = source
        self._target = target
        self._lines = list(shipped_lines() if lines is None else lines)
        self._rows = check_whole("batch_rows", batch_rows, most=100_000)
        self._route: Route = (source.kind, target.kind)
        self._name = _address(source)

    def count(self) -> dict[str, int]:
        """Return how many rows each table of the source has that ``copy`` would copy; changes nothing.

        Raises:
            MigrationError: the source isn't up to date.
            CapabilityError: row level security hides rows from the role of a connection.
        """
        return {
            pair.name: self._source.fetch_value(f"SELECT count(*) FROM {pair.source} AS copied")
            for pair in self._pairs(make=False)
        }

    def copy(
        self, *, merge: bool = False, progress: Callable[[CopyProgress], object] | None = None
    ) -> tuple[CopiedTable, ...]:
        """Bring the target's tables up to date, copy every row, and return what was copied, by table.

        A copy that was ended by anything goes on where it was when it is called again, and repeats nothing; one that is
        complete takes what has come to the source behind its last keys. ``merge``: also into tables that hold other
        rows; a row whose key is there is left as it is, and a complete copy is gone through from its start.
        ``progress`` is called after each batch.

        Raises:
            MigrationError: the source isn't up to date, or a package doesn't say how its tables are copied.
            ConflictError: the target holds other rows; or another copy into it is under way.
            CapabilityError: row level security hides rows from the role of a connection; or the source holds what a
                SQLite file has no form for, and nothing was written.
        """
        pairs = self._pairs(make=True)
        self._target.execute(transfers.CREATE_PROGRESS)
        copies = self._copies(pairs)
        self._begin(copies, merge)
        found: list[CopiedTable] = []
        for each in copies:
            found.append(self._copy(each, merge, progress))
        if self._target.kind == "postgresql":
            self._number_rows(copies)
        elif self._source.kind == "sqlite":
            self._number_rowids(copies)
        for each in copies:
            if each.links:
                self._copy(each.second_pass(), merge, progress)
        return tuple(found)

    def verify(self, *, progress: Callable[[CopyProgress], object] | None = None) -> tuple[CopyDifference, ...]:
        """Read every row on both sides and return how they differ, at most 100 differences; changes nothing.

        What a database derives (words, states of collections) is compared where it is a column.
        """
        found: list[CopyDifference] = []
        for each in self._copies(self._pairs(make=False)):
            rows = 0
            for rows in self._compare(each, found):
                if progress is not None:
                    progress(CopyProgress(each.name, rows, False))
            if len(found) >= MOST_DIFFERENCES:
                break
            if progress is not None:
                progress(CopyProgress(each.name, rows, True))
        return tuple(found)

    def _pairs(self, *, make: bool) -> list[TablePair]:
        """Return what is copied; ``make``: after the target's tables have been brought up to date."""
        self._check_sees_all()
        tables = _tables(self._source)
        lines = [line for line in self._lines if self._is_there(line)]
        found = [pair for line in lines for pair in self._pairs_of(line, tables, make=False)]
        if self._route == ("postgresql", "sqlite"):
            self._check_fits(found)
        if not make:
            return found
        for line in lines:
            Migrator(self._target).up(line)
        return [pair for line in lines for pair in self._pairs_of(line, tables, make=True)]

    def _is_there(self, line: MigrationLine) -> bool:
        status = Migrator(self._source).status(line)
        if status.current and status.pending:
            raise MigrationError(
                f"{', '.join(map(str, status.pending))} is pending on the source",
                hint="holdfast migrate up",
                connection=self._source.name,
            )
        return status.current > 0

    def _pairs_of(self, line: MigrationLine, tables: Tables, *, make: bool) -> list[TablePair]:
        left_out = plan_of(line.name, self._route).left_out
        pairs = [
            TablePair(name, line.name, quote_identifier(name), tables[name], name)
            for name in sorted(self._expected(line))
            if name in tables and name not in left_out
        ]
        return pairs + self._further(line.name, tables, make=make)

    def _expected(self, line: MigrationLine) -> Iterable[str]:
        """Return the tables of a line. A source on PostgreSQL, which may be a replica, is not asked to make them."""
        migrations = line.load(self._source.kind)
        if self._route == ("postgresql", "sqlite"):
            in_python = any(migration.upgrade is not None for migration in migrations)
            return expected_schema(self._source, migrations) if in_python else made_tables(migrations)
        return expected_schema(self._source if self._source.kind == "sqlite" else self._target, migrations)

    def _check_fits(self, pairs: list[TablePair]) -> None:
        """Refuse what PostgreSQL holds and a SQLite file can't."""
        for pair in pairs:
            statement = pair.unfit(plan_of(pair.package, self._route))
            row = None if statement is None else self._source.fetch_one(statement, timeout=SCAN_SECONDS)
            if row is not None:
                raise CapabilityError(
                    f"{pair.name} {row['key']}: {row['column']} is NaN or infinite, which a SQLite file can't hold",
                    hint="change that row, or leave its package out of the copy",
                    connection=self._source.name,
                )

    def _check_sees_all(self) -> None:
        """Refuse a role from which row level security hides rows: a copy would leave them out and not know."""
        for database in (self._source, self._target):
            if database.kind == "postgresql":
                rows = database.fetch_all(load_queries("persistence", "postgresql").list_guarded)
                if rows:
                    raise CapabilityError(
                        f"row level security hides rows of {', '.join(row['name'] for row in rows)}",
                        hint="copy as the tables' owner, or as a role with BYPASSRLS",
                        connection=database.name,
                    )

    def _further(self, package: str, tables: Tables, *, make: bool) -> list[TablePair]:
        """Return the tables that a package makes beside those of its migrations."""
        module = f"{package}._sync.copy_tables"
        if find_spec(package) is None or find_spec(module) is None:
            return []
        found: list[TablePair] = import_module(module).further_tables(
            self._source, self._target, tables, make=make
        )
        return found

    def _copies(self, pairs: list[TablePair]) -> list[TableCopy]:
        queries = load_queries("persistence", self._target.kind)
        tables = _tables(self._target)
        references = [
            (row["table"], row["target"], row["column"])
            for row in self._target.fetch_all(queries.list_references)
        ]
        copies = []
        for pair in in_order(pairs, [each[:2] for each in references]):
            if pair.target not in tables:
                raise MigrationError(
                    f"the target has no table {pair.target}",
                    hint=f"{pair.package}/copy_plans.py says what becomes of it, or holdfast copy makes it",
                    connection=self._target.name,
                )
            copied = table_copy(pair, tables[pair.target], plan_of(pair.package, self._route), self._route)
            own = [column for table, target, column in references if table == target == pair.target]
            links = tuple(column for column in own if column not in copied.key)
            copies.append(transfers.with_links(copied, links))
        return copies

    def _begin(self, copies: list[TableCopy], merge: bool) -> None:
        """Make sure that the target holds no other rows, and that there is a record of each table."""
        with self._target.transaction():
            known = self._progress()
            names = [each.name for each in copies] + [each.second_pass().name for each in copies if each.links]
            if merge and known and all(known[name]["done"] for name in names if name in known):
                self._target.execute(transfers.FORGET_PROGRESS, {"source": self._name})
                known = {}
            for each in copies:
                if each.name not in known and not merge:
                    self._check_empty(each)
            for name in names:
                self._target.execute(transfers.BEGIN_TABLE, {"source": self._name, "name": name})

    def _check_empty(self, copied: TableCopy) -> None:
        found = self._target.fetch_all(f"SELECT 1 FROM {copied.pair.read_again} AS copied LIMIT 1")
        if found:
            raise ConflictError(
                f"{copied.pair.target} of the target holds rows that are not of this copy",
                hint="copy into an empty database; or merge=True, which leaves alone what is there",
                connection=self._target.name,
            )

    def _progress(self) -> dict[str, Row]:
        rows = self._target.fetch_all(transfers.READ_PROGRESS, {"source": self._name})
        return {row["name"]: row for row in rows}

    def _copy(
        self, copied: TableCopy, merge: bool, progress: Callable[[CopyProgress], object] | None
    ) -> CopiedTable:
        record = (self._progress())[copied.name]
        if record["done"]:
            self._target.execute(transfers.REOPEN_TABLE, {"source": self._name, "name": copied.name})
        before, rows, kept = record["last_key"] or "", int(record["copied"]), 0
        last = tuple(json.loads(before)) if before else None
        triggers = self._triggers(copied)
        reader, is_over = self._reader(copied, last), False
        while not is_over:
            batch = reader.batch()
            is_over = not batch
            last_key = json.dumps(copied.key_of(batch[-1])) if batch else before
            values = {
                "source": self._name, "name": copied.name, "last_key": last_key or None, "copied": len(batch),
                "done": int(not batch), "before": before,
            }  # fmt: skip
            with self._target.transaction() as transaction:
                if not transaction.execute(transfers.RECORD_BATCH, values):
                    raise ConflictError(
                        "another copy from the same source is under way",
                        hint="wait for it, or end it",
                        connection=self._target.name,
                    )
                kept += len(batch) - self._write(transaction, copied, batch, triggers, merge)
            before, rows = last_key, rows + len(batch)
            if progress is not None:
                progress(CopyProgress(copied.name, rows, not batch))
        return CopiedTable(copied.name, copied.pair.package, rows, kept)

    def _write(
        self, transaction: Transaction, copied: TableCopy, batch: list[Row], triggers: list[Row], merge: bool
    ) -> int:
        """Write a batch and return how many rows were new. Triggers would write what is copied itself."""
        if not batch:
            return 0
        if copied.before is not None:
            each: dict[str, dict[str, Any]] = {}
            for row in batch:
                values = dict(copied.before.values(row))
                each[repr(values)] = values
            for values in each.values():
                transaction.fetch_all(copied.before.sql, values)
        for trigger in triggers:
            transaction.execute(f"DROP TRIGGER {quote_identifier(trigger['name'])}")
        numbers = self._numbers(transaction, copied, len(batch))
        written = transaction.execute_many(copied.write(merge=merge), map(copied.parameters, batch, numbers))
        if copied.after is not None:
            transaction.execute_many(copied.after, map(copied.values_after, batch, numbers))
        for trigger in triggers:
            transaction.script(trigger["definition"])
        return written

    def _numbers(self, transaction: Transaction, copied: TableCopy, count: int) -> Sequence[int | None]:
        """Return the number of each row of a batch, None where the table's writer gives none."""
        if copied.pair.numbered is None:
            return [None] * count
        first = transaction.fetch_value(copied.pair.numbered.last) + 1 + randbits(copied.pair.numbered.gap)
        return range(first, first + count)

    def _triggers(self, copied: TableCopy) -> list[Row]:
        if self._target.kind != "sqlite":
            return []
        rows = self._target.fetch_all(load_queries("persistence", "sqlite").list_triggers)
        return [
            row
            for row in rows
            if row["table"] == copied.pair.target and not row["fills_virtual"] and row["name"] not in copied.triggers
        ]

    def _compare(self, copied: TableCopy, found: list[CopyDifference]) -> Iterator[int]:
        """Append how the rows differ, and yield now and then how many were compared."""
        ours, theirs = self._reader(copied, None), self._reader(copied, None, shown=True)
        row, other, rows = ours.row(), theirs.row(), 0
        while (row is not None or other is not None) and len(found) < MOST_DIFFERENCES:
            key = None if row is None else copied.key_of(row)
            there = None if other is None else copied.key_of(other)
            if row is not None and other is not None and key == there:
                differing = copied.differing(row, other)
                if differing:
                    found.append(CopyDifference(copied.name, copied.key_of(row), f"differs in {', '.join(differing)}"))
                row, other = ours.row(), theirs.row()
            elif there is None or (key is not None and key < there):
                found.append(CopyDifference(copied.name, key or (), "is missing in the target"))
                row = ours.row()
            else:
                found.append(CopyDifference(copied.name, there, "is only in the target"))
                other = theirs.row()
            rows += 1
            if rows % self._rows == 0:
                yield rows
        yield rows

    def _reader(self, copied: TableCopy, last: tuple[Any, ...] | None, *, shown: bool = False) -> RowReader:
        return RowReader(self._target if shown else self._source, copied, last, self._rows, shown)

    def _number_rows(self, copies: list[TableCopy]) -> None:
        """Have the server number on behind the largest number of each column, and behind the last one of the source."""
        queries = load_queries("persistence", "postgresql")
        given = {}
        if self._source.kind == "postgresql":
            rows = self._source.fetch_all(queries.list_sequences)
            given = {(row["table"], row["column"]): row["last"] for row in rows}
        copied = {each.pair.target for each in copies}
        for row in self._target.fetch_all(queries.list_sequences):
            table, column = row["table"], row["column"]
            if table in copied:
                largest = f"SELECT max({quote_identifier(column)}) FROM {quote_identifier(table)}"
                last = max(self._target.fetch_value(largest) or 0, given.get((table, column)) or 0)
                if last:
                    self._target.fetch_all(queries.raise_sequence, {"sequence": row["sequence"], "last": last})

    def _number_rowids(self, copies: list[TableCopy]) -> None:
        """Have SQLite go on behind the last rowid that the source ever gave, which may be of a row that is gone."""
        queries = load_queries("persistence", "sqlite")
        if not self._source.fetch_value(queries.has_sequences):
            return
        with self._target.transaction():
            for each in copies:
                last = self._source.fetch_value(queries.read_sequence, {"table": each.pair.target})
                if last is not None:
                    values = {"table": each.pair.target, "last": last}
                    self._target.execute(queries.raise_sequence, values)
                    self._target.execute(queries.begin_sequence, values)


class RowReader:
    """Reads the rows of a table behind a key, on one side, in batches that hold about as many bytes."""

    def __init__(
        self, database: Database, copied: TableCopy, last: tuple[Any, ...] | None, most: int, shown: bool
    ) -> None:
        self._database = database
        self._copied = copied
        self._last = last
        self._most = most
        self._shown = shown
        self._size = min(50, most)
        self._left: Iterator[Row] = iter(())

    def batch(self) -> list[Row]:
        """Return the next rows, none at the end."""
        parameters = {} if self._last is None else self._copied.key_values(self._last, shown=self._shown)
        text = self._copied.select(shown=self._shown, after=self._last is not None)
        rows = self._database.fetch_all(text, {**parameters, "size": self._size})
        if rows:
            self._last = self._copied.key_of(rows[-1])
            size = BATCH_BYTES * len(rows) // sum(map(_bytes_of, rows))
            self._size = max(1, min(self._most, 4 * self._size, size))
        return rows

    def row(self) -> Row | None:
        """Return the next row, None at the end."""
        row = next(self._left, None)
        if row is None:
            self._left = iter(self.batch())
            row = next(self._left, None)
        return row


def _tables(database: Database) -> Tables:
    return tables_from_rows(database.fetch_all(load_queries("persistence", database.kind).list_copy_columns))


def _address(database: Database) -> str:
    """Return what a copy is recorded under: where its source is."""
    if isinstance(database, SQLiteDatabase):
        return f"sqlite:{Path(database.config.path).resolve()}"
    if isinstance(database, PostgreSQLDatabase):
        return f"postgresql:{database.config.address}"
    raise CapabilityError(f"nothing is copied from {database.kind}", connection=database.name)


def _bytes_of(row: Row) -> int:
    return 8 + sum(len(value) if isinstance(value, str | bytes) else 8 for value in row.values())
