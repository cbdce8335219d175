# Generated from ../_async/threads.py by tests/unasync.py: edit that one.
"""Threads, the conversations of users: created, read, changed and deleted, each call one statement."""

from __future__ import annotations

from typing import Any

from persistence.errors import (
    FOREIGN_KEY_VIOLATION,
    UNIQUE_VIOLATION,
    DuplicateError,
    ForeignKeyError,
    NotFoundError,
    ValidationError,
)
from persistence.validation import check_id, shown
from sessions._sync.store import SessionsStore
from sessions.records import (
    Thread,
    expected_of,
    page_values,
    patch_values,
    session_from_row,
    thread_from_row,
    thread_values,
)


class ThreadManager(SessionsStore):
    """The threads of one tenant, on a PostgreSQL, SQLite or Redis connection of a manager.

    A thread belongs to a session or stands by itself. With its session it is deleted, and with its session it expires:
    from that moment it is not there, for any call.

    Every call commits before it returns, or joins the transaction that its task is in. Neither a duplicate, a
    conflict, a missing thread nor a missing session fails that transaction.
    """

    on_redis = True

    def create_thread(self, thread: Thread) -> Thread:
        """Store a new thread and return it as stored, with its times and version 1.

        ``user_id`` left out is the owner of the session.

        Raises:
            DuplicateError: the id is taken.
            ForeignKeyError: its session isn't there, or has expired.
            ValidationError: something in it can't be stored, or it has neither user nor session; nothing was written.
        """
        values = thread_values(thread)
        if values["user_id"] is None and values["session_id"] is None:
            raise ValidationError("a thread needs a user_id or a session_id")
        stored = self._stored("create_thread", values)
        if stored is not None:
            return stored
        self._check_session(values["session_id"], "create_thread")
        raise DuplicateError(
            f"thread {shown(thread.id)} exists already",
            hint="leave id out to have one generated, or update_thread()",
            operation="create_thread",
            connection=self._name,
            code=UNIQUE_VIOLATION,
        )

    def get_thread(self, thread_id: str) -> Thread:
        """Return a thread.

        Raises:
            NotFoundError: it isn't there, or its session has expired.
        """
        values = {"id": check_id("the thread's id", thread_id)}
        found = self._read_one(thread_from_row, "get_thread", values)
        if found is None:
            raise self._missing(thread_id, "get_thread")
        return found

    def update_thread(self, thread: Thread, *, expected_version: int | None = None) -> Thread:
        """Replace a thread's session, user, title and metadata by the record's, and return it as stored.

        ``user_id=None`` leaves the user as it is. It must still have ``expected_version``, or where that is left out
        the record's own ``version``: a record that was read can't overwrite what others changed since.
        ``version=None`` in both overwrites.

        Raises:
            NotFoundError: it isn't there, or its session has expired.
            ForeignKeyError: the session that it is moved to isn't there, or has expired.
            ConflictError: it has another version, which is in ``actual``; nothing was written.
        """
        values = {**thread_values(thread), "expected": expected_of(thread.version, expected_version)}
        stored = self._stored("update_thread", values)
        return stored if stored is not None else self._explain("update_thread", values)

    def patch(self, thread_id: str, metadata: dict[str, Any], *, expected_version: int | None = None) -> Thread:
        """Merge into a thread's metadata, atomically, and return the thread.

        JSON Merge Patch (RFC 7396) at the top level: a key that is given replaces the whole value, None removes the
        key, every other key stays. Values are not merged below that, and nested None is stored.

        Raises:
            NotFoundError: it isn't there, or its session has expired.
            ConflictError: it has another version than ``expected_version``; nothing was written.
        """
        values = {
            "id": check_id("the thread's id", thread_id),
            "expected": expected_of(None, expected_version),
            **patch_values(metadata),
        }
        stored = self._read_one(thread_from_row, "patch_thread", values)
        return stored if stored is not None else self._explain("patch_thread", values)

    def touch(self, thread_id: str) -> Thread:
        """Record activity: put the thread first in listings, as each message does too, and return it.

        The version stays: nothing that an update would overwrite has changed.

        Raises:
            NotFoundError: it isn't there, or its session has expired.
        """
        values = {"id": check_id("the thread's id", thread_id)}
        found = self._read_one(thread_from_row, "touch_thread", values)
        if found is None:
            raise self._missing(thread_id, "touch")
        return found

    def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread and its messages; tell whether it was there."""
        values = {"id": check_id("the thread's id", thread_id)}
        return bool(self._read_value("delete_thread", values))

    def list_session_threads(
        self, session_id: str, *, limit: int = 100, after: str | None = None, where: dict[str, Any] | None = None
    ) -> list[Thread]:
        """Return a session's threads, newest activity first, at most ``limit`` (up to 10,000).

        With ``where``, those whose metadata has each of its keys with an equal value: a text, a number (1 is 1.0), a
        bool or None. ``after`` is the ``cursor`` of the last thread of the page before. A thread that is active between
        two pages moves to the front, so a later page doesn't show it. A session that isn't there has none.
        """
        values = {"session_id": check_id("session_id", session_id), **page_values(limit, after, where)}
        return self._read_all(thread_from_row, "list_session_threads", values)

    def list_user_threads(
        self, user_id: str, *, limit: int = 100, after: str | None = None, where: dict[str, Any] | None = None
    ) -> list[Thread]:
        """Return a user's threads, of all sessions and of none, ordered and paged as ``list_session_threads``."""
        values = {"user_id": check_id("user_id", user_id), **page_values(limit, after, where)}
        return self._read_all(thread_from_row, "list_user_threads", values)

    def _stored(self, name: str, values: dict[str, Any]) -> Thread | None:
        try:
            return self._read_one(thread_from_row, name, values)
        except ForeignKeyError as exc:
            # The session was deleted after the statement had seen it.
            raise self._no_session(values["session_id"], name, exc.code) from exc

    def _explain(self, name: str, values: dict[str, Any]) -> Thread:
        """Raise the reason for which a change found no row, which a second statement tells."""
        thread_id, expected = values["id"], values["expected"]
        current = self._read_one(thread_from_row, "get_thread", {"id": thread_id})
        if current is None:
            raise self._missing(thread_id, name)
        self._check_session(values.get("session_id"), name)
        if expected is None:
            raise self._missing(thread_id, name)  # it came after the change had looked for it
        raise self._outdated(f"thread {shown(thread_id)}", name, expected, current.version)

    def _check_session(self, session_id: str | None, operation: str) -> None:
        if session_id is None:
            return
        if self._read_one(session_from_row, "get_session", {"id": session_id}) is None:
            raise self._no_session(session_id, operation)

    def _no_session(self, session_id: str, operation: str, code: str | None = FOREIGN_KEY_VIOLATION) -> ForeignKeyError:
        return ForeignKeyError(
            f"there is no session {shown(session_id)} for the thread",
            hint="create it first; it was never created, was deleted, or has expired",
            operation=operation,
            connection=self._name,
            code=code,
        )

    def _missing(self, thread_id: str, operation: str) -> NotFoundError:
        return NotFoundError(
            f"there is no thread {shown(thread_id)}",
            hint="it was never created, was deleted, or its session has expired",
            operation=operation,
            connection=self._name,
        )
