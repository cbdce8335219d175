# Generated from ../_async/sessions.py by tests/unasync.py: edit that one.
"""Sessions of users: created, read, changed and ended, each call one statement."""

from __future__ import annotations

from typing import Any

from persistence.errors import UNIQUE_VIOLATION, DuplicateError
from persistence.fields import Duration
from persistence.validation import check_id, check_limit, shown
from sessions._sync.store import SessionsStore
from sessions.records import (
    Session,
    expected_of,
    new_session_values,
    page_values,
    patch_values,
    session_from_row,
    session_values,
)


class SessionManager(SessionsStore):
    """The sessions of one tenant, on a PostgreSQL, SQLite or Redis connection of a manager.

    A session that has expired is not there, for any call, whether ``delete_expired`` ran or not: it is expired when
    ``expires_at`` is not after the time at which the call started, by the server's clock, on SQLite by ours. Its
    threads go with it.

    Every call commits before it returns, or joins the transaction that its task is in. Neither a duplicate, a
    conflict nor a missing session fails that transaction.
    """

    on_redis = True

    def create_session(self, session: Session, *, ttl: Duration | None = None, sliding: bool = False) -> Session:
        """Store a new session and return it as stored, with its times and version 1.

        ``ttl`` (seconds or a timedelta) ends it that long after this call; with ``sliding``, each touch, patch and
        update moves the end to that long after itself. Without ``ttl``, the session's own ``expires_at`` and
        ``sliding`` hold.

        Raises:
            DuplicateError: the id is taken.
            ValidationError: something in it can't be stored; nothing was written.
        """
        stored = self._read_one(session_from_row, "create_session", new_session_values(session, ttl, sliding))
        if stored is None:
            raise DuplicateError(
                f"session {shown(session.id)} exists already",
                hint="leave id out to have one generated, or update_session()",
                operation="create_session",
                connection=self._name,
                code=UNIQUE_VIOLATION,
            )
        return stored

    def get_session(self, session_id: str) -> Session:
        """Return a session. It is a pure read: ``touch`` returns the session too, and renews it.

        Raises:
            NotFoundError: it isn't there, or has expired.
        """
        values = {"id": check_id("the session's id", session_id)}
        found = self._read_one(session_from_row, "get_session", values)
        if found is None:
            raise self._missing_session(session_id, "get_session")
        return found

    def update_session(self, session: Session, *, expected_version: int | None = None) -> Session:
        """Replace a session's user, title, metadata and expiry by the record's, and return it as stored.

        It must still have ``expected_version``, or where that is left out the record's own ``version``: a record that
        was read can't overwrite what others changed since. ``version=None`` in both overwrites. Threads keep their
        user.

        Raises:
            NotFoundError: it isn't there, or has expired.
            ConflictError: it has another version, which is in ``actual``; nothing was written.
        """
        values = {**session_values(session), "expected": expected_of(session.version, expected_version)}
        return self._change_session("update_session", values)

    def touch(self, session_id: str) -> Session:
        """Record activity: renew a sliding expiry, put the session first in listings, and return it.

        The version stays: nothing that an update would overwrite has changed.

        Raises:
            NotFoundError: it isn't there, or has expired.
        """
        values = {"id": check_id("the session's id", session_id)}
        found = self._read_one(session_from_row, "touch_session", values)
        if found is None:
            raise self._missing_session(session_id, "touch")
        return found

    def patch(self, session_id: str, metadata: dict[str, Any], *, expected_version: int | None = None) -> Session:
        """Merge into a session's metadata, atomically, and return the session.

        JSON Merge Patch (RFC 7396) at the top level: a key that is given replaces the whole value, None removes the
        key, every other key stays. Values are not merged below that, and nested None is stored.

        Raises:
            NotFoundError: it isn't there, or has expired.
            ConflictError: it has another version than ``expected_version``; nothing was written.
        """
        values = {
            "id": check_id("the session's id", session_id),
            "expected": expected_of(None, expected_version),
            **patch_values(metadata),
        }
        return self._change_session("patch_session", values)

    def delete_session(self, session_id: str) -> bool:
        """Delete a session, its threads and their messages; tell whether it was there."""
        values = {"id": check_id("the session's id", session_id)}
        return bool(self._read_value("delete_session", values))

    def erase_session(self, session_id: str) -> dict[str, int]:
        """Delete a session with all that it has, expired or not, and return how many of each there were.

        The counts are ``sessions`` (0 or 1), ``threads`` and ``messages``. It takes several statements, in one
        transaction; ``delete_session`` does the same in one, and doesn't count.
        """
        values = {"id": check_id("the session's id", session_id)}
        database = self._database()
        if self._is_on_redis:
            return database.fetch_one(*self._prepared(database, "erase_session", values)) or {}
        with database.transaction():
            if database.kind == "postgresql":  # SQLite has one writer anyhow
                self._read_value("lock_session_threads", values)
            return {
                "messages": self._change("erase_session_messages", values),
                "threads": self._change("erase_session_threads", values),
                "sessions": self._change("erase_session", values),
            }

    def delete_expired(self, *, limit: int = 1000) -> int:
        """Delete at most ``limit`` sessions that have expired, the longest expired first; return how many.

        They can't be read anyway; this gives their room back. Call it again until it returns less than ``limit``.
        """
        return self._change("delete_expired_sessions", {"limit": check_limit(limit)})

    def list_user_sessions(
        self, user_id: str, *, limit: int = 100, after: str | None = None, where: dict[str, Any] | None = None
    ) -> list[Session]:
        """Return a user's sessions, newest activity first, at most ``limit`` (up to 10,000).

        With ``where``, those whose metadata has each of its keys with an equal value: a text, a number (1 is 1.0), a
        bool or None. ``after`` is the ``cursor`` of the last session of the page before. A session that is active
        between two pages moves to the front, so a later page doesn't show it.
        """
        values = {"user_id": check_id("user_id", user_id), **page_values(limit, after, where)}
        return self._read_all(session_from_row, "list_user_sessions", values)
