# Generated from ../_async/examination.py by tests/unasync.py: edit that one.
"""Asks each connection of a manager for what :mod:`persistence.doctor` judges."""

from __future__ import annotations

from collections.abc import Iterable

from persistence._sync.database import Database
from persistence._sync.manager import DatabaseManager, check_manager
from persistence._sync.migrator import Migrator
from persistence._sync.postgresql import PostgreSQLDatabase
from persistence._sync.redis import RedisConnection
from persistence._sync.sqlite import SQLiteDatabase
from persistence.doctor import (
    LONG_TRANSACTION_SECONDS,
    Finding,
    Rule,
    index_rules,
    postgresql_rules,
    redis_rules,
    sqlite_rules,
    table_rules,
    transaction_rules,
)
from persistence.errors import NO_RIGHT, PersistenceError, QueryError, ReadOnlyError
from persistence.migrations import MigrationLine
from persistence.queries import load_queries


def examine(manager: DatabaseManager, lines: Iterable[MigrationLine] = ()) -> list[Finding]:
    """Return what deserves a look, by connection in the order of registration; nothing is changed.

    Of each database the server's settings, open transactions, tables and indexes are looked at, and how far the
    migration lines are that were applied there. A connection that can't be examined is a problem of its own.
    """
    check_manager(manager)
    found: list[Finding] = []
    lines = list(lines)
    for name in manager.names():
        connection = manager.get(name)
        try:
            if isinstance(connection, RedisConnection):
                rules = _redis(connection)
            else:
                rules = _database(connection, lines)
        except PersistenceError as exc:
            rules = [("problem", f"it can't be examined: {exc.message}", exc.hint or "see the message")]
        found += [Finding(name, *rule) for rule in rules]
    return found


def _database(database: Database, lines: list[MigrationLine]) -> list[Rule]:
    rules: list[Rule] = []
    if isinstance(database, PostgreSQLDatabase):
        rules += _postgresql(database)
    elif isinstance(database, SQLiteDatabase):
        rules += _sqlite(database)
    migrator, applied = Migrator(database), list[MigrationLine]()
    for line in lines:
        status = migrator.status(line)
        if status.current and status.pending:
            rules.append(
                ("advice", f"{len(status.pending)} migrations of {line.name} are pending", "holdfast migrate up")
            )
        if status.begun:
            rules.append(
                ("problem", f"{status.begun} was begun and has not ended", "holdfast migrate up runs it again")
            )
        if status.current:
            applied.append(line)
    return rules + _differences(migrator, applied)


def _differences(migrator: Migrator, lines: list[MigrationLine]) -> list[Rule]:
    """Compare tables with what their migrations make, which takes a role that may make a schema, on no replica."""
    try:
        differences = [each for line in lines for each in migrator.validate(line)]
    except (QueryError, ReadOnlyError) as exc:
        if isinstance(exc, QueryError) and exc.code != NO_RIGHT:
            raise
        way_out = "holdfast migrate validate as the tables' owner, on the primary"
        return [("advice", f"its tables can't be compared with their migrations: {exc.message}", way_out)]
    return [("problem", str(each), "holdfast migrate validate") for each in differences]


def _postgresql(database: PostgreSQLDatabase) -> list[Rule]:
    queries = load_queries("persistence", "postgresql")
    settings, server, transactions, tables, indexes = database.fetch_batch(
        [
            (queries.list_settings, None),
            (queries.examine_server, None),
            (queries.list_long_transactions, {"seconds": LONG_TRANSACTION_SECONDS}),
            (queries.list_table_health, None),
            (queries.list_invalid_indexes, None),
        ]
    )
    values = {row["name"]: row["value"] for row in settings}
    return [
        *postgresql_rules(values, server[0], database.stats().max_open),
        *transaction_rules(transactions),
        *table_rules(tables),
        *index_rules(indexes),
    ]


def _sqlite(database: SQLiteDatabase) -> list[Rule]:
    names = ("journal_mode", "synchronous", "freelist_count", "page_count")
    pragmas = {name: database.fetch_value(f"SELECT * FROM pragma_{name}()") for name in names}
    # A file's synchronous is the connection's own; writers use the configured one.
    pragmas["synchronous"] = {"OFF": 0, "NORMAL": 1, "FULL": 2, "EXTRA": 3}[database.config.synchronous]
    checked = [str(next(iter(row.values()))) for row in database.fetch_all("SELECT * FROM pragma_quick_check(3)")]
    return list(sqlite_rules(pragmas, checked, in_memory=database.config.path == ":memory:"))


def _redis(connection: RedisConnection) -> list[Rule]:
    info = connection.client.info()
    try:
        settings: dict[str, str] = {}
        for name in ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync"):
            settings[name] = str((connection.client.config_get(name)).get(name))
    except PersistenceError as exc:
        return [("advice", f"its settings can't be read: {exc.message}", "allow CONFIG GET, or ask who runs it")]
    return list(redis_rules(info, settings))
