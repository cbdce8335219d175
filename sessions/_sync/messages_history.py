# Generated from ../_async/messages_history.py by tests/unasync.py: edit that one.
"""Messages looked at across threads: searched, summed up, and as a history of questions and answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, get_args

from persistence import Row
from persistence.errors import ValidationError
from persistence.validation import check_id, check_limit, check_text, metadata_json
from sessions._sync.messages_base import append_values
from sessions._sync.messages_scan import MessageScan
from sessions.contents import decoded
from sessions.messages import (
    Message,
    Query,
    Usage,
    UsageBy,
    message_from_row,
    message_values,
    place_values,
    query_from_row,
    query_of,
    usage_from_row,
)
from sessions.records import moment_or_none
from sessions.redis_usage import check_days
from sessions.words import search_words, words_of, words_value


class MessageHistory(MessageScan):
    """The part of the message store that reads across threads."""

    def search(
        self,
        query: str,
        *,
        thread_id: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        role: str | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> list[Message]:
        """Return the messages that have every word of the query, newest first, at most ``limit`` (up to 10,000).

        A word is a run of letters, digits and underscores; upper and lower case are alike, and everything else
        separates. The words of content are those of its texts, not those of its keys. A bound store searches in the
        threads of its user. ``after`` is the ``cursor`` of the last message of the page before.

        Raises:
            CapabilityError: the store was opened without ``searchable=True``.
            ValidationError: the query has no word, or more than 32.
        """
        words = search_words(query)
        values = {
            "thread": _optional_id("thread_id", thread_id),
            "session": _optional_id("session_id", session_id),
            "user": self._scope(user_id),
            "role": _optional_id("role", role),
            **place_values(limit, after),
        }
        self._check_searchable("search")
        if self._is_on_redis:
            wanted = set(words)
            found = self._scan(
                "search",
                values,
                lambda message, _: role in (None, message.role) and wanted <= set(words_of(message.content)),
            )
            return [message for message, _ in found]
        database = self._database()
        lexemes = " & ".join(words) if database.kind == "postgresql" else words_value(database.dialect, words)
        sql, parameters = self._prepared(database, "search_messages", {**values, "query": lexemes})
        rows = database.fetch_all(sql, parameters, prepare=False)
        return [message_from_row(row, database.dialect) for row in rows]

    def index_messages(self, *, limit: int = 1000) -> int:
        """Keep the words of at most ``limit`` messages that were written without, and return of how many.

        It walks all threads of the tenant; call it again until it returns less than ``limit``.
        """
        self._check_searchable("index_messages")
        values = {"after_thread": "", "after_seq": 0, "limit": check_limit(limit)}
        if self._is_on_redis:
            return 0
        database = self._database()
        rows = database.fetch_all(*self._prepared(database, "find_unindexed_messages", values))
        if not rows:
            return 0
        updates = []
        for row in rows:
            words = words_value(database.dialect, words_of(decoded(row["content"])))
            values = {"thread": row["thread_id"], "seq": row["seq"], "words": words}
            sql, parameters = self._prepared(database, "index_message", values)
            updates.append(parameters)
        database.execute_many(sql, updates)
        return len(rows)

    def usage(
        self,
        *,
        thread_id: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Usage:
        """Return the sums of tokens and cost over the messages that are stored, computed in the database.

        ``since`` is within, ``until`` is not. A message that a fork copied counts where it was written.
        """
        values = self._usage_values(thread_id, session_id, user_id, since, until)
        found = self._usage({**values, "by": None, "after": None, "limit": 1})
        return found[0] if found else Usage()

    def usage_by(
        self,
        by: UsageBy,
        *,
        thread_id: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 1000,
        after: str | None = None,
    ) -> list[Usage]:
        """Return the sums of ``usage`` for each day, thread, session, user or list of models, ordered by ``key``.

        Days are those of UTC, as ``2026-11-21``; models are a JSON list, as ``["a","b"]``. Messages without the key (a
        thread without a session, say) are left out. ``after`` is the ``key`` of the last of the page before.
        """
        if by not in get_args(UsageBy):
            raise ValidationError(f"{str(by)[:80]!r} is no way to sum up", hint=", ".join(get_args(UsageBy)))
        values = self._usage_values(thread_id, session_id, user_id, since, until)
        if after is not None:
            check_text("after", after, may_be_empty=False)  # a list of models is longer than an id may be
        place = {"by": by, "after": after, "limit": check_limit(limit)}
        return self._usage({**values, **place})

    def _usage_values(
        self, thread_id: object, session_id: object, user_id: object, since: object, until: object
    ) -> dict[str, Any]:
        return {
            "thread": _optional_id("thread_id", thread_id),
            "session": _optional_id("session_id", session_id),
            "user": self._scope(user_id),
            "since": moment_or_none("since", since),
            "until": moment_or_none("until", until),
        }

    def _usage(self, values: dict[str, Any]) -> list[Usage]:
        self._check_scope("usage", values)
        if self._is_on_redis:
            check_days(values["since"], values["until"], self._name)
            return self._read_all(usage_from_row, "list_usage", values)
        database = self._database()
        sql, parameters = self._prepared(database, "list_usage", values)
        rows = database.fetch_all(sql, parameters, prepare=False)
        return [usage_from_row(row, database.dialect) for row in rows]

    def save_query(self, query: Query, *, key: str | None = None) -> Query:
        """Store a question and its answer as two messages of a thread, and return the record as stored.

        The thread is created, as the user's, where nobody has done so.

        Raises:
            NotFoundError: the thread is another user's.
            ValidationError: something in it can't be stored; nothing was written.
        """
        if type(query) is not Query:
            raise ValidationError(f"a {type(query).__name__} is no Query")
        user = check_id("the query's user_id", query.user_id)
        if self._user not in (None, user):
            raise ValidationError("the query is of another user than the one that this store is bound to")
        thread = f"queries:{user}" if query.thread_id is None else query.thread_id
        mode = {} if query.mode is None else {"mode": check_text("the query's mode", query.mode, limit=1024)}
        metadata_json(query.metadata)
        if "mode" in query.metadata:
            raise ValidationError("the query's metadata has the key 'mode'", hint="mode is a field")
        question = Message(role="user", content=query.question)
        answer = Message(
            role="assistant",
            content=query.answer,
            metadata={**query.metadata, **mode},
            input_tokens=query.input_tokens,
            output_tokens=query.output_tokens,
            cost=query.cost,
            models=query.models,
            latency=query.latency,
            sources=query.sources,
        )
        rows = [message_values(question), message_values(answer)]
        rows[1]["question_place"] = 1
        values = append_values(thread, key, None)
        store = self if self._user is not None else self.for_user(user)
        _, stored = store._append_rows("save_query", thread, [question, answer], rows, values)
        return replace(query, thread_id=thread, cost=stored.cost, seq=stored.seq, created_at=stored.created_at)

    def recent_queries(
        self,
        *,
        user_id: str | None = None,
        thread_id: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[Query]:
        """Return questions with their answers, newest first, at most ``limit`` (up to 10,000).

        ``user_id=None`` are those of everybody, or of the user that the store is bound to. A user's are those that came
        while the thread was that user's: they stay so, and become nobody else's, when it is given to another one, who
        has its messages then. ``after`` is the ``cursor`` of the last record of the page before.
        """
        values = {
            "asked_by": self._scope(user_id),
            "thread": _optional_id("thread_id", thread_id),
            **place_values(limit, after),
        }
        if self._is_on_redis:
            return self._scan_queries({**values, "user": None})
        database = self._database()
        sql, parameters = self._prepared(database, "list_queries", values)
        rows = database.fetch_all(sql, parameters, prepare=False)
        return [query_from_row(row, database.dialect) for row in rows]

    def _scan_queries(self, values: dict[str, Any]) -> list[Query]:
        """Return the newest answers with their questions; those that a fork copied are left out."""

        def is_wanted(message: Message, thread: Row) -> bool:
            if message.answers is None or (message.seq or 0) <= thread["copied"]:
                return False
            return values["asked_by"] in (None, _asked_by(message, thread))

        queries = []
        for answer, thread in self._scan("recent_queries", values, is_wanted):
            place = {"after": (answer.answers or 1) - 1, "limit": 1}
            asked = {"thread": thread["thread"], "user": thread["user"], **place}
            first = self._read_all(message_from_row, "list_messages_after", asked)
            question = next((message.content for message in first if message.seq == answer.answers), None)
            queries.append(query_of(answer, question, _asked_by(answer, thread)))
        return queries

    def _scope(self, user_id: object) -> str | None:
        """Return the user to look at: the one given, or the one bound."""
        given = _optional_id("user_id", user_id)
        if self._user is None or given is None:
            return given or self._user
        if given != self._user:
            raise ValidationError("user_id is another user than the one that this store is bound to")
        return given


def _asked_by(answer: Message, thread: Row) -> Any:
    """Return whose a thread was when an answer came."""
    return next((user for last, user in thread["former"] if (answer.seq or 0) <= last), thread["user"])


def _optional_id(what: str, value: object) -> str | None:
    return None if value is None else check_id(what, value)
