# Generated from ../_async/chat_history.py by tests/unasync.py: edit that one.
"""One thread as frameworks see a conversation: it is there with its first message, and gone when it is cleared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from persistence import DatabaseManager
from persistence.errors import DuplicateError, NotFoundError
from persistence.validation import LIMIT, check_id, check_whole
from sessions._sync.messages import MessageStore
from sessions._sync.threads import ThreadManager
from sessions.messages import NO_SEQ, Message
from sessions.records import Thread


class ChatHistory:
    """The messages of one thread of a user, on a connection of a manager."""

    def __init__(self, manager: DatabaseManager, name: str, *, tenant: str, thread_id: str, user_id: str) -> None:
        self.thread_id = check_id("the session's id", thread_id)
        self._user_id = check_id("the user's id", user_id)
        self._messages = MessageStore(manager, name, tenant=tenant)
        self._threads = ThreadManager(manager, name, tenant=tenant)

    def read(self, limit: int | None) -> list[Any]:
        """Return the contents of the last ``limit`` messages, oldest first; None is all, read page by page."""
        wanted = NO_SEQ if limit is None else check_whole("limit", limit, least=0)
        found: list[Any] = []
        before = NO_SEQ
        while len(found) < wanted:
            asked = min(wanted - len(found), LIMIT)
            page = self._messages._contents(self.thread_id, before, asked)
            found += [content for _, content in page]
            if len(page) < asked:
                break
            before = page[-1][0]
        found.reverse()
        return found

    def append(self, messages: Sequence[Message]) -> None:
        """Append messages in one statement; the first ones of a thread make it."""
        if not messages:
            return
        try:
            self._send(messages)
        except NotFoundError:
            with suppress(DuplicateError):  # somebody else's first messages came in between
                self._threads.create_thread(Thread(id=self.thread_id, user_id=self._user_id))
            self._send(messages)

    def _send(self, messages: Sequence[Message]) -> None:
        if len(messages) == 1:
            self._messages.append(self.thread_id, messages[0])
        else:
            self._messages.append_many(self.thread_id, messages)

    def pop(self) -> Message | None:
        """Take the last message away and return it; None where there is none."""
        try:
            return self._messages.pop_last(self.thread_id)
        except NotFoundError:
            return None

    def clear(self) -> None:
        """Remove the thread with all of its messages."""
        self._threads.delete_thread(self.thread_id)
