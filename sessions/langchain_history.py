"""LangChain's chat message history on ours: PostgreSQL or SQLite (extra ``langchain``).

::

    history = HoldfastChatMessageHistory("chat-1", manager, user_id="ada")
    history.add_messages([HumanMessage("Hello"), AIMessage("Hi")])

A history is a thread, its messages are the thread's: ``MessageStore`` and ``ThreadManager`` read and search them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persistence._async.manager import AsyncDatabaseManager
from persistence._sync.manager import DatabaseManager
from persistence.errors import CapabilityError, ValidationError
from persistence.extras import extra
from persistence.validation import check_whole
from sessions._async.chat_history import AsyncChatHistory
from sessions._sync.chat_history import ChatHistory
from sessions.messages import Message

with extra("langchain"):
    from langchain_core.chat_history import BaseChatMessageHistory
    from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict

__all__ = ["HoldfastChatMessageHistory"]


class HoldfastChatMessageHistory(BaseChatMessageHistory):
    """The messages of one session, over a ``DatabaseManager``, an ``AsyncDatabaseManager`` or one of each.

    ``messages`` holds the last ``limit``, oldest first; None is all. Adding messages is one statement, all or none.
    The thread is made with the first ones, for ``user_id``. Neither side runs the other.
    """

    def __init__(
        self,
        session_id: str,
        *managers: DatabaseManager | AsyncDatabaseManager,
        name: str = "main",
        user_id: str = "default",
        tenant: str = "default",
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.session_id = session_id
        self._limit = None if limit is None else check_whole("limit", limit, least=0)
        self._sync: ChatHistory | None = None
        self._async: AsyncChatHistory | None = None
        for manager in managers:
            if isinstance(manager, DatabaseManager) and self._sync is None:
                self._sync = ChatHistory(manager, name, tenant=tenant, thread_id=session_id, user_id=user_id)
            elif isinstance(manager, AsyncDatabaseManager) and self._async is None:
                self._async = AsyncChatHistory(manager, name, tenant=tenant, thread_id=session_id, user_id=user_id)
            else:
                raise ValidationError(
                    f"a {type(manager).__name__} can't be used here",
                    hint="it takes a DatabaseManager, an AsyncDatabaseManager, or one of each",
                )

    @property
    def _ours(self) -> ChatHistory:
        if self._sync is None:
            raise CapabilityError("this history has no sync side", hint="give it a DatabaseManager")
        return self._sync

    @property
    def _ours_async(self) -> AsyncChatHistory:
        if self._async is None:
            raise CapabilityError("this history has no async side", hint="give it an AsyncDatabaseManager")
        return self._async

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """The messages, oldest first; each access reads them."""
        return _theirs(self._ours.read(self._limit))

    async def aget_messages(self) -> list[BaseMessage]:
        """Return the messages, oldest first."""
        return _theirs(await self._ours_async.read(self._limit))

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages.

        Raises:
            ValidationError: one of them holds what JSON would change; nothing was written.
        """
        self._ours.append([_message(message) for message in messages])

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages as ``add_messages`` does."""
        await self._ours_async.append([_message(message) for message in messages])

    def clear(self) -> None:
        """Remove the thread with all of its messages; the next ones make it anew."""
        self._ours.clear()

    async def aclear(self) -> None:
        """Remove the thread as ``clear`` does."""
        await self._ours_async.clear()


def _message(message: Any) -> Message:
    if not isinstance(message, BaseMessage):
        raise ValidationError(f"a {type(message).__name__} is no message of LangChain's")
    usage = getattr(message, "usage_metadata", None) or {}
    return Message(
        role=message.type,
        content=message_to_dict(message),
        input_tokens=usage.get("input_tokens"),
        output_tokens=usage.get("output_tokens"),
    )


def _theirs(contents: list[Any]) -> list[BaseMessage]:
    return messages_from_dict(contents)
