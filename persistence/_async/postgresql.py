"""PostgreSQL through psycopg 3, with a deadline on every wait."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakSet

import psycopg

from persistence._async.compat import Threads, check_home, current_home, in_background
from persistence._async.database import AsyncDatabase
from persistence._async.dialing import AsyncDialer
from persistence._async.executor import NO_HINTS, Hints, Options, Parameters, Row, check_reads
from persistence._async.link import PostgreSQLLink
from persistence._async.pool import AsyncDedicated, AsyncPool
from persistence._async.replicas import AsyncReplica, AsyncReplicas
from persistence.backups import Program, connection_environment, find_program, put_in_order_of_drops
from persistence.capabilities import Capabilities
from persistence.config import PgVectorConfig, PostgreSQLConfig
from persistence.dialect import Statement, compile_statement
from persistence.errors import (
    CapabilityError,
    ClosedError,
    DuplicateError,
    PersistenceError,
    PoolTimeoutError,
    SerializationError,
    UnavailableError,
    ValidationError,
    from_psycopg,
)
from persistence.fields import Duration, milliseconds, seconds, seconds_or_none
from persistence.health import PoolStats
from persistence.queries import load_queries

T = TypeVar("T")


class AsyncPostgreSQLDatabase(AsyncDatabase):
    """A named PostgreSQL server with a pool of connections; made by ``AsyncDatabaseManager.add_postgresql``."""

    config: PostgreSQLConfig

    def __init__(self, name: str, config: PostgreSQLConfig) -> None:
        super().__init__(
            name,
            "postgresql",
            timeout=seconds(config.timeout),
            pool_timeout=seconds(config.pool_timeout),
            slow_threshold=seconds_or_none(config.slow_threshold),
        )
        self.config = config
        self._dialer = AsyncDialer(name, config)
        self._home = current_home()
        self.dedicated: WeakSet[AsyncDedicated] = WeakSet()
        """Who holds a connection outside the pool."""
        self._pool: AsyncPool[PostgreSQLLink] = AsyncPool(
            name,
            self._dialer.connect,
            max_open=config.max_connections,
            max_idle=config.max_idle_connections,
            max_lifetime=seconds(config.conn_max_lifetime),
            max_idle_time=seconds(config.conn_max_idle_time),
            leak_after=seconds_or_none(config.leak_after),
            max_waiting=config.max_waiting,
        )
        self.replicas: AsyncReplicas | None = None
        """Its replicas, which reads may be sent to; None where it was told of none."""
        if config.replicas:
            made = [
                AsyncPostgreSQLDatabase(f"{name}/replica-{number}", each)
                for number, each in enumerate(config.replicas, 1)
                if isinstance(each, PostgreSQLConfig)
            ]
            for each in made:
                each.observers = self.observers  # whoever watches the database sees what its replicas do for it
            self.replicas = AsyncReplicas(self, made)

    async def open(self) -> None:
        """Make the first connection.

        Raises:
            ConnectError: the server can't be reached or refuses us.
        """
        link = await self._acquire(self._pool, self._deadline(self.config.connect_timeout))
        self._pool.release(link)

    async def dial(self, deadline: float) -> PostgreSQLLink:
        """Return a connection outside the pool, which the caller discards; ``deadline`` in monotonic seconds.

        Raises:
            ConnectError: the server can't be reached or refuses us.
            ClosedError: the database was closed.
        """
        check_home(self._home, self.name)
        if self.is_closed:
            raise ClosedError("it was closed", hint="add it to a manager again", connection=self.name)
        return await self._dialer.connect(deadline)

    def _pool_for(self, statement: Statement) -> AsyncPool[Any]:
        return self._pool

    def _transaction_pool(self, options: Options) -> AsyncPool[Any]:
        return self._pool

    def _begin_statements(self, options: Options) -> str:
        begin = "BEGIN"
        if options.isolation:
            begin += f" ISOLATION LEVEL {options.isolation.upper()}"
        if options.read_only:
            begin += " READ ONLY"
        if options.timeout is not None:
            # A client that hangs in the middle must not hold its locks for longer than it said.
            begin += f"; SET LOCAL idle_in_transaction_session_timeout = {milliseconds(options.timeout)}"
        return begin

    async def _run_reading(
        self,
        operation: str,
        sql: str,
        parameters: Parameters | None,
        rows: int | None,
        timeout: Duration | None,
        hints: Hints,
    ) -> tuple[list[Row], int]:
        check_reads(compile_statement(sql, self.kind))
        deadline = self._deadline(timeout)
        return await self._read(
            hints.after,
            deadline,
            lambda database: database._run_apart(
                operation, sql, parameters, rows, max(0.0, deadline - monotonic()), hints
            ),
        )

    async def _run_batch_apart(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], timeout: Duration | None, hints: Hints
    ) -> list[list[Row]]:
        if not hints.read_only or self.replicas is None:
            return await super()._run_batch_apart(calls, timeout, hints)
        deadline, plain = self._deadline(timeout), hints._replace(read_only=False)
        return await self._read(
            hints.after,
            deadline,
            lambda database: database._run_batch_apart(calls, max(0.0, deadline - monotonic()), plain),
        )

    async def _begin(self, options: Options, deadline: float) -> tuple[AsyncPool[Any], Any]:
        # A replica has no serializable transactions.
        if self.replicas is None or not options.read_only or options.isolation == "serializable":
            return await super()._begin(options, deadline)
        return await self._read(
            options.after, deadline, lambda database: AsyncDatabase._begin(database, options, deadline)
        )

    async def _read(self, after: int, deadline: float, call: Callable[[AsyncPostgreSQLDatabase], Awaitable[T]]) -> T:
        """Return what a call that only reads gives on a replica; on the primary, where none can answer."""
        tried: list[AsyncReplica] = []
        while self.replicas is not None:
            self._pool.check_usable()
            replica = await self.replicas.pick(after, deadline, tried)
            if replica is None:
                break
            tried.append(replica)
            try:
                return await call(replica.database)
            except SerializationError:
                continue  # the replica had to end it, for what it replayed removed what it was reading
            except UnavailableError as exc:
                if not isinstance(exc, PoolTimeoutError):
                    self.replicas.note_failure(replica, exc)
                if monotonic() >= deadline:
                    raise
        return await call(self)

    async def _commit(self, link: Any, options: Options, deadline: float) -> str | None:
        if self.replicas is None or options.read_only:
            return await super()._commit(link, options, deadline)
        told: str | None = await link.commit_and_tell(_QUERIES.read_position, deadline)
        return told

    async def position(self) -> str:
        """Return a token of all that is committed by now: a read with it as ``after=`` sees that, from a replica too.

        It is text such as ``16/B374D848``, to be kept where the user's next request finds it.

        Raises:
            QueryError: this connection leads to a replica.
        """
        rows, _ = await self._run_apart("position", _QUERIES.read_position, None, 1, None, NO_HINTS)
        found: str = rows[0]["position"]
        return found

    @property
    def load(self) -> int:
        """How many connections are in use or waited for."""
        return self._pool.load

    def replica_stats(self) -> dict[str, PoolStats]:
        """Return the state of each replica's pool by name: ``<connection>/replica-1`` and so on."""
        return {} if self.replicas is None else self.replicas.stats()

    def _translate(self, exc: Exception, operation: str) -> PersistenceError | None:
        if isinstance(exc, psycopg.Error):
            return from_psycopg(exc, operation=operation, connection=self.name)
        if isinstance(exc, UnicodeError | OverflowError):
            return ValidationError(f"not storable: {exc}", operation=operation, connection=self.name)
        return None

    async def capabilities(self, *, refresh: bool = False) -> Capabilities:
        """Return what the live server can do; asked on the first connection, or again with ``refresh``."""
        known = self._dialer.capabilities
        if known is not None and not refresh:
            return known
        link = await self._acquire(self._pool, self._deadline(None))
        try:
            link.raw.deadline = self._deadline(None)
            found = await self._dialer.probe(link.raw)
            link.adopt(self._dialer.adapters)
        except BaseException as exc:
            self._pool.release(link, broken=True)
            self._reraise(exc, "capabilities", self._pool)
        self._pool.release(link)
        return found

    async def ping(self, *, timeout: Duration | None = None) -> None:
        """Make one round trip to the server.

        Raises:
            UnavailableError: it can't be used now, with the reason.
        """
        await self._run_apart("ping", "SELECT 1", None, 1, timeout, NO_HINTS)

    async def _dump(self, path: Path, timeout: float) -> None:
        await self._run_program("pg_dump", ["--format=custom", f"--file={path}"], timeout)

    async def _load(self, path: Path, timeout: float) -> None:
        how = ["--clean", "--if-exists", "--single-transaction", "--exit-on-error", "--no-owner"]
        with tempfile.NamedTemporaryFile("r+", encoding="utf-8") as listing:
            await self._run_program("pg_restore", ["--list", f"--file={listing.name}", str(path)], timeout)
            await in_background(lambda: put_in_order_of_drops(Path(listing.name)))
            how += [f"--use-list={listing.name}", f"--dbname={self.config.database}"]
            await self._run_program("pg_restore", [*how, str(path)], timeout)

    async def _run_program(self, name: str, arguments: list[str], timeout: float) -> None:
        major = (await self.capabilities()).server_version[0]
        path = await in_background(lambda: find_program(name, major))
        environment = connection_environment(self.config.connection_parameters())
        program = Program([path, "--no-password", *arguments], environment)
        threads = Threads(1, f"holdfast-{name}")
        try:
            await threads.run(program.stop, program.run, timeout)
        finally:
            threads.close()

    @property
    def server_version(self) -> str | None:
        """The server's version, None before the first connection."""
        known = self._dialer.capabilities
        return None if known is None else known.version_text

    def stats(self) -> PoolStats:
        """Return the state of the pool."""
        return replace(self._pool.stats(), dedicated=len(self.dedicated))

    async def aclose(self) -> None:
        """Close every connection; calls under way fail with ClosedError. Safe to call twice."""
        self._pool.close()
        for each in list(self.dedicated):
            await each.cut_off()
        if self.replicas is not None:
            await self.replicas.aclose()

    async def ensure_vector(self, *, create: bool = True) -> None:
        """Create the extension of vectors where it is missing; with ``create=False`` only look.

        In a transaction it is made with what that commits; one that it was refused in can go on.

        Raises:
            CapabilityError: it is missing and can't, or shouldn't, be created.
        """
        if (await self.capabilities()).vector is not None:
            return
        if create:
            try:
                async with self.transaction():
                    await self.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except DuplicateError:
                pass  # another program created it at the same moment
            except ClosedError:
                raise
            except PersistenceError as exc:
                raise self._no_vector() from exc
        elif await self.fetch_value(_QUERIES.find_vector) is None:  # nor did anybody make it since the first connection
            raise self._no_vector()
        if not self.in_transaction:  # which may still roll it back, and may hold the pool's only connection
            await self.capabilities(refresh=True)

    def _no_vector(self) -> CapabilityError:
        return CapabilityError(
            f"the database {self.config.database!r} has no pgvector extension",
            hint="as a superuser run: CREATE EXTENSION vector",
            connection=self.name,
        )


class AsyncPgVectorDatabase(AsyncPostgreSQLDatabase):
    """A named PostgreSQL server with pgvector; numpy arrays are sent and read as its ``vector``, in binary."""

    config: PgVectorConfig

    async def open(self) -> None:
        """Make the first connection, and the extension where it is missing.

        Raises:
            ConnectError: the server can't be reached or refuses us.
            CapabilityError: it has no pgvector, and the extension can't be created.
        """
        await super().open()
        await self.ensure_vector(create=self.config.create_extension)

    async def ping(self, *, timeout: Duration | None = None) -> None:
        """Make one round trip that finds the extension.

        Raises:
            UnavailableError: the server can't be used now, with the reason.
            CapabilityError: the extension is missing.
        """
        if not (await self._run_apart("ping", _QUERIES.find_vector, None, 1, timeout, NO_HINTS))[0]:
            raise self._no_vector()


_QUERIES = load_queries("persistence", "postgresql")
