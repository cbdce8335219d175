# Generated from ../_async/users.py by tests/unasync.py: edit that one.
"""All that is stored of one user: exported as JSON lines, and erased with a count of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from persistence import Database, DatabaseManager, SecretVault, Row
from persistence._sync.compat import finish
from persistence._sync.manager import named_connection
from persistence.dialect import Dialect, from_json
from persistence.errors import ValidationError
from persistence.validation import check_id
from sessions._sync.context_redis import RedisContext
from sessions._sync.store import SessionsStore
from sessions.context import agent_line, agent_of, context_of
from sessions.messages import message_from_row
from sessions.records import session_from_row, thread_from_row
from sessions.transfer import context_item_line, item_line, message_record, record_line, session_record, thread_record

PAGE = 500
"""How many rows are read at once."""

# A thread goes before its session, and a message before its thread, because a cascade doesn't count.
_ERASED = (
    ("messages", "erase_user_messages"),
    ("threads", "erase_user_threads"),
    ("sessions", "erase_user_sessions"),
    ("items", "erase_user_items"),
    ("agents", "erase_user_agents"),
)


class UserStore(Protocol):
    """A store that keeps something of users, and gives and erases it with the rest of :class:`UserData`."""

    def erase_user(self, user_id: str) -> Mapping[str, int]:
        """Delete everything of a user, within the transaction that it is called in; return how many of each kind."""

    def export_user(self, user_id: str) -> Iterator[str]:
        """Yield everything of a user as JSON lines, each with its ``kind``."""


class UserData(SessionsStore):
    """What is stored of the users of one tenant, on a PostgreSQL, SQLite or Redis connection of a manager.

    A user has sessions, threads, the messages of these, and items: shared context, state and memory. ``stores`` are
    those of yours that keep more of users: checkpointers and vector stores (what has the user's id as ``user_id`` in
    its metadata), services of other frameworks, and any that has the two methods of ``UserStore``. ``secrets`` is
    the vault that keeps those of the users' shared context, where there is one: they are erased, and never exported.
    """

    on_redis = True

    @named_connection
    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        tenant: str = "default",
        migrate: bool = True,
        stores: Sequence[UserStore] = (),
        secrets: SecretVault | None = None,
    ) -> None:
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self._stores = tuple(stores)
        self._secrets = secrets

    def erase_user(
        self, user_id: str, *, also: Mapping[str, Callable[[str], Any]] | None = None
    ) -> dict[str, int]:
        """Delete everything of a user, in all stores, and return how many of each kind there were.

        What belongs to other users stays, but the threads of others in the user's sessions go with these. ``also``
        names what is to be erased elsewhere, by a function that is given the user's id and returns how many it erased.
        Other stores come first, while the user's threads can still be listed. All is one transaction of this
        connection: of what is stored here all or nothing is erased. Stores on other connections commit by themselves;
        after a failure, erase the user again.

        Raises:
            ValidationError: ``user_id`` is no id, or ``also`` names a kind of ours.
        """
        user = check_id("user_id", user_id)
        others = dict(also or {})
        taken = sorted(set(others) & {kind for kind, _ in _ERASED})
        if taken:
            raise ValidationError(f"also names {taken[0]!r}, which this package erases itself")
        counts: Counter[str] = Counter()
        database = self._database()
        with database.transaction():
            for kind, erase in others.items():
                counts[kind] += finish(f"also[{kind!r}]", erase(user))
            for store in self._stores:
                for kind, count in (store.erase_user(user)).items():
                    counts[kind] += count
            if self._secrets is not None:
                counts["secrets"] = 0
                while gone := self._secrets.forget(context_of(user)):
                    counts["secrets"] += gone
            counts.update(self._erase_own(database, user))
        return dict(counts)

    def _erase_own(self, database: Database, user: str) -> dict[str, int]:
        if self._is_on_redis:
            found = database.fetch_one(*self._prepared(database, "erase_user", {"user": user})) or {}
            items, agents = RedisContext(self._manager, self._name, tenant=self._tenant).erase(user)
            return {**found, "items": found["items"] + items, "agents": agents}
        values: dict[str, Any] = {"user": user}
        if database.kind == "postgresql":
            values |= self._locked(database, user)
        counts = {kind: self._change(name, values) for kind, name in _ERASED}
        self._change("erase_user_questions", values)
        return counts

    def _locked(self, database: Database, user: str) -> dict[str, list[str]]:
        """Lock the threads that an erasure changes and return which: SQLite has one writer anyhow."""
        calls = [self._prepared(database, name, {"user": user}) for name in ("name_user", "lock_user_threads")]
        _, threads = database.fetch_batch(calls)
        return {
            "threads": [row["id"] for row in threads if row["goes"]],
            "others": [row["id"] for row in threads if not row["goes"]],
        }

    def export_user(self, user_id: str) -> Iterator[str]:
        """Yield everything of a user as JSON lines, each with its ``kind``: session, thread, message, item or agent.

        A thread is followed by its messages. Agents are those of the shared context. Other stores come last, with
        kinds of their own. What has expired and is still stored comes too. No connection is held between pages.
        """
        user = check_id("user_id", user_id)
        for row, dialect in self._pages("export_user_sessions", {"user": user}, after="", key="id"):
            yield record_line(session_record(session_from_row(row, dialect)))
        for row, dialect in self._pages("export_user_threads", {"user": user}, after="", key="id"):
            thread = thread_from_row(row, dialect)
            yield record_line(thread_record(thread))
            found = self._pages("export_thread_messages", {"thread": thread.id}, after=0, key="seq")
            for message, _ in found:
                yield record_line(message_record(message_from_row(message, dialect)))
        for line in self._context(user):
            yield line
        for store in self._stores:
            for line in store.export_user(user):
                yield line

    def _context(self, user: str) -> Iterator[str]:
        """Yield the user's items, then the agents of the user's shared context."""
        place = {"after_namespace": "", "after_key": ""}
        while True:
            database = self._database()
            rows = self._own_page(database, "export_user_items", {"user": user, **place})
            for row in rows:
                yield item_line(row, database.dialect)
            if len(rows) < PAGE:
                break
            place = {"after_namespace": rows[-1]["namespace"], "after_key": rows[-1]["key"]}
        if self._is_on_redis:
            for line in self._context_on_redis(user):
                yield line
            return
        after = ""
        while True:
            rows = self._own_page(database, "export_user_agents", {"user": user, "after": after})
            for row in rows:
                yield agent_line(agent_of(row["agent"], from_json(row["topics"]), from_json(row["permissions"])))
            if len(rows) < PAGE:
                return
            after = rows[-1]["agent"]

    def _context_on_redis(self, user: str) -> Iterator[str]:
        """Yield the user's shared context, which lies beside the script's keys."""
        context, after = RedisContext(self._manager, self._name, tenant=self._tenant), ""
        while page := context.items(user, None, None, after, PAGE):
            for item in page:
                yield context_item_line(item)
            after = page[-1].key
        after = ""
        while agents := context.agents(user, None, after, PAGE):
            for agent in agents:
                yield agent_line(agent)
            after = agents[-1].agent

    def _pages(
        self, name: str, values: dict[str, Any], *, after: Any, key: str
    ) -> Iterator[tuple[Row, Dialect]]:
        while True:
            database = self._database()
            rows = self._page(database, name, {**values, "after": after})
            for row in rows:
                yield row, database.dialect
            if len(rows) < PAGE:
                return
            after = rows[-1][key]

    def _page(self, database: Database, name: str, values: dict[str, Any]) -> list[Row]:
        return database.fetch_all(*self._prepared(database, name, {**values, "limit": PAGE}))

    def _own_page(self, database: Database, name: str, values: dict[str, Any]) -> list[Row]:
        """Read a page of what row-level security shows to who names the user; the user is named in the same request."""
        if database.kind != "postgresql":
            return self._page(database, name, values)
        named = self._prepared(database, "name_user", {"user": values["user"]})
        return (database.fetch_batch([named, self._prepared(database, name, {**values, "limit": PAGE})]))[1]
