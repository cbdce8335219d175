"""Applies and undoes migration lines: one transaction a migration, under one lock, its record in the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from persistence._async.database import AsyncDatabase
from persistence._async.executor import Parameters, Row
from persistence._async.migration_record import AsyncMigrationRecord
from persistence._async.schema import expected_schema, read_schema, run_steps
from persistence._async.transaction import AsyncTransaction
from persistence.dialect import compile_statement
from persistence.errors import MigrationError
from persistence.fields import Duration
from persistence.migrations import (
    AppliedMigration,
    Migration,
    MigrationLine,
    MigrationStatus,
    TriedMigration,
    pending,
    to_apply,
    to_undo,
)
from persistence.schemas import Difference, differences
from persistence.validation import check_limit, check_timeout, check_whole

LOCK_SECONDS = 60.0
"""How long to wait for another program that is migrating."""

STATEMENT_SECONDS = 3600.0
"""How long one statement of a migration may take."""


class AsyncMigrator:
    """Brings a database up to date with migration lines, or back.

    Each migration runs in a transaction of its own, which takes the lock (``pg_advisory_xact_lock``, or SQLite's write
    lock), looks again what was applied, and records what it does; so several programs may start at once, and one that
    is killed leaves whole migrations behind.

    What a file marks ``-- no transaction`` runs statement by statement. PostgreSQL holds the lock meanwhile, on a
    connection of its own; on SQLite, whose lock is the write lock, two programs may run it at once. It is recorded as
    begun before, and when its program dies the next ``up`` runs it from its first statement again.
    """

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._record = AsyncMigrationRecord(database)

    async def pending(self, line: MigrationLine) -> tuple[Migration, ...]:
        """Return what ``up`` would apply, in order; changes nothing."""
        return pending(line.name, self._load(line), await self._record.applied(line))

    async def status(self, line: MigrationLine) -> MigrationStatus:
        """Return how far the database is; changes nothing."""
        known, applied = self._load(line), await self._record.applied(line)
        begun = await self._record.begun(line)
        return MigrationStatus(
            line.name, max(applied, default=0), len(known), pending(line.name, known, applied), begun
        )

    async def history(self, line: MigrationLine, *, limit: int = 100) -> tuple[AppliedMigration, ...]:
        """Return what was applied and not undone, the newest first."""
        check_limit(limit)
        return await self._record.history(line, limit)

    async def up(
        self,
        line: MigrationLine,
        *,
        to: int | None = None,
        lock_timeout: Duration = LOCK_SECONDS,
        backup: str | Path | None = None,
    ) -> tuple[Migration, ...]:
        """Apply everything that is missing, or what is up to number ``to``, and return it.

        With ``backup`` the database is written to that file first, if there is anything to apply.

        Raises:
            MigrationError: an applied migration was edited or is unknown here, or one failed; those before it stay.
            LockTimeoutError: another program kept migrating for longer than ``lock_timeout`` seconds.
            PersistenceError: the backup failed; nothing was applied.
        """

        async def missing() -> tuple[Migration, ...]:
            return to_apply(await self.pending(line), to, len(self._load(line)))

        limit = check_timeout("lock_timeout", lock_timeout)
        return await self._each(missing, lambda migration: self._apply(line, migration, limit), backup)

    async def down(
        self,
        line: MigrationLine,
        *,
        to: int | None = None,
        lock_timeout: Duration = LOCK_SECONDS,
        backup: str | Path | None = None,
    ) -> tuple[Migration, ...]:
        """Undo the last migration, or all above number ``to`` (0: all), the newest first, and return them.

        Each is undone in a transaction of its own; one that fails stays applied, and so do those below it. Nothing is
        undone where one of them has no down part. With ``backup`` the database is written to that file first.

        Raises:
            MigrationError: one can't be undone or failed, or an applied one was edited or is unknown here.
            LockTimeoutError: another program kept migrating for longer than ``lock_timeout`` seconds.
        """
        least = None if to is None else check_whole("to", to, least=0)

        async def chosen() -> tuple[Migration, ...]:
            nonlocal least
            found = await self._to_undo(line, least)
            least = found[-1].number - 1 if found else least
            return found

        limit = check_timeout("lock_timeout", lock_timeout)
        try:
            return await self._each(chosen, lambda migration: self._undo(line, migration, limit), backup)
        finally:
            self._database.migrated.discard(line.name)  # also where only the first ones were undone

    async def _each(
        self,
        due: Callable[[], Awaitable[tuple[Migration, ...]]],
        settle: Callable[[Migration], Awaitable[bool]],
        backup: str | Path | None,
    ) -> tuple[Migration, ...]:
        """Settle the first migration that is due until none is, and return those that no other program did."""
        done: list[Migration] = []
        while found := await due():
            if backup is not None:
                await self._database.back_up(backup)
                backup = None
            if await settle(found[0]):
                done.append(found[0])
        return tuple(done)

    async def dry_run(
        self, line: MigrationLine, *, down: bool = False, to: int | None = None, lock_timeout: Duration = LOCK_SECONDS
    ) -> tuple[TriedMigration, ...]:
        """Run what ``up`` or ``down`` would, in one transaction that is rolled back, and return its statements.

        It takes the locks that the migrations take. A migration without a transaction can't be tried: it and those
        after it are returned with ``tried=False``.

        Raises:
            MigrationError: one failed, as it would then.
            LockTimeoutError: another program kept migrating for longer than ``lock_timeout`` seconds.
        """
        limit = check_timeout("lock_timeout", lock_timeout)
        if down:
            chosen = await self._to_undo(line, to)
        else:
            chosen = to_apply(await self.pending(line), to, len(self._load(line)))
        alone = next((index for index, each in enumerate(chosen) if not each.in_transaction), len(chosen))
        found: list[TriedMigration] = []
        if chosen[:alone]:
            try:
                async with self._database.transaction() as transaction:
                    await self._record.lock(transaction, limit)
                    for migration in chosen[:alone]:
                        statements = await self._run(transaction, migration, down=down)
                        found.append(TriedMigration(migration, tuple(statements), tried=True))
                    raise _Tried
            except _Tried:
                pass
        found += [TriedMigration(each, each.down if down else each.up, tried=False) for each in chosen[alone:]]
        return tuple(found)

    async def adopt(self, line: MigrationLine, number: int, *, lock_timeout: Duration = LOCK_SECONDS) -> None:
        """Record the migrations up to ``number`` as applied without running them: their tables are there already.

        In one transaction, which also compares the tables with what the migrations make.

        Raises:
            MigrationError: the line has applied migrations already, or the tables differ; nothing was recorded.
        """
        known = self._load(line)
        check_whole("number", number, least=1, most=len(known))
        limit = check_timeout("lock_timeout", lock_timeout)
        async with self._database.transaction() as transaction:
            await self._record.lock(transaction, limit)
            await self._record.create_tables(transaction)
            if await self._record.applied(line):
                raise MigrationError(
                    f"line {line.name!r} has applied migrations already", hint="up() goes on from there"
                )
            found = await self._differences(known[:number])
            if found:
                more = f" and {len(found) - 5} more" if len(found) > 5 else ""
                raise MigrationError(
                    f"the tables are not as {known[number - 1]} leaves them: {'; '.join(map(str, found[:5]))}{more}",
                    hint="mend them, or adopt a lower number",
                    connection=self._database.name,
                )
            for migration in known[:number]:
                await self._record.add(transaction, migration)

    async def validate(self, line: MigrationLine) -> tuple[Difference, ...]:
        """Return how the tables differ from what the applied migrations make; nothing where they are the same.

        What they make is found by running them: on PostgreSQL in a schema of its own, in a transaction that is rolled
        back (this needs the right to create a schema), on SQLite in a database in memory. Tables, columns, types,
        defaults, keys and indexes are compared. Tables and indexes that the migrations don't make are yours.

        Raises:
            MigrationError: an applied migration was edited or is unknown here.
        """
        known, applied = self._load(line), await self._record.applied(line)
        pending(line.name, known, applied)
        return await self._differences(known[: max(applied, default=0)])

    async def _differences(self, migrations: tuple[Migration, ...]) -> tuple[Difference, ...]:
        if not migrations:
            return ()
        return differences(await expected_schema(self._database, migrations), await read_schema(self._database))

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
                    hint="holdfast migrate up, or a Migrator, or let the store do so with migrate=True",
                    connection=self._database.name,
                )
            self._database.migrated.add(line.name)

    def _load(self, line: MigrationLine) -> tuple[Migration, ...]:
        return line.load(self._database.kind)

    async def _to_undo(self, line: MigrationLine, to: int | None) -> tuple[Migration, ...]:
        known, applied = self._load(line), await self._record.applied(line)
        pending(line.name, known, applied)
        return to_undo(known, max(applied, default=0), to)

    async def _apply(self, line: MigrationLine, migration: Migration, limit: float) -> bool:
        """Apply the first one that is missing, once the lock is held; False where another program has."""
        if not migration.in_transaction:
            return await self._apply_alone(line, migration, limit)
        async with self._database.transaction() as transaction:
            await self._record.lock(transaction, limit)
            await self._record.create_tables(transaction)
            if not await self._is_next(line, migration):
                return False
            await self._run(transaction, migration)
            await self._record.add(transaction, migration)
        return True

    async def _is_next(self, line: MigrationLine, migration: Migration) -> bool:
        missing = await self.pending(line)
        return bool(missing) and missing[0].number == migration.number

    async def _is_last(self, line: MigrationLine, migration: Migration) -> bool:
        return max(await self._record.applied(line), default=0) == migration.number

    async def _undo(self, line: MigrationLine, migration: Migration, limit: float) -> bool:
        if not migration.in_transaction:
            return await self._undo_alone(line, migration, limit)
        async with self._database.transaction() as transaction:
            await self._record.lock(transaction, limit)
            if not await self._is_last(line, migration):
                return False
            await self._run(transaction, migration, down=True)
            await self._record.remove(transaction, migration)
        return True

    async def _apply_alone(self, line: MigrationLine, migration: Migration, limit: float) -> bool:
        self._check_apart(migration)
        async with self._database.transaction() as transaction:
            await self._record.lock(transaction, limit)
            await self._record.create_tables(transaction)
            await self._record.add_begun(transaction, migration)
        is_due, settle = partial(self._is_next, line, migration), partial(self._record.add, migration=migration)
        return await self._alone(migration, limit, is_due, settle, down=False)

    async def _undo_alone(self, line: MigrationLine, migration: Migration, limit: float) -> bool:
        self._check_apart(migration)
        is_due, settle = partial(self._is_last, line, migration), partial(self._record.remove, migration=migration)
        return await self._alone(migration, limit, is_due, settle, down=True)

    def _check_apart(self, migration: Migration) -> None:
        if self._database.in_transaction:
            raise MigrationError(
                f"{migration} runs without a transaction, and this is in one", hint="migrate outside transactions"
            )

    async def _alone(
        self,
        migration: Migration,
        limit: float,
        is_due: Callable[[], Awaitable[bool]],
        settle: Callable[[AsyncTransaction], Awaitable[None]],
        *,
        down: bool,
    ) -> bool:
        """Run a migration outside transactions, and settle it in one; tell whether it was due."""
        database = self._database
        if database.kind == "sqlite":
            if not await is_due():
                return False
            await self._run(None, migration, down=down)
            async with database.transaction() as transaction:
                due = await is_due()
                if due:
                    await settle(transaction)
                await self._record.remove_begun(transaction, migration)
                return due
        # Read committed: an idle transaction then has no snapshot that CREATE INDEX CONCURRENTLY would wait for.
        async with database.transaction(isolation="read committed") as transaction:
            await self._record.lock(transaction, limit)
            due = await is_due()
            if due:
                # As a script, whose end drops the portal of the statement before, and with it that one's snapshot.
                await transaction.script("SET LOCAL idle_in_transaction_session_timeout = 0")
                await self._run(None, migration, down=down)
                await settle(transaction)
            await self._record.remove_begun(transaction, migration)
            return due

    async def _run(
        self, transaction: AsyncTransaction | None, migration: Migration, *, down: bool = False
    ) -> list[str]:
        """Run the steps of a migration, each outside transactions where there is none, and return their texts."""
        ran: list[str] = []

        async def run(text: str, parameters: Parameters | None) -> list[Row]:
            ran.append(text)
            return await self._step(transaction, text, parameters)

        await run_steps(migration, run, down=down)
        return ran

    async def _step(self, transaction: AsyncTransaction | None, text: str, parameters: Parameters | None) -> list[Row]:
        answers = parameters is not None or compile_statement(text, self._database.kind).reads
        if transaction is None:
            return await self._database.run_apart(text, parameters, answers=answers, timeout=STATEMENT_SECONDS)
        if answers:
            return (await transaction.fetch_batch([(text, parameters)], timeout=STATEMENT_SECONDS))[0]
        await transaction.script(text, timeout=STATEMENT_SECONDS)
        return []


class _Tried(Exception):
    """Ends the transaction of a dry run."""
