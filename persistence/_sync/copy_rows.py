# Generated from ../_async/copy_rows.py by tests/unasync.py: edit that one.
"""Rows on their way between databases: read in the order of their key, written a batch at a time, compared in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from secrets import randbits
from typing import Any, Protocol

from persistence._sync.database import Database
from persistence._sync.executor import Row
from persistence._sync.migrator import Migrator
from persistence._sync.transaction import Transaction
from persistence.copied_columns import Route
from persistence.copy_planning import CopyPlan
from persistence.dialect import quote_identifier
from persistence.errors import CapabilityError, MigrationError
from persistence.migrations import MigrationLine
from persistence.queries import load_queries
from persistence.transfers import (
    BATCH_BYTES,
    BATCH_ROWS,
    MOST_DIFFERENCES,
    CopyDifference,
    TableCopy,
    TablePair,
    Tables,
    in_order,
    table_copy,
    tables_from_rows,
    wanted,
    with_links,
)

SCAN_SECONDS = 3600.0
"""How long a statement may take that looks through a table."""


def read_tables(database: Database) -> Tables:
    """Return the columns of each table of a database, as a copy must know them."""
    return tables_from_rows(database.fetch_all(load_queries("persistence", database.kind).list_copy_columns))


def check_sees_all(*databases: Database, doing: str = "copy") -> None:
    """Refuse a role from which row level security hides rows: they would be left out, and nobody would know."""
    for database in databases:
        if database.kind == "postgresql":
            rows = database.fetch_all(load_queries("persistence", "postgresql").list_guarded)
            if rows:
                raise CapabilityError(
                    f"row level security hides rows of {', '.join(row['name'] for row in rows)}",
                    hint=f"{doing} as the tables' owner, or as a role with BYPASSRLS",
                    connection=database.name,
                )


def is_made(source: Database, line: MigrationLine) -> bool:
    """Tell whether a database has the tables of a line.

    Raises:
        MigrationError: it has them, and they aren't up to date, or are newer than this program knows.
    """
    status = Migrator(source).status(line)
    if status.current and status.pending:
        raise MigrationError(
            f"{', '.join(map(str, status.pending))} is pending",
            hint="holdfast migrate up",
            connection=source.name,
        )
    return status.current > 0


def bring_up(target: Database, line: MigrationLine) -> None:
    """Bring the tables of a line up to date, and first what they need and don't make themselves."""
    module = copy_tables_of(line.name)
    if Migrator(target).pending(line) and hasattr(module, "prepare"):
        module.prepare(target)
    Migrator(target).up(line)


def copy_tables_of(package: str) -> Any:
    """Return a package's module for the tables that it makes beside those of its migrations; None: it has none."""
    module = f"{package}._sync.copy_tables"
    return None if find_spec(package) is None or find_spec(module) is None else import_module(module)


def check_fits(
    source: Database,
    pair: TablePair,
    plan: CopyPlan,
    chosen: str | None = None,
    given: Mapping[str, Any] | None = None,
) -> None:
    """Refuse what PostgreSQL holds and a SQLite file can't, among the rows that ``chosen`` is true of."""
    statement = pair.unfit(plan, chosen)
    values = {} if statement is None else wanted(statement, source.kind, given or {})
    row = None if statement is None else source.fetch_one(statement, values, timeout=SCAN_SECONDS)
    if row is not None:
        raise CapabilityError(
            f"{pair.name} {row['key']}: {row['column']} is NaN or infinite, which a SQLite file can't hold",
            hint="change that row, or leave its package out of the copy",
            connection=source.name,
        )


def table_copies(
    target: Database, pairs: Sequence[TablePair], route: Route, plans: Callable[[str], CopyPlan]
) -> list[TableCopy]:
    """Return how tables are copied, each behind those that it refers to; ``plans`` gives that of a package.

    Raises:
        MigrationError: the target lacks one of them, or no plan says what becomes of a column.
    """
    tables = read_tables(target)
    rows = target.fetch_all(load_queries("persistence", target.kind).list_references)
    references = [(row["table"], row["target"], row["column"]) for row in rows]
    heads = [
        (table, head)
        for package in {pair.package for pair in pairs}
        for table, (head, _) in plans(package).heads.items()
    ]
    copies = []
    for pair in in_order(pairs, [*heads, *(each[:2] for each in references)]):
        if pair.target not in tables:
            raise MigrationError(
                f"the target has no table {pair.target}",
                hint=f"{pair.package}/copy_plans.py says what becomes of it, or holdfast copy makes it",
                connection=target.name,
            )
        copied = table_copy(pair, tables[pair.target], plans(pair.package), route)
        own = [column for table, other, column in references if table == other == pair.target]
        copies.append(with_links(copied, tuple(column for column in own if column not in copied.key)))
    return copies


def triggers_on(target: Database, copied: TableCopy) -> list[Row]:
    """Return the triggers that must not run while rows are written: they would write what is copied itself."""
    if target.kind != "sqlite":
        return []
    rows = target.fetch_all(load_queries("persistence", "sqlite").list_triggers)
    return [
        row
        for row in rows
        if row["table"] == copied.pair.target and not row["fills_virtual"] and row["name"] not in copied.triggers
    ]


def write_batch(
    transaction: Transaction,
    copied: TableCopy,
    batch: Sequence[Row],
    triggers: list[Row],
    *,
    merge: bool,
    there: list[Row] | None = None,
) -> int:
    """Write a batch, without the triggers, and return how many rows were new; ``there`` gets those that were not."""
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
    numbers = _numbers(transaction, copied, len(batch))
    text, rows = copied.write(merge=merge), map(copied.parameters, batch, numbers)
    if there is None:
        written = transaction.execute_many(text, rows)
    else:
        there += [row for row, each in zip(batch, rows, strict=True) if not transaction.execute(text, each)]
        written = len(batch) - len(there)
    if copied.after is not None:
        transaction.execute_many(copied.after, map(copied.values_after, batch, numbers))
    for trigger in triggers:
        transaction.script(trigger["definition"])
    return written


def _numbers(transaction: Transaction, copied: TableCopy, count: int) -> Sequence[int | None]:
    """Return the number of each row of a batch, None where the table's writer gives none."""
    if copied.pair.numbered is None:
        return [None] * count
    first = transaction.fetch_value(copied.pair.numbered.last) + 1 + randbits(copied.pair.numbered.gap)
    return range(first, first + count)


class Rows(Protocol):
    """Rows one after the other, in the order of their key."""

    def row(self) -> Row | None:
        """Return the next row, None at the end."""


def compare(
    copied: TableCopy, ours: Rows, theirs: Rows, found: list[CopyDifference], *, every: int
) -> Iterator[int]:
    """Append how the rows differ, and yield now and then how many were compared."""
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
        if rows % every == 0:
            yield rows
    yield rows


def number_rows(
    target: Database, tables: Iterable[str], given: Mapping[tuple[str, str], int | None]
) -> None:
    """Have the server number on behind the largest number of each column, and behind the last ones that are given."""
    queries, copied = load_queries("persistence", "postgresql"), {*tables}
    for row in target.fetch_all(queries.list_sequences):
        table, column = row["table"], row["column"]
        if table in copied:
            largest = f"SELECT max({quote_identifier(column)}) FROM {quote_identifier(table)}"
            last = max(target.fetch_value(largest) or 0, given.get((table, column)) or 0)
            if last:
                target.fetch_all(queries.raise_sequence, {"sequence": row["sequence"], "last": last})


class RowReader:
    """Reads the rows of a table behind a key, on one side, in batches of bounded bytes, or of one row that has more.

    ``given`` are the parameters of the condition that chooses the rows.
    """

    def __init__(
        self,
        database: Database,
        copied: TableCopy,
        *,
        last: tuple[Any, ...] | None = None,
        most: int = BATCH_ROWS,
        shown: bool = False,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self._database = database
        self._copied = copied
        self._last = last
        self._most = most
        self._shown = shown
        self._given = given or {}
        self._left: Iterator[Row] = iter(())

    def batch(self) -> list[Row]:
        """Return the next rows, none at the end."""
        parameters = {} if self._last is None else self._copied.key_values(self._last, shown=self._shown)
        after, size = self._last is not None, self._most
        measured = self._copied.measure(shown=self._shown, after=after)
        if measured is not None:
            values = {**parameters, "size": size, "bytes": BATCH_BYTES}
            size = max(
                1, self._database.fetch_value(measured, self._with(measured, values), timeout=SCAN_SECONDS)
            )
        text = self._copied.select(shown=self._shown, after=after)
        values = self._with(text, {**parameters, "size": size})
        rows = self._database.fetch_all(text, values, timeout=SCAN_SECONDS)
        if rows:
            self._last = self._copied.key_of(rows[-1])
        return rows

    def _with(self, text: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {**wanted(text, self._database.kind, self._given), **values}

    def row(self) -> Row | None:
        """Return the next row, None at the end."""
        row = next(self._left, None)
        if row is None:
            self._left = iter(self.batch())
            row = next(self._left, None)
        return row
