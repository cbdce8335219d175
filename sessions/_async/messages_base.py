"""What the parts of the message store share: its bound user, its words, and how a change that found no row is told."""

from __future__ import annotations

import copy
from typing import Any, Self

from persistence import AsyncDatabase, AsyncDatabaseManager
from persistence._async.manager import named_connection
from persistence.errors import CapabilityError, ConflictError, DuplicateError, NotFoundError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_id, shown
from sessions._async.redis_statements import AsyncRedisStatements
from sessions._async.store import AsyncSessionsStore
from sessions._async.wake_ups import AsyncWakeUps
from sessions.contents import to_text
from sessions.messages import Conversation, Message, conversation_from_row, message_values, with_place
from sessions.records import Thread, expected_of, thread_values
from sessions.words import words_of, words_value

_SELDOM = (
    "key",
    "expected",
    "through",
    "metadata",
    "input_tokens",
    "output_tokens",
    "cost_nanos",
    "latency_micros",
    "models",
    "sources",
    "question_seq",
    "words",
)
"""What append_plain does without."""
_ALWAYS = {"role", "content"}
"""All that append_plain_messages takes of a message."""
TRIES = 16
"""How often a change that somebody else overtook is tried on what is there then."""


class AsyncMessagesBase(AsyncSessionsStore):
    """The messages of one tenant, or of one of its users, on a connection of a manager."""

    on_redis = True
    _user: str | None = None

    @named_connection
    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        *,
        tenant: str = "default",
        migrate: bool = True,
        searchable: bool = False,
        notify: Duration | None = None,
    ) -> None:
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self._searchable = searchable
        self._wake_ups = (
            None if notify is None else AsyncWakeUps(manager, name, "messages", tenant=tenant, every=notify)
        )

    def for_user(self, user_id: str) -> Self:
        """Return the same store, bound to a user: threads of others are not there for it.

        What it appends to a thread that nobody has created, creates the thread, as the user's. ``recent_queries`` are
        those that this user asked.
        """
        bound = copy.copy(self)
        bound._user = check_id("user_id", user_id)
        return bound

    def _prepared(
        self, database: AsyncDatabase | AsyncRedisStatements, name: str, values: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        return super()._prepared(database, name, {"user": self._user, **values})

    def _add_words(self, database: AsyncDatabase, messages: list[Message], rows: list[dict[str, Any]]) -> None:
        """Give the rows of messages their words, where this store keeps them."""
        for message, row in zip(messages, rows, strict=True):
            kept = self._searchable and not self._is_on_redis
            row["words"] = words_value(database.dialect, words_of(message.content)) if kept else None

    async def _state(self, thread_id: str, key: str | None = None) -> tuple[Conversation, dict[str, Any]] | None:
        """Return the state of a conversation, and the row that tells of the append with the key."""
        database = await self._database()
        row = await database.fetch_one(*self._prepared(database, "conversation", {"thread": thread_id, "key": key}))
        return None if row is None else (conversation_from_row(row, database.dialect), row)

    async def _checked_state(self, operation: str, thread_id: str, expected: int | None) -> Conversation:
        """Return the state of a conversation, or raise why it can't be changed."""
        found = await self._state(thread_id)
        if found is None:
            raise self._missing(thread_id, operation)
        if expected is not None and found[0].version != expected:
            raise self._conflict(operation, found[0], expected)
        return found[0]

    async def _append_one(
        self,
        operation: str,
        thread_id: str,
        message: Message,
        key: str | None,
        expected: int | None,
        through: int | None,
    ) -> Message:
        row = message_values(message)
        values = append_values(thread_id, key, expected)
        database = await self._database()
        self._add_words(database, [message], [row])
        values = {**values, **row, "through": through}
        name = "append_message"
        if database.kind == "postgresql" and all(values[field] is None for field in _SELDOM):
            name = "append_plain"
        return (await self._appended(operation, thread_id, [message], name, values))[0][0]

    async def _append_rows(
        self,
        operation: str,
        thread_id: str,
        messages: list[Message],
        rows: list[dict[str, Any]],
        values: dict[str, Any],
    ) -> list[Message]:
        database = await self._database()
        self._add_words(database, messages, rows)
        values = {**values, "count": len(rows), "rows": rows_json(rows), "through": None}
        name = "append_messages"
        if database.kind == "sqlite" and all(row[field] is None for row in rows for field in row.keys() - _ALWAYS):
            name = "append_plain_messages"
        return (await self._appended(operation, thread_id, messages, name, values))[0]

    async def _appended(
        self, operation: str, thread_id: str, messages: list[Message], name: str, values: dict[str, Any]
    ) -> tuple[list[Message], bool]:
        """Run an append, and where it found no row, what that calls for: a thread, the answer to a retry, an error.

        Return the messages as stored, and whether it was this call that stored them.
        """
        database = await self._database()
        key, expected = values["key"], values["expected"]
        sql, parameters = self._prepared(database, name, values)
        for _ in range(TRIES):
            try:
                rows = await database.fetch_all(sql, parameters)
            except DuplicateError:
                # The append that has the key was on its way at the same time, and is there now.
                if key is None or database.in_transaction:
                    raise
                rows = []
            if rows:
                await self._tell(database, thread_id)
                return as_stored(database, thread_id, messages, rows, values.get("through")), True
            found = await self._state(thread_id, key)
            if found is None:
                rows = await self._first_append(database, operation, thread_id, sql, parameters)
                if rows:
                    await self._tell(database, thread_id)
                    return as_stored(database, thread_id, messages, rows, values.get("through")), True
                continue
            state, row = found
            if row["key_seq"] is not None:
                first = {"seq": row["key_seq"], "version": row["key_version"], "created_at": row["key_time"]}
                return as_stored(database, thread_id, messages, [first], None), False
            if expected is not None and state.version != expected:
                raise self._conflict(operation, state, expected)
            through = values.get("through")
            if through is not None and not state.window_seq <= through <= state.last_seq:
                raise ValidationError(
                    f"through {through} is not within {state.window_seq} and {state.last_seq}",
                    hint="name the last message that the summary covers; a window never moves back",
                    operation=operation,
                    connection=self._name,
                )
            if key is not None and database.kind == "postgresql":
                await self._change("forget_last_key", {"thread": thread_id, "key": key})
        raise self._overtaken(operation, thread_id)

    async def _tell(self, database: AsyncDatabase, thread_id: str) -> None:
        if self._wake_ups is not None:
            await self._wake_ups.tell(thread_id, in_transaction=database.in_transaction)

    async def _first_append(
        self, database: AsyncDatabase, operation: str, thread_id: str, sql: str, parameters: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Create the thread of a bound store and append to it; no rows where somebody else has just created it."""
        if self._user is None or parameters.get("expected") not in (None, 0) or parameters.get("through") is not None:
            raise self._missing(thread_id, operation)
        async with database.transaction():
            new = thread_values(Thread(id=thread_id, user_id=self._user))
            made = await database.fetch_all(*self._prepared(database, "create_thread", new))
            rows = await database.fetch_all(sql, parameters) if made else []
        if not rows and await self._state(thread_id) is None:
            raise self._missing(thread_id, operation)
        return rows

    def _missing(self, thread_id: str, operation: str) -> NotFoundError:
        return NotFoundError(
            f"there is no thread {shown(thread_id)}",
            hint="create it by a ThreadManager; a store that is bound by for_user() creates threads as it appends",
            operation=operation,
            connection=self._name,
        )

    def _conflict(self, operation: str, state: Conversation, expected: int) -> ConflictError:
        return ConflictError(
            f"the messages of thread {shown(state.thread_id)} have version {state.version}, not {expected}",
            expected=expected,
            actual=state.version,
            hint="read them again, and repeat the change on what is there now",
            operation=operation,
            connection=self._name,
        )

    def _overtaken(self, operation: str, thread_id: str) -> ConflictError:
        return ConflictError(
            f"thread {shown(thread_id)} changed each time, {TRIES} times, while this waited for it",
            hint="try again when fewer write to it",
            operation=operation,
            connection=self._name,
        )

    def _check_searchable(self, operation: str) -> None:
        if not self._searchable:
            raise CapabilityError(
                "this store keeps no words to search in",
                hint="open it with searchable=True, and call index_messages() for those that were written without",
                operation=operation,
                connection=self._name,
            )


def as_stored(
    database: AsyncDatabase,
    thread_id: str,
    messages: list[Message],
    rows: list[dict[str, Any]],
    through: int | None,
) -> list[Message]:
    """Return the messages with what the store gave them; the first has the smallest number of the rows."""
    first = min(row["seq"] for row in rows)
    version, moment = rows[0]["version"], database.dialect.moment(rows[0]["created_at"])
    return [
        with_place(message, thread_id, seq, version, moment, through) for seq, message in enumerate(messages, first)
    ]


def rows_json(rows: list[dict[str, Any]]) -> str:
    """Return messages as the one JSON list in which they travel, each with its place from 1; None is left out."""
    lean = [{name: value for name, value in row.items() if value is not None} for row in rows]
    for place, row in enumerate(lean, 1):
        row["place"] = place
    return to_text(lean)


def append_values(thread_id: object, key: object, expected_version: object) -> dict[str, Any]:
    """Return what every append takes, checked."""
    return {
        "thread": check_id("the thread's id", thread_id),
        "key": None if key is None else check_id("the key", key),
        "expected": expected_of(None, expected_version),
    }
