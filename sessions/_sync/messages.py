# Generated from ../_async/messages.py by tests/unasync.py: edit that one.
"""Messages of threads: appended, read, taken back, summarised and forked, each call one statement on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persistence import Database
from persistence.errors import UNIQUE_VIOLATION, DuplicateError, NotFoundError, ValidationError
from persistence.validation import check_id, check_limit, check_text, check_whole, shown
from sessions._sync.messages_base import TRIES, append_values, as_stored, rows_json
from sessions._sync.messages_history import MessageHistory
from sessions._sync.messages_transfer import MessageTransfer
from sessions.messages import (
    NO_SEQ,
    Conversation,
    Message,
    check_batch,
    content_from_row,
    message_from_row,
    message_values,
)
from sessions.records import Thread, expected_of, new_id, thread_from_row


class MessageStore(MessageHistory, MessageTransfer):
    """The messages of threads, on a PostgreSQL, SQLite or Redis connection of a manager.

    Within a thread messages are numbered in the order in which they were committed: appends leave no gap, a number is
    never used twice, and what a reader sees is always a beginning of what it sees next, but for what ``pop_last``,
    ``replace_tail`` and ``prune`` take away. A thread that isn't there, has expired with its session or is another
    user's has no messages to read, and is ``NotFoundError`` to a change.

    ``version`` counts the changes of a conversation, apart from the version of its ``Thread``: a message doesn't make
    a title that was read out of date. With ``searchable=True`` the words of what is appended are kept for ``search``,
    which costs about as much again as the message itself. Every call commits before it returns, or joins the
    transaction that its task is in.

    With ``notify`` an append wakes those who ``follow`` its thread (through stores that have ``notify`` too), by NOTIFY
    on PostgreSQL and a channel on Redis: at most once in so many seconds for each thread and process, after the commit.
    Such a follower holds a connection of its own. SQLite has no notices (``CapabilityError``).

    Redis is for conversations that may be lost, and joins no transaction. Sums are kept there as counters, by whole
    days; ``search`` and ``recent_queries`` read every message, at most 10,000. They, and ``prune``, are of a thread, a
    session or a user there: what is of all threads is ``CapabilityError``.
    """

    def append(
        self, thread_id: str, message: Message, *, key: str | None = None, expected_version: int | None = None
    ) -> Message:
        """Append a message to a thread and return it as stored, numbered.

        With a ``key``, a repetition (after a lost answer, say) changes nothing and returns what the first one stored.
        ``expected_version`` is the ``version`` of the last message that was seen, 0 in an empty thread.

        Raises:
            NotFoundError: there is no such thread.
            ConflictError: the conversation has another version, which is in ``actual``; nothing was written.
            ValidationError: something in the message can't be stored; nothing was written.
        """
        return self._append_one("append", thread_id, message, key, expected_version, None)

    def append_many(
        self,
        thread_id: str,
        messages: Sequence[Message],
        *,
        key: str | None = None,
        expected_version: int | None = None,
    ) -> list[Message]:
        """Append up to 10,000 messages at once, all or none and none between them, and return them as stored.

        ``key`` and ``expected_version`` are those of ``append``, for all of them together.

        Raises:
            NotFoundError, ConflictError, ValidationError: as ``append``.
        """
        given = check_batch(messages)
        rows = [message_values(message) for message in given]
        values = append_values(thread_id, key, expected_version)
        return self._append_rows("append_many", thread_id, given, rows, values)

    def last(self, thread_id: str, limit: int = 20) -> list[Message]:
        """Return the last ``limit`` messages of a thread (up to 10,000), oldest first."""
        return self.list_messages(thread_id, before=NO_SEQ, limit=limit)

    def list_messages(
        self, thread_id: str, *, after: int | None = None, before: int | None = None, limit: int = 100
    ) -> list[Message]:
        """Return messages of a thread, oldest first, at most ``limit`` (up to 10,000).

        They are the first of the thread, or those next ``after`` a number, or those last ``before`` a number: the
        ``seq`` of the last or of the first message of a page leads to the page beside it.

        Raises:
            ValidationError: both ``after`` and ``before`` are given, or something is out of range.
        """
        values: dict[str, Any] = {"thread": check_id("the thread's id", thread_id), "limit": check_limit(limit)}
        if before is None:
            values["after"] = check_whole("after", 0 if after is None else after, least=0)
            return self._read_all(message_from_row, "list_messages_after", values)
        if after is not None:
            raise ValidationError("after and before don't go together", hint="give one of them")
        values["before"] = check_whole("before", before)
        found = self._read_all(message_from_row, "list_messages_before", values)
        found.reverse()
        return found

    def _contents(self, thread_id: str, before: int, limit: int) -> list[tuple[int, Any]]:
        """Return the numbers and the contents of the last messages before a number, newest first."""
        values = {"thread": thread_id, "before": before, "limit": limit}
        return self._read_all(content_from_row, "list_contents", values)

    def get_message(self, thread_id: str, seq: int) -> Message:
        """Return one message of a thread by its number.

        Raises:
            NotFoundError: it isn't there.
        """
        number = check_whole("seq", seq)
        found = self.list_messages(thread_id, after=number - 1, limit=1)
        if not found or found[0].seq != number:
            raise NotFoundError(
                f"there is no message {number} in thread {shown(thread_id)}",
                hint="it was never appended, or was taken away",
                operation="get_message",
                connection=self._name,
            )
        return found[0]

    def conversation(self, thread_id: str) -> Conversation:
        """Return the state of a thread's messages: version, newest number, window and origin.

        Raises:
            NotFoundError: there is no such thread.
        """
        found = self._state(check_id("the thread's id", thread_id))
        if found is None:
            raise self._missing(thread_id, "conversation")
        return found[0]

    def context(self, thread_id: str, *, limit: int = 1000) -> list[Message]:
        """Return what a model is to see: the summary in use, then the last ``limit`` messages that it doesn't cover.

        Summaries that were replaced by later ones are left out. It is a whole answer only where the window has no more
        than ``limit`` messages.
        """
        values = {"thread": check_id("the thread's id", thread_id), "limit": check_limit(limit)}
        found = self._read_all(message_from_row, "list_context", values)
        found.sort(key=lambda message: (message.summary_through is None, message.seq))
        return found

    def compact(
        self,
        thread_id: str,
        summary: Message,
        *,
        through: int,
        key: str | None = None,
        expected_version: int | None = None,
    ) -> Message:
        """Append a summary of the messages up to number ``through``, and let the context begin with it.

        Nothing is deleted: every message can still be read, the summary among them, with ``summary_through``.

        Raises:
            ValidationError: ``through`` lies before the window or behind the last message.
            NotFoundError, ConflictError: as ``append``.
        """
        covered = check_whole("through", through)
        return self._append_one("compact", thread_id, summary, key, expected_version, covered)

    def pop_last(self, thread_id: str, *, expected_version: int | None = None) -> Message | None:
        """Take the last message away and return it; None where there is none.

        Summaries are not counted as messages here, but one that covers the message goes with it.

        Raises:
            NotFoundError: there is no such thread.
            ConflictError: the conversation has another version than ``expected_version``.
        """
        values: dict[str, Any] = {
            "thread": check_id("the thread's id", thread_id),
            "expected": expected_of(None, expected_version),
        }
        database = self._database()
        if database.kind == "sqlite":
            return self._pop_in_steps(database, values)
        for _ in range(TRIES):
            row = database.fetch_one(*self._prepared(database, "pop_message", values))
            if row is not None:
                return message_from_row(row, database.dialect)
            self._checked_state("pop_last", thread_id, values["expected"])
            if database.fetch_value(*self._prepared(database, "last_message_seq", values)) is None:
                return None
        raise self._overtaken("pop_last", thread_id)

    def _pop_in_steps(self, database: Database, values: dict[str, Any]) -> Message | None:
        with database.transaction():
            self._checked_state("pop_last", values["thread"], values["expected"])
            seq = database.fetch_value(*self._prepared(database, "last_message_seq", values))
            if seq is None:
                return None
            cut = {**values, "first": seq, "step": 1}
            rows = database.fetch_all(*self._prepared(database, "cut_tail", cut))
            database.execute(*self._prepared(database, "move_window_back", cut))
        return next(message_from_row(row, database.dialect) for row in rows if row["seq"] == seq)

    def replace_tail(
        self,
        thread_id: str,
        from_seq: int,
        messages: Sequence[Message],
        *,
        expected_version: int | None = None,
    ) -> list[Message]:
        """Take away the messages from number ``from_seq`` on, append others (or none), and return these as stored.

        It is how a message is edited and its answer made anew. What is appended has new numbers. Summaries stay, but
        those that cover what is taken away go, and the window moves back to the one before.

        Raises:
            NotFoundError: there is no such thread.
            ConflictError: the conversation has another version than ``expected_version``; nothing was written.
        """
        given = check_batch(messages) if messages or not isinstance(messages, list | tuple) else []
        values: dict[str, Any] = {
            "thread": check_id("the thread's id", thread_id),
            "first": check_whole("from_seq", from_seq),
            "expected": expected_of(None, expected_version),
        }
        rows = [message_values(message) for message in given]
        database = self._database()
        self._add_words(database, given, rows)
        sent = {**values, "count": len(rows), "rows": rows_json(rows)}
        if database.kind == "sqlite":
            return self._replace_in_steps(database, given, sent)
        for _ in range(TRIES):
            row = database.fetch_one(*self._prepared(database, "replace_messages", sent))
            if row is not None:
                self._tell(database, thread_id)
                return as_stored(database, thread_id, given, [row], None)
            self._checked_state("replace_tail", thread_id, values["expected"])
        raise self._overtaken("replace_tail", thread_id)

    def _replace_in_steps(
        self, database: Database, messages: list[Message], values: dict[str, Any]
    ) -> list[Message]:
        with database.transaction():
            self._checked_state("replace_tail", values["thread"], values["expected"])
            cut = {**values, "step": 0 if messages else 1}
            database.execute(*self._prepared(database, "cut_tail", cut))
            database.execute(*self._prepared(database, "move_window_back", cut))
            if not messages:
                return []
            added = {**values, "key": None, "expected": None}
            rows = database.fetch_all(*self._prepared(database, "append_messages", added))
        return as_stored(database, values["thread"], messages, rows, None)

    def fork(
        self, thread_id: str, *, at: int | None = None, new_thread_id: str | None = None, title: str | None = None
    ) -> Thread:
        """Copy a thread and its messages up to number ``at`` (None: all) into a new thread, and return that.

        It has the same user, session and metadata, and the same title unless one is given. The copies keep their
        numbers; neither side sees what the other appends. ``conversation`` names where a fork comes from.

        Raises:
            NotFoundError: there is no such thread.
            DuplicateError: the new id is taken.
        """
        values: dict[str, Any] = {
            "thread": check_id("the thread's id", thread_id),
            "id": new_id() if new_thread_id is None else check_id("the new thread's id", new_thread_id),
            "at": NO_SEQ if at is None else check_whole("at", at),
            "title": None if title is None else check_text("the title", title, limit=1024),
        }
        database = self._database()
        if database.kind != "sqlite":
            made = self._read_one(thread_from_row, "fork_thread", values)
        else:
            with database.transaction():
                made = self._read_one(thread_from_row, "fork_thread", values)
                if made is not None:
                    database.execute(*self._prepared(database, "copy_messages", values))
        if made is not None:
            return made
        self._checked_state("fork", thread_id, None)
        raise DuplicateError(
            f"thread {shown(values['id'])} exists already",
            hint="leave new_thread_id out to have one generated",
            operation="fork",
            connection=self._name,
            code=UNIQUE_VIOLATION,
        )
