"""Everything of one tenant, or of one user of it, into one file and out of it again, whichever database it is in.

Protocol: an archive is read from its source in one transaction, so it is of one moment. It is looked through to its end
before anything is written, and written in one transaction, which commits once the counts are right: nothing is ever
half imported. Rows are held a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from persistence._async.compat import in_background
from persistence._async.copy_rows import (
    AsyncRowReader,
    bring_up,
    check_fits,
    check_sees_all,
    compare,
    copy_tables_of,
    is_made,
    read_tables,
    table_copies,
)
from persistence._async.database import AsyncDatabase
from persistence._async.migrator import AsyncMigrator
from persistence._async.redis import AsyncRedisConnection
from persistence._async.restoring import AsyncArchivedRows, AsyncRestoring
from persistence._async.sqlite import AsyncSQLiteDatabase
from persistence._async.transaction import AsyncTransaction
from persistence.archives import (
    TENANT,
    ArchivedTable,
    ArchiveHeader,
    ArchiveReader,
    ArchiveTable,
    ArchiveWriter,
    Survey,
    no_archive,
    survey,
)
from persistence.archiving import archiving_plan, choice, of_rows, restoring_plan
from persistence.config import SQLiteConfig
from persistence.copied_columns import Route
from persistence.copy_planning import CopyPlan
from persistence.dialect import quote_identifier
from persistence.errors import ConflictError, CorruptError, MigrationError
from persistence.migrations import MigrationLine, shipped_lines
from persistence.schemas import made_tables
from persistence.transfers import (
    BATCH_ROWS,
    MOST_DIFFERENCES,
    CopyDifference,
    CopyProgress,
    TableCopy,
    TablePair,
    Tables,
)
from persistence.validation import check_id, check_tenant

Progress = Callable[[CopyProgress], object]


class AsyncTenantArchive:
    """What the packages keep of ``tenant`` in a PostgreSQL or SQLite database, as one file.

    An archive comes from either and goes into either. What lies on Redis is not in it.
    """

    def __init__(self, database: AsyncDatabase, *, tenant: str = "default") -> None:
        """Raise CapabilityError for a Redis connection."""
        given: object = database
        if isinstance(given, AsyncRedisConnection):
            raise no_archive(given.name)
        self._database = database
        self._tenant = check_tenant(tenant)
        self._lines = {line.name: line for line in shipped_lines()}

    async def export(
        self, path: str | Path, *, user: str | None = None, progress: Progress | None = None
    ) -> tuple[ArchivedTable, ...]:
        """Write everything of the tenant, or what is of one user, to a new file that its owner alone can read.

        It is compressed under a name that ends in ``.zst``, and has its name once it is whole. A user's are their
        sessions, threads with messages, items, and the nodes, events, tasks, checkpointed threads and documents that
        have the id as ``user_id``. Writers go on meanwhile: it is of one moment.

        Raises:
            ValidationError: the file is there already or can't be written.
            MigrationError: the tables aren't up to date.
            CapabilityError: row level security hides rows; or something has no form in a SQLite file.
        """
        if user is not None:
            check_id("user", user)
        await check_sees_all(self._database)
        lines = [line for line in self._lines.values() if await is_made(self._database, line)]
        numbers = {line.name: len(line.load("sqlite")) for line in lines}
        header = ArchiveHeader(self._tenant, user, numbers, datetime.now(UTC).isoformat())
        writer = await in_background(lambda: ArchiveWriter(path, header))
        try:
            async with self._snapshot():
                copies = await self._archived(lines, user)
                found = [await self._export_table(each, writer, user, progress) for each in copies]
            await in_background(writer.finish)
        finally:
            await in_background(writer.close)
        return tuple(each for each in found if each.rows)

    def _snapshot(self) -> AsyncTransaction:
        if self._database.kind == "sqlite":
            return self._database.transaction(read_only=True)
        return self._database.transaction(isolation="repeatable read")  # not read_only: a replica may lag

    async def _archived(self, lines: Sequence[MigrationLine], user: str | None) -> list[TableCopy]:
        """Return how each table of a tenant is read."""
        kind = self._database.kind
        plans = {line.name: archiving_plan(line.name, kind) for line in lines}
        tables, pairs = await read_tables(self._database), list[TablePair]()
        for line in lines:
            plan = plans[line.name]
            names = made_tables(line.load(kind)) & tables.keys() - plan.left_out
            pairs += [TablePair(name, line.name, quote_identifier(name), tables[name], name) for name in sorted(names)]
            pairs += await self._further(line.name, tables)
        route: Route = (kind, "sqlite")
        copies: list[TableCopy] = []
        for copied in await _as_in_a_file(lines, pairs, route, plans):
            chosen = choice(plans[copied.pair.package], copied.pair.target, kind, user)
            if chosen is not None:
                if kind == "postgresql":
                    await check_fits(self._database, copied.pair, plans[copied.pair.package], chosen, self._given(user))
                copies.append(of_rows(copied, chosen, plans[copied.pair.package], kind, user))
        return [*copies, *(each.second_pass() for each in copies if each.links)]

    def _given(self, user: str | None) -> dict[str, Any]:
        return {"tenant": self._tenant} if user is None else {"tenant": self._tenant, "user": user}

    async def _further(self, package: str, tables: Tables) -> list[TablePair]:
        module = copy_tables_of(package)
        found: list[TablePair] = (
            [] if module is None else await module.archived_tables(self._database, tables, self._tenant)
        )
        return found

    async def _export_table(
        self, copied: TableCopy, writer: ArchiveWriter, user: str | None, progress: Progress | None
    ) -> ArchivedTable:
        chosen = [
            each for each in copied.columns if each.name != TENANT and (copied.second or each.name not in copied.links)
        ]
        pair, count = copied.pair, 0
        table = ArchiveTable(pair.target, pair.package, tuple(each.name for each in chosen), pair.made, copied.second)
        reader = AsyncRowReader(self._database, copied, given=self._given(user))
        while batch := await reader.batch():
            rows = [[each.make(row) for each in chosen] for row in batch]
            if not count:
                await in_background(lambda: writer.begin(table))
            await in_background(lambda rows=rows: writer.add(rows))  # type: ignore[misc]
            count += len(batch)
            if progress is not None:
                progress(CopyProgress(table.counted, count, False))
        return ArchivedTable(table.counted, count)

    async def import_(
        self,
        path: str | Path,
        *,
        merge: bool = False,
        without_bound: bool = False,
        progress: Progress | None = None,
    ) -> tuple[ArchivedTable, ...]:
        """Store what an archive holds as this tenant's, all or nothing, and return what was written, by table.

        The tables are made or brought up to date first. The tenant holds nothing before; with ``merge``, and always for
        an archive of one user, it may: what is there is left as it is, a thread, an item or a node as a whole.
        ``without_bound`` leaves out, where the archive is another tenant's, its secrets and audit entries.

        Raises:
            CorruptError: the file is no archive, is torn or was edited. Nothing was written.
            ConflictError: the tenant holds rows already; or the archive is of another tenant and holds what is sealed
                or chained for that one.
            MigrationError: it has tables or columns that this program doesn't know.
        """
        found = await in_background(lambda: self._look_through(path, without_bound))
        database, merge = self._database, merge or found.header.user is not None
        await check_sees_all(database)
        for name in found.packages:
            await bring_up(database, self._lines[name])
        async with database.transaction():
            if not merge:
                await self._check_empty()
            restored = AsyncRestoring(database, self._tenant, merge=merge, moves=found.header.tenant != self._tenant)
            with ArchiveReader(path) as reader:
                while (given := await in_background(reader.batch)) is not None:
                    await restored.write(*given)
                    if progress is not None:
                        progress(CopyProgress(given[0].counted, restored.rows[given[0].counted], False))
            if reader.digest != found.digest:
                raise CorruptError(f"{path} was changed while it was read", hint="import it again")
            await restored.finish()
        return restored.report()

    async def verify(self, path: str | Path, *, without_bound: bool = False) -> tuple[CopyDifference, ...]:
        """Read every row of an archive and what is stored, and return how they differ, at most 100; changes nothing.

        Raises:
            CorruptError, ConflictError: as ``import_``.
            MigrationError: the tables aren't there, or aren't up to date.
            NotFoundError: a collection isn't there.
        """
        found = await in_background(lambda: self._look_through(path, without_bound))
        for name in found.packages:
            if not await is_made(self._database, self._lines[name]):
                raise MigrationError(
                    f"there are no tables of {name}", hint="import the file first", connection=self._database.name
                )
        moves = found.header.tenant != self._tenant
        restored = AsyncRestoring(self._database, self._tenant, merge=True, moves=moves)
        differences: list[CopyDifference] = []
        with ArchiveReader(path) as reader:
            rows = AsyncArchivedRows(reader, self._tenant, restored.stay)
            while (table := await rows.next_table()) is not None and len(differences) < MOST_DIFFERENCES:
                copied = await restored.copy_of(table, make=False)
                plan = restoring_plan(table.package, self._database.kind)
                chosen = choice(plan, table.name, self._database.kind, found.header.user) or "true"
                copied = of_rows(copied, chosen, plan, self._database.kind, found.header.user)
                given = self._given(found.header.user)
                theirs = AsyncRowReader(self._database, copied, shown=True, given=given)
                async for _ in compare(copied, rows, theirs, differences, every=BATCH_ROWS):
                    pass
        return tuple(differences)

    def _look_through(self, path: str | Path, without_bound: bool) -> Survey:
        """Read a file to its end, and refuse what can't be imported."""
        plans = {name: restoring_plan(name, self._database.kind) for name in self._lines}
        found = survey(
            path,
            self._tenant,
            lambda table: plans.get(table.package, CopyPlan()).bound.get(table.name),
            without_bound=without_bound,
        )
        for name in found.packages:
            known = self._lines.get(name)
            if known is None:
                raise MigrationError(f"{path} holds rows of {name[:80]!r}, which is not installed", hint="install it")
            number = found.header.lines.get(name, 0)
            if number > len(known.load("sqlite")):
                raise MigrationError(
                    f"{path} has {name} as its migration {number} leaves it, which this program doesn't know",
                    hint="update this program",
                )
        return found

    async def _check_empty(self) -> None:
        tables = await read_tables(self._database)
        for line in self._lines.values():
            for name in sorted(made_tables(line.load(self._database.kind)) & tables.keys()):
                if TENANT in tables[name]:
                    await self._check_holds_none(name)
            for name in getattr(copy_tables_of(line.name), "made_beside", lambda _: ())(tables):
                await self._check_holds_none(name)

    async def _check_holds_none(self, table: str) -> None:
        text = f"SELECT 1 FROM {quote_identifier(table)} WHERE {TENANT} = :tenant LIMIT 1"
        if await self._database.fetch_all(text, {"tenant": self._tenant}):
            raise ConflictError(
                f"the tenant {self._tenant!r} has rows in {table} already",
                hint="import as another tenant; or merge, which leaves alone what is there",
                connection=self._database.name,
            )


async def _as_in_a_file(
    lines: Sequence[MigrationLine], pairs: Sequence[TablePair], route: Route, plans: Mapping[str, CopyPlan]
) -> list[TableCopy]:
    """Return how tables become rows of a SQLite file: one in memory tells what its tables are."""
    database = AsyncSQLiteDatabase("archive", SQLiteConfig(path=":memory:"))
    try:
        for line in lines:
            await AsyncMigrator(database).up(line)
        return await table_copies(database, pairs, route, plans.__getitem__)
    finally:
        await database.aclose()
