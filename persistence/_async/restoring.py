"""Rows of an archive on their way into a database, and beside what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from persistence._async.compat import in_background
from persistence._async.copy_rows import (
    SCAN_SECONDS,
    copy_tables_of,
    number_rows,
    read_tables,
    triggers_on,
    write_batch,
)
from persistence._async.database import AsyncDatabase
from persistence._async.executor import Row
from persistence.archives import TENANT, ArchivedTable, ArchiveReader, ArchiveTable
from persistence.archiving import restoring_plan
from persistence.copied_columns import Column, Route
from persistence.copy_planning import CopyPlan
from persistence.dialect import quote_identifier
from persistence.errors import CorruptError, MigrationError
from persistence.migrations import MigrationLine
from persistence.queries import load_queries
from persistence.schemas import made_tables
from persistence.transfers import TableCopy, TablePair, Tables, table_copy, with_links


class AsyncRestoring:
    """Rows of an archive on their way into a database, within one transaction."""

    def __init__(self, database: AsyncDatabase, tenant: str, *, merge: bool, moves: bool) -> None:
        self.left_out: Counter[str] = Counter()
        self._moves = moves
        self.rows: dict[str, int] = {}
        self.kept: dict[str, int] = {}
        self._database = database
        self._tenant = tenant
        self._merge = merge
        self._tables: Tables | None = None
        self._links: list[tuple[str, str]] = []
        self._current: tuple[ArchiveTable, TableCopy, list[Row]] | None = None
        self._places: list[tuple[TableCopy, ArchiveTable]] = []
        # The heads that were there before, by table: what belongs to them is left alone too.
        self._left: dict[str, set[tuple[Any, ...]]] = {}

    async def write(self, table: ArchiveTable, batch: list[Row]) -> None:
        """Write rows of a table; what belongs to something that was there before is left out."""
        plan = restoring_plan(table.package, self._database.kind)
        if self._current is None or self._current[0] is not table:
            copied = await self.copy_of(table)
            self._current = (table, copied, await triggers_on(self._database, copied))
            self._places.append((copied, table))
            self.rows.setdefault(table.counted, 0)
            self.kept.setdefault(table.counted, 0)
        _, copied, triggers = self._current
        self.left_out[table.counted] += len(batch)
        batch = self.stay(table, batch)
        self.left_out[table.counted] -= len(batch)
        new = [row for row in ({TENANT: self._tenant, **row} for row in batch) if not self._is_left(copied, row, plan)]
        heads = {head for head, _ in plan.heads.values()}
        is_head = self._merge and not table.second and (table.name in heads or bool(copied.links))
        there: list[Row] | None = [] if is_head else None
        async with self._database.transaction() as transaction:
            written = await write_batch(transaction, copied, new, triggers, merge=self._merge, there=there)
        if there:
            self._left.setdefault(table.name, set()).update(map(copied.key_of, there))
        self.rows[table.counted] += len(batch)
        self.kept[table.counted] += len(batch) - written

    def stay(self, table: ArchiveTable, batch: list[Row]) -> list[Row]:
        """Return the rows without those that are true of the tenant alone which they were."""
        ties = restoring_plan(table.package, self._database.kind).bound.get(table.name) if self._moves else None
        return batch if ties is None else [row for row in batch if not ties.holds(row)]

    def report(self) -> tuple[ArchivedTable, ...]:
        """Return what was written, by table."""
        return tuple(
            ArchivedTable(name, rows, self.kept[name], self.left_out[name]) for name, rows in self.rows.items()
        )

    def _is_left(self, copied: TableCopy, row: Row, plan: CopyPlan) -> bool:
        """Tell whether a row belongs to something that was there already."""
        name = copied.pair.target
        if copied.second:
            return copied.key_of(row) in self._left.get(name, ())
        head, columns = plan.heads.get(name, ("", {}))
        return head in self._left and (self._tenant, *map(row.get, columns)) in self._left[head]

    async def copy_of(self, table: ArchiveTable, *, make: bool = True) -> TableCopy:
        """Return how a table of an archive is written and read again; ``make``: what its package makes beside others.

        Raises:
            MigrationError: this program doesn't know the table, or a column of it.
        """
        database, package = self._database, table.package
        plan, columns = restoring_plan(package, database.kind), {TENANT: Column(TENANT, "text")}
        columns |= {name: Column(name, "") for name in table.columns}
        if self._tables is None or table.made is not None:
            self._tables = await read_tables(database)
            rows = await database.fetch_all(load_queries("persistence", database.kind).list_references)
            self._links = [(row["table"], row["column"]) for row in rows if row["table"] == row["target"]]
        if table.made is not None and (module := copy_tables_of(package)) is not None:
            pair: TablePair = await module.restored_table(database, table.made, columns, make=make)
            self._tables = await read_tables(database)
        else:
            self._check_known(table)
            pair = TablePair(table.name, package, quote_identifier(table.name), columns, table.name)
        route: Route = ("sqlite", database.kind)
        copied = table_copy(pair, self._tables[pair.target], plan, route, older=True)
        links = tuple(name for own, name in self._links if own == pair.target and name not in copied.key)
        copied = with_links(copied, links)
        return copied.second_pass() if table.second else copied

    def _check_known(self, table: ArchiveTable) -> None:
        line = MigrationLine.of_package(table.package)
        known = made_tables(line.load("sqlite")) & made_tables(line.load(self._database.kind))
        if table.name not in known or TENANT not in (self._tables or {}).get(table.name, {}):
            raise MigrationError(
                f"the archive has a table {table.name[:80]!r}, which this program doesn't know",
                hint="update this program",
                connection=self._database.name,
            )

    async def finish(self) -> None:
        """Have the server number on, and make sure that as many rows are there as were written.

        Raises:
            CorruptError: there are fewer, or more.
        """
        if self._database.kind == "postgresql":
            await number_rows(self._database, {copied.pair.target for copied, _ in self._places}, {})
        if self._merge:
            return
        found: dict[str, int] = {}
        for copied, table in self._places:
            if not table.second:
                text = f"SELECT count(*) FROM {copied.pair.read_again} AS copied WHERE copied.{TENANT} = :tenant"
                count = await self._database.fetch_value(text, {"tenant": self._tenant}, timeout=SCAN_SECONDS)
                found[table.counted] = found.get(table.counted, 0) + count
        wrong = [name for name, count in found.items() if count != self.rows[name]]
        if wrong:
            raise CorruptError(
                f"{wrong[0]} has {found[wrong[0]]} rows of the tenant, and {self.rows[wrong[0]]} were written",
                hint="let nobody else write as this tenant meanwhile",
                connection=self._database.name,
            )


class AsyncArchivedRows:
    """The rows of an archive one after the other, a table at a time, as those of a tenant."""

    def __init__(
        self, reader: ArchiveReader, tenant: str, stay: Callable[[ArchiveTable, list[Row]], list[Row]]
    ) -> None:
        self._stay = stay
        self._reader = reader
        self._tenant = tenant
        self._table: ArchiveTable | None = None
        self._rows: list[Row] = []
        self._next: tuple[ArchiveTable, list[Row]] | None = None
        self._is_over = False

    async def next_table(self) -> ArchiveTable | None:
        """Go on to the next table; None: there is none."""
        while self._table is not None and await self.row() is not None:
            pass
        if self._next is None and not self._is_over:
            self._next = await in_background(self._reader.batch)
        if self._next is None:
            return None
        self._table, self._rows = self._next[0], self._stay(*self._next)[::-1]
        self._next = None
        return self._table

    async def row(self) -> Row | None:
        """Return the next row of the table, None at its end."""
        while not self._rows and self._next is None and not self._is_over:
            found = await in_background(self._reader.batch)
            if found is None:
                self._is_over = True
            elif found[0] is self._table:
                self._rows = self._stay(*found)[::-1]
            else:
                self._next = found
        return {TENANT: self._tenant, **self._rows.pop()} if self._rows else None
