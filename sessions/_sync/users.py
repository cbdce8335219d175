# Generated from ../_async/users.py by tests/unasync.py: edit that one.
"""All that is stored of one user: exported as JSON lines, and erased with a count of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Callable, Mapping
from typing import Any

from persistence import Database, Row
from persistence.dialect import Dialect
from persistence.errors import ValidationError
from persistence.validation import check_id
from sessions._sync.store import SessionsStore
from sessions.messages import message_from_row
from sessions.records import session_from_row, thread_from_row
from sessions.transfer import item_line, message_record, record_line, session_record, thread_record

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


class UserData(SessionsStore):
    """What the stores of this package keep of the users of one tenant, on a PostgreSQL or SQLite connection.

    A user has sessions, threads, the messages of these, and items: shared context, state and memory.
    """

    def erase_user(
        self, user_id: str, *, also: Mapping[str, Callable[[str], int]] | None = None
    ) -> dict[str, int]:
        """Delete everything of a user, all or nothing, and return how many of each kind there were.

        What belongs to other users stays, but the threads of others in the user's sessions go with these. ``also``
        names what is to be erased in other stores of yours (checkpoints, documents): each is called with the user's id
        inside the transaction, while the user's threads can still be listed, and returns how many it erased; those on
        the same connection join the transaction.

        Raises:
            ValidationError: ``user_id`` is no id, or ``also`` names a kind of ours.
        """
        user = check_id("user_id", user_id)
        others = dict(also or {})
        taken = sorted(set(others) & {kind for kind, _ in _ERASED})
        if taken:
            raise ValidationError(f"also names {taken[0]!r}, which this package erases itself")
        counts: dict[str, int] = {}
        database = self._database()
        with database.transaction():
            for kind, erase in others.items():
                counts[kind] = erase(user)
            for kind, name in _ERASED:
                counts[kind] = self._change(name, {"user": user})
            self._change("erase_user_questions", {"user": user})
        return counts

    def export_user(self, user_id: str) -> Iterator[str]:
        """Yield everything of a user as JSON lines, each with its ``kind``: session, thread, message or item.

        A thread is followed by its messages. What has expired and is still stored comes too. No connection is held
        between pages.
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
        place = {"after_namespace": "", "after_key": ""}
        while True:
            database = self._database()
            rows = self._page(database, "export_user_items", {"user": user, **place})
            for row in rows:
                yield item_line(row, database.dialect)
            if len(rows) < PAGE:
                return
            place = {"after_namespace": rows[-1]["namespace"], "after_key": rows[-1]["key"]}

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
