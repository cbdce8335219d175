"""What a database records of the migrations that were applied to it or begun, and the lock that migrators take."""

from __future__ import annotations

from persistence._async.database import AsyncDatabase
from persistence._async.transaction import AsyncTransaction
from persistence.errors import LockTimeoutError
from persistence.fields import milliseconds
from persistence.migrations import AppliedMigration, Migration, MigrationLine, applied_from_row
from persistence.queries import load_queries


class AsyncMigrationRecord:
    """The record of one database; its tables are made with the first migration."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._queries = load_queries("persistence", database.kind)

    async def lock(self, transaction: AsyncTransaction, limit: float) -> None:
        """Take the lock until the transaction ends.

        Raises:
            LockTimeoutError: another program kept it for longer than ``limit`` seconds; the message names it.
        """
        if self._database.kind == "sqlite":
            return  # BEGIN IMMEDIATE has taken the write lock, within busy_timeout
        await transaction.execute(self._queries.limit_lock_wait, {"limit": str(milliseconds(limit))})
        try:
            await transaction.execute(self._queries.lock_migrations, timeout=limit + 5)
        except LockTimeoutError as exc:
            blocker = await self._blocker()
            raise LockTimeoutError(
                f"another program has been migrating for more than {limit:g} s{blocker}",
                hint="wait for it, or end it, and start again",
                connection=self._database.name,
            ) from exc

    async def _blocker(self) -> str:
        """Name who holds the lock, from another connection: this transaction has failed."""
        row = await self._database.fetch_apart(self._queries.find_lock_holder)
        return "" if row is None else f" (pid {row['pid']}, {row['application_name'] or 'unnamed'}, {row['state']})"

    async def create_tables(self, transaction: AsyncTransaction) -> None:
        """Make the tables of the record, unless they are there."""
        await transaction.execute(self._queries.create_migrations)
        await transaction.execute(self._queries.create_begun)

    async def applied(self, line: MigrationLine) -> dict[int, AppliedMigration]:
        """Return what of a line was applied, by number; nothing when not even the table exists."""
        if not await self._is_there():
            return {}
        rows = await self._database.fetch_all(self._queries.list_applied, {"line": line.name})
        return {row["number"]: applied_from_row(row) for row in rows}

    async def history(self, line: MigrationLine, limit: int) -> tuple[AppliedMigration, ...]:
        """Return what of a line was applied, the newest first."""
        if not await self._is_there():
            return ()
        rows = await self._database.fetch_all(self._queries.list_history, {"line": line.name, "limit": limit})
        return tuple(map(applied_from_row, rows))

    async def _is_there(self) -> bool:
        """Tell whether there is a record; once it was seen, each line costs one statement."""
        database = self._database
        if database.has_migrations:
            return True
        found = bool(await database.fetch_value(self._queries.has_migrations))
        database.has_migrations = found and not database.in_transaction  # which may still roll it back
        return found

    async def add(self, transaction: AsyncTransaction, migration: Migration) -> None:
        """Record that a migration was applied."""
        await transaction.execute(
            self._queries.record_migration,
            {**_key(migration), "name": migration.name, "checksum": migration.checksum},
        )

    async def remove(self, transaction: AsyncTransaction, migration: Migration) -> None:
        """Record that a migration was undone."""
        await transaction.execute(self._queries.forget_migration, _key(migration))

    async def begun(self, line: MigrationLine) -> str | None:
        """Return the migration of a line that was begun without a transaction and has not ended, None for none."""
        if not await self._database.fetch_value(self._queries.has_begun):
            return None
        found = await self._database.fetch_one(self._queries.find_begun, {"line": line.name})
        return None if found is None else f"{line.name}/{found['number']:04}_{found['name']}"

    async def add_begun(self, transaction: AsyncTransaction, migration: Migration) -> None:
        """Record that a migration without a transaction begins."""
        await transaction.execute(self._queries.record_begun, {**_key(migration), "name": migration.name})

    async def remove_begun(self, transaction: AsyncTransaction, migration: Migration) -> None:
        """Record that it has ended."""
        await transaction.execute(self._queries.forget_begun, _key(migration))


def _key(migration: Migration) -> dict[str, object]:
    return {"line": migration.line, "number": migration.number}
