"""Deletes all of one tenant: its rows on PostgreSQL or SQLite, all or nothing; its keys on Redis, a page at a time.

Protocol: the rows that writers lock first are locked before any goes, in the order of their keys (a thread before its
messages and its session), so that nothing is added below what goes. Rows go children first: a cascade doesn't count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from persistence._async.copy_rows import SCAN_SECONDS, check_sees_all, copy_tables_of, is_made, read_tables
from persistence._async.database import AsyncDatabase
from persistence._async.executor import AsyncExecutor
from persistence._async.manager import AsyncDatabaseManager, named_connection
from persistence._async.redis import AsyncRedisConnection
from persistence.archives import TENANT
from persistence.archiving import archiving_plan
from persistence.dialect import quote_identifier
from persistence.fields import Duration
from persistence.migrations import shipped_lines
from persistence.queries import load_queries
from persistence.schemas import made_tables
from persistence.tenants import (
    ErasedTable,
    ErasingPlan,
    TenantKeys,
    count_statement,
    delete_statement,
    erasing_plan,
    lock_statement,
)
from persistence.transfers import TablePair
from persistence.validation import check_tenant, check_timeout

PAGE = 1000
"""About how many keys of Redis are looked at, and how many go, at once."""


class AsyncTenantData:
    """What the packages keep of ``tenant`` on a PostgreSQL, SQLite or Redis connection of a manager."""

    @named_connection
    def __init__(self, manager: AsyncDatabaseManager, name: str, *, tenant: str) -> None:
        """No tenant is meant by default."""
        self._manager = manager
        self._name = name
        self._tenant = check_tenant(tenant)
        self._values = {"tenant": self._tenant}
        manager.get(name)

    async def erase_tenant(self, *, dry_run: bool = False, timeout: Duration = SCAN_SECONDS) -> tuple[ErasedTable, ...]:
        """Delete everything of the tenant, and return how many rows of each table that were, where there were any.

        In a database all of it is one transaction, or part of the one that it is called in: all goes or nothing. It
        may take ``timeout`` seconds, during which PostgreSQL has writers of this tenant wait, and SQLite every writer.
        On Redis it isn't: keys go page by page, and after a failure it is called again. What the tenant's programs
        write meanwhile may stay, so end them first. Nothing of other tenants is touched, nor tables of your own, the
        record of migrations and collections, which are everybody's. ``dry_run`` only counts.

        Raises:
            MigrationError: tables aren't up to date, or are newer than this program.
            CapabilityError: row level security hides rows from this role; or documents of the tenant are in a table of
                your own, which is named. Nothing was deleted.
            ForeignKeyError: a row of a table of your own refers to one that would go. Nothing was deleted.
            DeadlineError: it took too long. Nothing was deleted.
        """
        limit = check_timeout("timeout", timeout)
        connection = self._manager.get(self._name)
        if isinstance(connection, AsyncRedisConnection):
            return await self._erase_keys(connection, dry_run)
        await check_sees_all(connection, doing="erase")
        plan = await self._plan(connection)
        if dry_run:
            return await self._count(connection, plan.emptied, limit)
        if not connection.in_transaction:
            return await connection.run_transaction(lambda inner: self._erase(inner, plan, limit), timeout=limit)
        async with connection.transaction(timeout=limit) as inner:
            return await self._erase(inner, plan, limit)

    async def _plan(self, database: AsyncDatabase) -> ErasingPlan:
        """Return which tables are emptied, in which order; those that were never made aren't among them."""
        tables, pairs, heads = await read_tables(database), list[TablePair](), list[tuple[str, str]]()
        for line in shipped_lines():
            if not await is_made(database, line):
                continue
            module = copy_tables_of(line.name)
            names = {*made_tables(line.load(database.kind)), *getattr(module, "made_beside", lambda _: ())(tables)}
            pairs += [
                TablePair(name, line.name, quote_identifier(name), tables[name], name)
                for name in sorted(names)
                if TENANT in tables.get(name, ())
            ]
            heads += [(name, head) for name, (head, _) in archiving_plan(line.name, database.kind).heads.items()]
            if hasattr(module, "check_erasable"):
                await module.check_erasable(database, self._tenant)
        rows = await database.fetch_all(load_queries("persistence", database.kind).list_references)
        return erasing_plan(pairs, heads, [(row["table"], row["target"]) for row in rows])

    async def _count(
        self, database: AsyncDatabase, pairs: Sequence[TablePair], limit: float
    ) -> tuple[ErasedTable, ...]:
        answers = await database.fetch_batch(
            [(count_statement(pair), self._values) for pair in pairs], timeout=limit, prepare=False
        )
        found = [ErasedTable(pair.name, rows[0]["rows"]) for pair, rows in zip(pairs, answers, strict=True)]
        return _in_order_of_names(found)

    async def _erase(self, inner: AsyncExecutor, plan: ErasingPlan, limit: float) -> tuple[ErasedTable, ...]:
        if inner.kind == "postgresql":
            for pair in plan.locked:
                await inner.fetch_value(lock_statement(pair), self._values, timeout=limit, prepare=False)
        for package in {pair.package for pair in plan.emptied}:
            module = copy_tables_of(package)
            if hasattr(module, "erase_beside"):
                await module.erase_beside(self._manager.get_database(self._name), self._tenant)
        found = []
        for pair in plan.emptied:
            rows = await inner.execute(delete_statement(pair), self._values, timeout=limit, prepare=False)
            found.append(ErasedTable(pair.name, rows))
        return _in_order_of_names(found)

    async def _erase_keys(self, connection: AsyncRedisConnection, dry_run: bool) -> tuple[ErasedTable, ...]:
        keys, counts, page = TenantKeys(self._tenant), Counter[str](), dict[bytes, str]()
        async for key in connection.client.scan_iter(match=keys.pattern, count=PAGE):
            part = keys.part(key)
            if part is not None:
                page[key] = part
            if len(page) == PAGE:
                counts += await self._take(connection, page, dry_run)
                page = {}
        counts += await self._take(connection, page, dry_run)
        return _in_order_of_names([ErasedTable(part, count) for part, count in counts.items()])

    async def _take(self, connection: AsyncRedisConnection, page: dict[bytes, str], dry_run: bool) -> Counter[str]:
        """Delete keys in one round trip (to each node of a cluster), and return how many of each part there were."""
        if dry_run or not page:
            return Counter(page.values())
        pipe: Any = connection.client.pipeline(transaction=False)
        async with pipe:
            for key in page:
                pipe.execute_command("UNLINK", key)  # its own method is a coroutine on a cluster
            gone = await pipe.execute()
        counts = Counter[str]()
        for part, count in zip(page.values(), gone, strict=True):
            counts[part] += count
        return counts


def _in_order_of_names(found: Sequence[ErasedTable]) -> tuple[ErasedTable, ...]:
    return tuple(sorted((each for each in found if each.rows), key=lambda each: each.name))
