# Generated from ../_async/transfer.py by tests/unasync.py: edit that one.
"""Copies what the packages keep in one database to another, table by table, so that it can go on after any end.

Protocol: rows are read in the order of their table's key, a batch at a time. A batch and the key that it ended with are
written in one transaction of the target, so whoever goes on repeats nothing and leaves nothing out. The source is only
read. A batch is read as the source is at that moment: who needs a copy of one moment stops the writers first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from persistence import transfers
from persistence._sync.copy_rows import (
    RowReader,
    bring_up,
    check_fits,
    check_sees_all,
    compare,
    copy_tables_of,
    is_made,
    number_rows,
    read_tables,
    table_copies,
    triggers_on,
    write_batch,
)
from persistence._sync.database import Database
from persistence._sync.executor import Row
from persistence._sync.postgresql import PostgreSQLDatabase
from persistence._sync.schema import expected_schema
from persistence._sync.sqlite import SQLiteDatabase
from persistence.copied_columns import Route
from persistence.copy_planning import plan_of
from persistence.dialect import quote_identifier
from persistence.errors import CapabilityError, ConflictError, ValidationError
from persistence.migrations import MigrationLine, shipped_lines
from persistence.queries import load_queries
from persistence.schemas import made_tables
from persistence.transfers import (
    BATCH_ROWS,
    MOST_DIFFERENCES,
    CopiedTable,
    CopyDifference,
    CopyProgress,
    TableCopy,
    TablePair,
    Tables,
)
from persistence.validation import check_whole

_MEMORY = "sqlite::memory:"


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
        if source is target or (self._name == _address(target) and self._name != _MEMORY):
            raise ValidationError(
                f"{source.name} and {target.name} are the same database", hint="copy into another one"
            )

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
            ours = RowReader(self._source, each, most=self._rows)
            theirs = RowReader(self._target, each, most=self._rows, shown=True)
            for rows in compare(each, ours, theirs, found, every=self._rows):
                if progress is not None:
                    progress(CopyProgress(each.name, rows, False))
            if len(found) >= MOST_DIFFERENCES:
                break
            if progress is not None:
                progress(CopyProgress(each.name, rows, True))
        return tuple(found)

    def _pairs(self, *, make: bool) -> list[TablePair]:
        """Return what is copied; ``make``: after the target's tables have been brought up to date."""
        check_sees_all(self._source, self._target)
        tables = read_tables(self._source)
        lines = [line for line in self._lines if is_made(self._source, line)]
        found = [pair for line in lines for pair in self._pairs_of(line, tables, make=False)]
        if self._route == ("postgresql", "sqlite"):
            for pair in found:
                check_fits(self._source, pair, plan_of(pair.package, self._route))
        if not make:
            return found
        for line in lines:
            bring_up(self._target, line)
        return [pair for line in lines for pair in self._pairs_of(line, tables, make=True)]

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

    def _further(self, package: str, tables: Tables, *, make: bool) -> list[TablePair]:
        """Return the tables that a package makes beside those of its migrations."""
        module = copy_tables_of(package)
        if module is None:
            return []
        found: list[TablePair] = module.further_tables(self._source, self._target, tables, make=make)
        return found

    def _copies(self, pairs: list[TablePair]) -> list[TableCopy]:
        return table_copies(self._target, pairs, self._route, lambda package: plan_of(package, self._route))

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
        triggers = triggers_on(self._target, copied)
        reader, is_over = RowReader(self._source, copied, last=last, most=self._rows), False
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
                kept += len(batch) - write_batch(transaction, copied, batch, triggers, merge=merge)
            before, rows = last_key, rows + len(batch)
            if progress is not None:
                progress(CopyProgress(copied.name, rows, not batch))
        return CopiedTable(copied.name, copied.pair.package, rows, kept)

    def _number_rows(self, copies: list[TableCopy]) -> None:
        given = {}
        if self._source.kind == "postgresql":
            rows = self._source.fetch_all(load_queries("persistence", "postgresql").list_sequences)
            given = {(row["table"], row["column"]): row["last"] for row in rows}
        number_rows(self._target, [each.pair.target for each in copies], given)

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


def _address(database: Database) -> str:
    """Return what a copy is recorded under: where its source is."""
    if isinstance(database, SQLiteDatabase):
        path = database.config.path
        return _MEMORY if path == ":memory:" else f"sqlite:{Path(path).resolve()}"
    if isinstance(database, PostgreSQLDatabase):
        return f"postgresql:{database.config.address}"
    raise CapabilityError(f"nothing is copied from {database.kind}", connection=database.name)
