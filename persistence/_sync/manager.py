# Generated from ../_async/manager.py by tests/unasync.py: edit that one.
"""The central registry of named connections."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from time import monotonic
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from persistence._sync.compat import Mutex, Parallel, in_background
from persistence._sync.database import Database
from persistence._sync.postgresql import PgVectorDatabase, PostgreSQLDatabase
from persistence._sync.redis import RedisConnection
from persistence._sync.redis_cluster import RedisClusterConnection
from persistence._sync.replicas import Replica, Replicas
from persistence._sync.sqlite import SQLiteDatabase
from persistence.config import Config, PgVectorConfig, PostgreSQLConfig, RedisConfig, SQLiteConfig
from persistence.embedded import EmbeddedPostgreSQL, EmbeddedRedis, from_url
from persistence.errors import (
    ClosedError,
    ConfigError,
    DuplicateError,
    PersistenceError,
    UnknownConnectionError,
    WrongKindError,
)
from persistence.fields import Duration
from persistence.health import HealthStatus, PoolStats
from persistence.observing import Listener
from persistence.urls import unknown_scheme
from persistence.validation import check_timeout, wrong_manager

Connection = Database | RedisConnection
Server = EmbeddedPostgreSQL | EmbeddedRedis
K = TypeVar("K")
P = ParamSpec("P")
S = TypeVar("S", bound=Config)

SCHEMES = (
    *PostgreSQLConfig.schemes,
    *RedisConfig.schemes,
    *SQLiteConfig.schemes,
    "embedded+postgresql",
    "embedded+redis",
)
"""Those of the URLs that ``add`` takes."""
HEALTH_SECONDS = 2.0
"""How long a health poll waits for each connection."""


class DatabaseManager:
    """Registers connections by name, hands them out by kind, polls their health and closes them all.

    Adding connects at once, so that a wrong password or a dead server shows where it is configured; ``lazy=True``
    leaves that to the first use. Every method may be called from any task at any time.
    """

    def __init__(self) -> None:
        self.on_statement: list[Listener] = []
        """Who is told of each statement of each connection, as a ``StatementEvent``, when it has ended.

        A listener is called where the statement ran, so it must not block; its own failure is logged, and goes no
        further. While the list is empty nothing is measured.
        """
        self._mutex = Mutex()
        self._connections: dict[str, Connection] = {}
        self._adding: set[str] = set()
        self._servers: dict[str, Server] = {}
        self._parallel = Parallel()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def add_postgresql(
        self, name: str, config: PostgreSQLConfig | str, *, replace: bool = False, lazy: bool = False
    ) -> PostgreSQLDatabase:
        """Register a PostgreSQL server by its settings or a ``postgresql://`` (``embedded+postgresql:///``) URL.

        Raises:
            ConnectError: it can't be reached or refuses us; nothing is registered.
            DuplicateError: the name is taken, and ``replace`` is false. With ``replace`` the old one is closed.
        """
        server, settings = self._read(PostgreSQLConfig, config)
        return self._add(name, PostgreSQLDatabase(name, settings), replace, lazy, server)

    def add_pgvector(
        self, name: str, config: PgVectorConfig | str, *, replace: bool = False, lazy: bool = False, **options: Any
    ) -> PgVectorDatabase:
        """Register a PostgreSQL server with pgvector; ``options`` refine it (``dimensions=384``).

        Raises:
            CapabilityError: it has no pgvector, and the extension can't be created.
            ConnectError, DuplicateError: as ``add_postgresql``.
        """
        server, settings = self._read(PgVectorConfig, config, **options)
        return self._add(name, PgVectorDatabase(name, settings), replace, lazy, server)

    def add_redis(
        self, name: str, config: RedisConfig | str, *, replace: bool = False, lazy: bool = False
    ) -> RedisConnection:
        """Register a Redis server by its settings or a ``redis://`` (``embedded+redis:///``) URL.

        Raises:
            ConnectError, DuplicateError: as ``add_postgresql``.
        """
        server, settings = self._read(RedisConfig, config)
        kind = RedisClusterConnection if settings.cluster else RedisConnection
        return self._add(name, kind(name, settings), replace, lazy, server)

    def add_sqlite(
        self, name: str, config: SQLiteConfig | str, *, replace: bool = False, lazy: bool = False
    ) -> SQLiteDatabase:
        """Register a SQLite file by its settings or URL: ``sqlite:///relative.db``, ``sqlite://`` for memory.

        Raises:
            ConnectError, DuplicateError: as ``add_postgresql``.
        """
        _, settings = self._read(SQLiteConfig, config)
        return self._add(name, SQLiteDatabase(name, settings), replace, lazy, None)

    def add(self, name: str, url: str, *, replace: bool = False, lazy: bool = False) -> Connection:
        """Register whatever the URL's scheme names: PostgreSQL, Redis or SQLite."""
        if not isinstance(url, str):
            raise _wrong_config(url, "URL", "add_postgresql, add_redis and so on take a configuration")
        if "://" not in url:
            raise ConfigError("the URL has no scheme", hint="sqlite:///file.db, postgresql://…, redis://…")
        given = url.partition("://")[0]
        scheme = given.removeprefix("embedded+")
        if scheme in PostgreSQLConfig.schemes:
            return self.add_postgresql(name, url, replace=replace, lazy=lazy)
        if scheme in RedisConfig.schemes:
            return self.add_redis(name, url, replace=replace, lazy=lazy)
        if scheme in SQLiteConfig.schemes:
            return self.add_sqlite(name, url, replace=replace, lazy=lazy)
        raise unknown_scheme(given, SCHEMES)

    def _read(self, kind: type[S], given: S | str, **options: Any) -> tuple[Server | None, S]:
        """Return the settings that a URL or a configuration gives, and the server that was started for them."""
        if not isinstance(given, str):
            if not isinstance(given, kind):
                raise _wrong_config(given, kind.__name__, f"or give a URL, {kind.schemes[0]}://…")
            return None, dataclasses.replace(given, **options) if options else given
        if not given.startswith("embedded+"):
            return None, kind.from_url(given, **options)
        server = from_url(given)
        starts = PostgreSQLConfig if isinstance(server, EmbeddedPostgreSQL) else RedisConfig
        if not issubclass(kind, starts):
            raise ConfigError(f"the URL starts a {type(server).__name__}, which is no {kind.__name__}")
        in_background(server.start)
        try:
            made: Any = server
            return server, made.pgvector_config(**options) if kind is PgVectorConfig else made.config(**options)
        except BaseException:
            in_background(server.stop)
            raise

    def _add(self, name: str, made: K, replace: bool, lazy: bool, server: Server | None) -> K:
        connection: Any = made
        connection.observers.listeners = self.on_statement
        try:
            self._reserve(name, replace)
            try:
                if not lazy:
                    connection.open()
                with self._mutex:
                    self._check_open()
                    old = self._connections.get(name)
                    old_server = self._servers.pop(name, None)
                    self._connections[name] = connection
                    if server is not None:
                        self._servers[name] = server
            finally:
                with self._mutex:
                    self._adding.discard(name)
        except BaseException:
            connection.close()
            if server is not None:
                in_background(server.stop)
            raise
        if old is not None:
            old.close()
        if old_server is not None:
            in_background(old_server.stop)
        return made

    def _reserve(self, name: str, replace: bool) -> None:
        given: object = name
        if not isinstance(given, str) or not 0 < len(given) <= 200:
            raise ConfigError("a connection's name is a text of 1 to 200 characters")
        with self._mutex:
            self._check_open()
            if name in self._adding or (name in self._connections and not replace):
                raise DuplicateError(f"the name {name!r} is taken", hint="remove() it first, or pass replace=True")
            self._adding.add(name)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the manager was closed", hint="make a new one")

    def get(self, name: str) -> Connection:
        """Return the connection of that name, of whatever kind.

        Raises:
            UnknownConnectionError: there is none.
            ClosedError: the manager was closed.
        """
        found = self._connections.get(name)
        if found is None:
            self._check_open()
            given: object = name
            names = ", ".join(sorted(self._connections)) or "none"
            what = "the name of a connection is missing" if given is None else f"no connection is named {given!r}"
            raise UnknownConnectionError(what, hint=f"there are: {names}")
        return found

    def _get(self, name: str, wanted: type[K]) -> K:
        found = self.get(name)
        if not isinstance(found, wanted):
            label = wanted.__name__.removeprefix("Async")
            raise WrongKindError(
                f"{name!r} is a {found.kind} connection, not a {label}", hint="see names() for what each one is"
            )
        return found

    def get_database(self, name: str) -> Database:
        """Return the SQL database of that name: PostgreSQL, pgvector or SQLite. Raises as ``get_postgresql``."""
        return self._get(name, Database)  # type: ignore[type-abstract]

    def get_postgresql(self, name: str) -> PostgreSQLDatabase:
        """Return the PostgreSQL server of that name (one with pgvector is one too).

        Raises:
            UnknownConnectionError: there is none.
            WrongKindError: it is of another kind.
            ClosedError: the manager was closed.
        """
        return self._get(name, PostgreSQLDatabase)

    def get_pgvector(self, name: str) -> PgVectorDatabase:
        """Return the pgvector server of that name. Raises as ``get_postgresql``."""
        return self._get(name, PgVectorDatabase)

    def get_redis(self, name: str) -> RedisConnection:
        """Return the Redis server of that name. Raises as ``get_postgresql``."""
        return self._get(name, RedisConnection)

    def get_sqlite(self, name: str) -> SQLiteDatabase:
        """Return the SQLite database of that name. Raises as ``get_postgresql``."""
        return self._get(name, SQLiteDatabase)

    def names(self) -> dict[str, str]:
        """Return the kind of each connection by name, in the order of registration."""
        with self._mutex:
            return {name: _kind(connection) for name, connection in self._connections.items()}

    def remove(self, name: str) -> None:
        """Close and forget a connection.

        Raises:
            UnknownConnectionError: there is none of that name.
        """
        with self._mutex:
            connection = self.get(name)
            del self._connections[name]
            server = self._servers.pop(name, None)
        connection.close()
        if server is not None:
            in_background(server.stop)

    def health_check(self, *, timeout: Duration = HEALTH_SECONDS) -> dict[str, HealthStatus]:
        """Poll every connection at the same time and return its status by name, in the order of registration.

        Each poll ends within ``timeout`` seconds, so the whole takes as long as the slowest. It never raises for a
        server that is ill: that is a status which is false and says why.
        """
        with self._mutex:
            self._check_open()
            connections = list(self._connections.items())
        limit = check_timeout("timeout", timeout)
        polls: list[_Poll | _ReplicaPoll] = []
        for name, connection in connections:
            polls.append(_Poll(name, connection, limit))
            replicas = connection.replicas if isinstance(connection, PostgreSQLDatabase) else None
            polls += [_ReplicaPoll(replicas, each, limit) for each in replicas.all] if replicas else []
        statuses = self._parallel.run([poll.run for poll in polls]) if polls else []
        found: dict[str, HealthStatus] = {}
        for poll, status in zip(polls, statuses, strict=True):
            if isinstance(poll, _Poll):
                current = found[status.name] = status
            else:
                current = found[current.name] = dataclasses.replace(current, replicas=(*current.replicas, status))
        return found

    def stats(self) -> dict[str, PoolStats]:
        """Return the state of each connection's pool by name."""
        with self._mutex:
            self._check_open()
            connections = list(self._connections.items())
        return {name: connection.stats() for name, connection in connections}

    def close(self) -> None:
        """Close every connection and stop every server started by a URL; safe to call twice.

        Calls under way fail with ClosedError.
        """
        with self._mutex:
            self._closed = True
            connections, servers = list(self._connections.values()), list(self._servers.values())
            self._connections.clear()
            self._servers.clear()
        for connection in connections:
            connection.close()
        for server in servers:
            in_background(server.stop)
        self._parallel.close()


def _wrong_config(given: object, wanted: str, way_out: str) -> ConfigError:
    return ConfigError(f"a {type(given).__name__} is no {wanted}", hint=way_out)


class _Poll:
    """One connection's health poll."""

    def __init__(self, name: str, connection: Connection, limit: float) -> None:
        self.name = name
        self.connection = connection
        self.limit = limit

    def run(self) -> HealthStatus:
        started = monotonic()
        error = None
        try:
            self.connection.ping(timeout=self.limit)
            if isinstance(self.connection, PostgreSQLDatabase) and self.connection.replicas:
                self.connection.replicas.note_primary(self.limit - (monotonic() - started))
        except PersistenceError as exc:
            error = exc.message if exc.hint is None else f"{exc.message} ({exc.hint})"
        return HealthStatus(
            name=self.name,
            kind=_kind(self.connection),
            healthy=error is None,
            latency=monotonic() - started,
            checked_at=datetime.now(UTC),
            error=error,
            server_version=self.connection.server_version,
            pool=self.connection.stats(),
        )


class _ReplicaPoll:
    """One replica's health poll; reads profit from what it sees."""

    def __init__(self, replicas: Replicas, replica: Replica, limit: float) -> None:
        self.replicas = replicas
        self.replica = replica
        self.limit = limit

    def run(self) -> HealthStatus:
        return self.replicas.health(self.replica, self.limit)


def _kind(connection: Connection) -> str:
    return "pgvector" if isinstance(connection, PgVectorDatabase) else connection.kind


def check_manager(manager: object) -> None:
    """See that a store is given a manager of its own side.

    Raises:
        WrongKindError: it is something else.
    """
    if not isinstance(manager, DatabaseManager):
        raise wrong_manager(manager, DatabaseManager.__name__)


def named_connection(init: Callable[P, None]) -> Callable[P, None]:
    """Have the ``__init__`` of a store, which takes a manager and a name, refuse what is no manager of its side.

    Where it has no name, it says which there are: Python would name the parameter, and a class that its caller may
    never have heard of.
    """

    @wraps(init)
    def checked(*given: P.args, **options: P.kwargs) -> None:
        if len(given) > 1 or "manager" in options:
            manager: Any = given[1] if len(given) > 1 else options["manager"]
            check_manager(manager)
            if len(given) == 2 and "name" not in options:
                manager.get(None)
        init(*given, **options)

    return checked
