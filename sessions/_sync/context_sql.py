# Generated from ../_async/context_sql.py by tests/unasync.py: edit that one.
"""The shared context on PostgreSQL and SQLite: each call one statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, TypeVar

from persistence import Database, DatabaseManager, SQLStore, MigrationLine, Row
from persistence.dialect import Dialect, compile_statement, from_json, from_micros
from persistence.errors import CapabilityError, CorruptError
from persistence.queries import load_queries
from sessions.contents import decoded
from sessions.context import (
    NAMESPACE,
    ContextAgent,
    ContextItem,
    ContextStats,
    Draft,
    Refused,
    Restored,
    agent_of,
)

R = TypeVar("R")

_PROTECT = (
    "context_drop_item_policy",
    "context_drop_agent_policy",
    "context_create_item_policy",
    "context_create_agent_policy",
    "context_protect_items",
    "context_protect_agents",
)
_UNPROTECT = ("context_unprotect_items", "context_unprotect_agents", *_PROTECT[:2])


class SQLContext(SQLStore):
    """Keeps contexts in the tables of this package.

    ``row_security`` tells PostgreSQL in each call whose rows it may see, in a transaction with the statement.
    """

    line = MigrationLine.of_package("sessions")

    def __init__(
        self, manager: DatabaseManager, name: str, *, tenant: str, migrate: bool, row_security: bool
    ) -> None:
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self._row_security = row_security
        if row_security and manager.get_database(name).kind != "postgresql":
            raise _no_row_security(name)

    def _prepared(
        self, database: Database, name: str, user: str | None, values: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """Return a statement and its parameters, those of every statement where it names them."""
        sql: str = getattr(load_queries("sessions", database.kind), name)
        common = {"tenant": self._tenant, "user_id": user, "namespace": NAMESPACE, "now": datetime.now(UTC)}
        names = compile_statement(sql, database.kind).names
        return sql, {**{key: value for key, value in common.items() if key in names}, **values}

    def _within(self, user: str, work: Callable[[Database], R]) -> R:
        """Return what ``work(database)`` does, the server told whose rows it may see where that is asked for."""
        database = self._database()
        if not self._row_security:
            return work(database)
        with database.transaction():
            database.fetch_one(*self._prepared(database, "context_scope_to", user, {}))
            return work(database)

    def _rows(self, name: str, user: str, values: dict[str, Any]) -> list[Row]:
        return self._within(user, lambda found: found.fetch_all(*self._prepared(found, name, user, values)))

    def _change(self, name: str, user: str, values: dict[str, Any]) -> int:
        return self._within(user, lambda found: found.execute(*self._prepared(found, name, user, values)))

    def _all(self, build: Callable[[Row, Dialect], R], name: str, user: str, values: dict[str, Any]) -> list[R]:
        dialect = self._manager.get_database(self._name).dialect
        return [build(row, dialect) for row in self._rows(name, user, values)]

    def push(self, user: str, draft: Draft, agent: str | None, expected: int | None) -> ContextItem | Refused:
        """Upsert; a version above 0 is compared by an UPDATE, which can't make an item that is gone."""
        name = "context_replace" if expected else "context_push"
        found = self._all(_item, name, user, {**draft._asdict(), "agent": agent, "expected": expected})
        if found:
            return found[0]
        there = self.get(user, draft.key, None)
        rules = None if agent is None else self.agent(user, agent)
        denied = None if rules is None or rules.may_post(draft.topics) else rules.permissions
        return Refused(0 if there is None else there.version, denied)

    def get(self, user: str, key: str, agent: str | None) -> ContextItem | None:
        """Probe the primary key."""
        found = self._all(_item, "context_get", user, {"key": key, "agent": agent})
        return found[0] if found else None

    def items(self, user: str, agent: str | None, topic: str | None, after: str, limit: int) -> list[ContextItem]:
        """Walk the primary key."""
        values = {"agent": agent, "topic": topic, "after": after, "limit": limit}
        return self._all(_item, "list_context_items", user, values)

    def delete(self, user: str, key: str) -> bool:
        """Delete by the primary key."""
        rows = self._rows("context_delete", user, {"key": key})
        return bool(rows and rows[0]["was_there"])

    def set_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Upsert."""
        return self._topics_after("context_set_topics", user, agent, topics)

    def add_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Upsert."""
        return self._topics_after("context_add_topics", user, agent, topics)

    def remove_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Update."""
        return self._topics_after("context_remove_topics", user, agent, topics)

    def _topics_after(self, name: str, user: str, agent: str, topics: list[str]) -> list[str]:
        rows = self._rows(name, user, {"agent": agent, "topics": topics})
        return list(from_json(rows[0]["topics"])) if rows else []

    def set_permissions(self, user: str, agent: str, permissions: list[str] | None) -> None:
        """Upsert."""
        self._change("context_set_permissions", user, {"agent": agent, "permissions": permissions})

    def agent(self, user: str, agent: str) -> ContextAgent | None:
        """Probe the primary key."""
        found = self._all(_agent, "context_agent", user, {"agent": agent})
        return found[0] if found else None

    def agents(self, user: str, topic: str | None, after: str, limit: int) -> list[ContextAgent]:
        """Walk the primary key."""
        values = {"topic": topic, "after": after, "limit": limit}
        return self._all(_agent, "list_context_agents", user, values)

    def topics(self, user: str, after: str, limit: int) -> list[str]:
        """Gather and sort."""
        rows = self._rows("list_context_topics", user, {"after": after, "limit": limit})
        return [row["topic"] for row in rows]

    def delete_topic(self, user: str, topic: str) -> int:
        """Delete and update in one statement on PostgreSQL, in three of one transaction on SQLite."""
        followers = ("context_drop_item_topic", "context_drop_agent_topic")
        return self._count_gone("context_delete_topic", followers, user, {"topic": topic})

    def clear(self, user: str) -> int:
        """Delete in one statement on PostgreSQL, in two of one transaction on SQLite."""
        return self._count_gone("context_clear", ("context_clear_agents",), user, {})

    def _count_gone(self, name: str, followers: Sequence[str], user: str, values: dict[str, Any]) -> int:
        """Return how many items that were there a statement removed; SQLite needs others to follow it."""
        database = self._database()
        if database.kind == "postgresql":
            return int((self._rows(name, user, values))[0]["count"])
        with database.transaction():
            rows = self._rows(name, user, values)
            for follower in followers:
                self._change(follower, user, values)
        return sum(bool(row["was_there"]) for row in rows)

    def delete_expired(self, user: str | None, limit: int) -> int:
        """Delete a batch."""
        if user is not None:
            return self._change("context_delete_expired", user, {"limit": limit})
        database = self._database()
        if database.kind == "postgresql" and database.fetch_value(
            load_queries("sessions", "postgresql").context_is_hidden
        ):
            raise CapabilityError(
                "row-level security hides the items of other users from this role",
                hint="clean up as the owner of the tables, or for one user after another: for_user(…)",
                operation="cleanup_expired",
                connection=self._name,
            )
        return database.execute(*self._prepared(database, "item_delete_expired", None, {"limit": limit}))

    def restore(self, user: str, found: Sequence[Restored | ContextAgent]) -> None:
        """Write all or nothing, in the order of the keys: two that write the same then wait for each other one way."""
        items = [_imported(restored) for restored in found if isinstance(restored, Restored)]
        items.sort(key=itemgetter("key"))  # of two of a key the later one still counts
        agents = [asdict(entry) for entry in found if isinstance(entry, ContextAgent)]
        agents.sort(key=itemgetter("agent"))
        database = self._database()
        with database.transaction():
            for name, rows in (("context_import", items), ("context_import_agent", agents)):
                prepared = [self._prepared(database, name, user, row) for row in rows]
                if prepared:
                    self._write_many(user, prepared[0][0], [values for _, values in prepared])

    def _write_many(self, user: str, sql: str, rows: Sequence[dict[str, Any]]) -> None:
        self._within(user, lambda found: found.execute_many(sql, rows))

    def stats(self, user: str) -> ContextStats:
        """Count one user's rows."""
        rows = self._rows("context_stats", user, {})
        return ContextStats(**{name: int(count) for name, count in rows[0].items()})

    def protect(self, on: bool) -> None:
        """Create or drop the policies, all or none."""
        database = self._database()
        if database.kind != "postgresql":
            raise _no_row_security(self._name)
        queries = load_queries("sessions", database.kind)
        with database.transaction():
            for name in _PROTECT if on else _UNPROTECT:
                database.execute(getattr(queries, name))


def _no_row_security(name: str) -> CapabilityError:
    return CapabilityError(
        "only PostgreSQL has row-level security", hint="the store itself isolates users everywhere", connection=name
    )


def _imported(restored: Restored) -> dict[str, Any]:
    return {
        **restored.draft._asdict(),
        "created_at": from_micros(restored.created),
        "expires_at": None if restored.expires is None else from_micros(restored.expires),
    }


def _item(row: Row, dialect: Dialect) -> ContextItem:
    created, updated = dialect.moment(row["created_at"]), dialect.moment(row["updated_at"])
    if created is None or updated is None:
        raise CorruptError("a row without its time", hint="was it written by other means?")
    ttl = row["ttl_micros"]
    return ContextItem(
        key=row["key"],
        value=decoded(row["value"]),
        subscribers=from_json(row["subscribers"]),
        topics=from_json(row["topics"]),
        version=row["version"],
        ttl=None if ttl is None else timedelta(microseconds=ttl),
        expires_at=dialect.moment(row["expires_at"]),
        created_at=created,
        updated_at=updated,
    )


def _agent(row: Row, dialect: Dialect) -> ContextAgent:
    return agent_of(row["agent"], from_json(row["topics"]), from_json(row["permissions"]))
