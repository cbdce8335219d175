# Generated from ../_async/state.py by tests/unasync.py: edit that one.
"""State that an agent keeps between its turns, by scope: the application's, the user's, the session's."""

from __future__ import annotations

from typing import Any

from persistence import DatabaseManager
from persistence._sync.manager import named_connection
from persistence.validation import check_id
from sessions._sync.store import SessionsStore
from sessions.contents import decoded, to_text
from sessions.records import expected_of, session_from_row
from sessions.state import merged_state, split_state, state_namespace


class StateStore(SessionsStore):
    """The state of one application of one tenant, on a PostgreSQL, SQLite or Redis connection of a manager.

    A key that begins with ``app:`` is shared by all users of the application, one with ``user:`` by all sessions of a
    user, and one with ``temp:`` is never stored. Every other key is the session's own: it lies in the session's
    metadata, and ends with it. What is the user's stays when a session ends, until ``UserData.erase_user``.
    """

    on_redis = True

    @named_connection
    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        app: str = "default",
        tenant: str = "default",
        migrate: bool = True,
    ) -> None:
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self._namespace = state_namespace(app)

    def load(self, session_id: str) -> dict[str, Any]:
        """Return what a session sees: its own state, its user's and the application's, all in one dict.

        Raises:
            NotFoundError: there is no such session, or it has expired.
        """
        values = {"id": check_id("the session's id", session_id), "namespace": self._namespace}
        database = self._database()
        rows = database.fetch_all(*self._prepared(database, "load_state", values))
        if not rows:
            raise self._missing_session(session_id, "load")
        shared = [(row["scope"], row["key"], decoded(row["value"])) for row in rows if row["key"] is not None]
        return merged_state(session_from_row(rows[0], database.dialect).metadata, shared)

    def update(
        self, session_id: str, changes: dict[str, Any], *, expected_version: int | None = None
    ) -> dict[str, Any]:
        """Set keys of any scope, all or none, and return the state as it is then; None removes a key.

        Keys that are not named stay. The values of a session's own keys are held to what its metadata can hold; those
        of ``user:`` and ``app:`` keys may be any JSON. ``temp:`` keys are part of what is returned, and not stored.

        Raises:
            NotFoundError: there is no such session, or it has expired.
            ConflictError: the session has another version than ``expected_version``; nothing was written.
            ValidationError: a key or a value can't be stored; nothing was written.
        """
        parts = split_state(changes)
        values: dict[str, Any] = {
            "id": check_id("the session's id", session_id),
            "expected": expected_of(None, expected_version),
            "namespace": self._namespace,
            "rows": to_text(parts.shared),
            **parts.patch,
        }
        database = self._database()
        if self._is_on_redis:  # which has no transaction, but one script
            self._change_session("update_state", values)
            return {**self.load(session_id), **parts.temporary}
        with database.transaction():
            self._change_session("patch_session", values)
            if parts.shared:
                self._change("put_state", values)
                self._change("delete_state", values)
            return {**self.load(session_id), **parts.temporary}
