"""Messages of Redis looked at across threads: read one by one, because there is no index to ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from persistence import Row
from persistence.errors import CapabilityError
from sessions._async.messages_base import AsyncMessagesBase
from sessions.messages import NO_SEQ, Message, message_from_row

PAGE = 200
"""How many messages are read at once."""
SCANNED = 10_000
"""The most messages that one call looks at."""


class AsyncMessageScan(AsyncMessagesBase):
    """The part of the message store that reads through the threads of a session or a user."""

    def _check_scope(self, operation: str, values: dict[str, Any]) -> None:
        """Raise CapabilityError on Redis where neither a thread nor a session nor a user is named."""
        if self._is_on_redis and all(values.get(name) is None for name in ("thread", "session", "user", "asked_by")):
            raise CapabilityError(
                f"{operation} on Redis is of a thread, a session or a user",
                hint="name one, or use PostgreSQL or SQLite, which look through all threads of a tenant",
                operation=operation,
                connection=self._name,
            )

    async def _scan(
        self, operation: str, values: dict[str, Any], is_wanted: Callable[[Message, Row], bool]
    ) -> list[tuple[Message, Row]]:
        """Return the newest messages that are wanted, each with what is known of its thread.

        Raises:
            CapabilityError: the threads have more than SCANNED messages together.
        """
        self._check_scope(operation, values)
        threads = await self._read_all(lambda row, _: row, "list_scope", values)
        count = sum(thread["messages"] for thread in threads)
        if count > SCANNED:
            raise CapabilityError(
                f"{operation} reads each message on Redis, and these are {count:,}, more than {SCANNED:,}",
                hint="name a thread, prune, or use PostgreSQL or SQLite",
                operation=operation,
                connection=self._name,
            )
        found: list[tuple[Message, Row]] = []
        for thread in threads:
            found += [(message, thread) for message in await self._scan_one(thread, values, is_wanted)]
        found.sort(key=lambda pair: _place(pair[0]), reverse=True)
        return found[: values["limit"]]

    async def _scan_one(
        self, thread: Row, values: dict[str, Any], is_wanted: Callable[[Message, Row], bool]
    ) -> list[Message]:
        after = None
        if values["after_time"] is not None:
            after = (values["after_time"], values["after_thread"], values["after_seq"])
        found: list[Message] = []
        before = NO_SEQ
        while len(found) < values["limit"]:
            asked = {"thread": thread["thread"], "user": thread["user"], "before": before, "limit": PAGE}
            page = await self._read_all(message_from_row, "list_messages_before", asked)
            behind = [message for message in page if after is None or _place(message) < after]
            found += [message for message in behind if is_wanted(message, thread)]
            if len(page) < PAGE:
                break
            before = page[-1].seq or 0
        return found


def _place(message: Message) -> tuple[Any, ...]:
    return message.created_at, message.thread_id, message.seq
