"""Applies migration lines: one lock, one transaction a migration, its record in the same transaction."""

from __future__ import annotations

from persistence._async.database import AsyncDatabase
from persistence._async.transaction import AsyncTransaction
from persistence.errors import LockTimeoutError, MigrationError, PersistenceError
from persistence.fields import Duration, seconds
from persistence.migrations import Migration, MigrationLine, pending
from persistence.queries import load_queries

LOCK_SECONDS = 60.0
"""How long to wait for another program that is migrating."""

STATEMENT_SECONDS = 3600.0
"""How long one statement of a migration may take."""


class AsyncMigrator:
    """Brings a database up to date with migration lines.

    Each migration runs in a transaction of its own, which takes the lock (``pg_advisory_xact_lock``, or SQLite's write
    lock), looks again what was applied, and records what it does; so several programs may start at once, and one that
    is killed leaves whole migrations behind.
    """

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._queries = load_queries("persistence", database.kind)

    async def pending(self, line: MigrationLine) -> tuple[Migration, ...]:
        """Return what ``up`` would apply, in order; changes nothing."""
        return pending(line.name, line.load(self._database.kind), await self._applied(line))

    async def up(self, line: MigrationLine, *, lock_timeout: Duration = LOCK_SECONDS) -> tuple[Migration, ...]:
        """Apply everything that is missing and return it.

        Raises:
            MigrationError: an applied migration was edited or is unknown here, or one failed; those before it stay.
            LockTimeoutError: another program kept migrating for longer than ``lock_timeout`` seconds.
        """
        done: list[Migration] = []
        while await self.pending(line):
            async with self._database.transaction() as transaction:
                await self._lock(transaction, seconds(lock_timeout))
                await transaction.execute(self._queries.create_migrations)
                missing = pending(line.name, line.load(self._database.kind), await self._applied(line))
                if missing:
                    await self._apply(transaction, missing[0])
                    done.append(missing[0])
        return tuple(done)

    async def ensure(self, line: MigrationLine) -> None:
        """Apply what is missing, once for each database and line; then free of cost."""
        if line.name not in self._database.migrated:
            await self.up(line)
            if not self._database.in_transaction:  # a transaction may still roll the tables back
                self._database.migrated.add(line.name)

    async def check(self, line: MigrationLine) -> None:
        """Do nothing when the line is up to date.

        Raises:
            MigrationError: something is missing; the message names it.
        """
        if line.name not in self._database.migrated:
            missing = await self.pending(line)
            if missing:
                raise MigrationError(
                    f"{', '.join(map(str, missing))} was not applied yet",
                    hint="apply it with a Migrator, or let the store do so with migrate=True",
                    connection=self._database.name,
                )
            self._database.migrated.add(line.name)

    async def _applied(self, line: MigrationLine) -> dict[int, tuple[str, str]]:
        """Return (name, checksum) by number; nothing when not even the table exists."""
        if not await self._database.fetch_value(self._queries.has_migrations):
            return {}
        rows = await self._database.fetch_all(self._queries.list_applied, {"line": line.name})
        return {row["number"]: (row["name"], row["checksum"]) for row in rows}

    async def _lock(self, transaction: AsyncTransaction, limit: float) -> None:
        if self._database.kind == "sqlite":
            return  # BEGIN IMMEDIATE has taken the write lock, within busy_timeout
        await transaction.execute(self._queries.limit_lock_wait, {"limit": f"{int(limit * 1000)}"})
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

    async def _apply(self, transaction: AsyncTransaction, migration: Migration) -> None:
        for statement in migration.up:
            try:
                await transaction.script(statement, timeout=STATEMENT_SECONDS)
            except PersistenceError as exc:
                raise MigrationError(f"{migration}: {exc.message}", code=exc.code, connection=exc.connection) from exc
        await transaction.execute(
            self._queries.record_migration,
            {
                "line": migration.line,
                "number": migration.number,
                "name": migration.name,
                "checksum": migration.checksum,
            },
        )
