"""Sessions of the OpenAI Agents SDK on ours: PostgreSQL, SQLite or Redis (extra ``openai-agents``).

::

    async with AsyncDatabaseManager() as manager:
        await manager.add_postgresql("main", "postgresql://localhost/app")
        session = HoldfastSession("chat-1", manager, user_id="ada")
        await Runner.run(agent, "Hello", session=session)

A session is a thread, its items are the thread's messages: ``MessageStore`` and ``ThreadManager`` read and search them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from persistence._async.manager import AsyncDatabaseManager
from persistence.errors import ValidationError
from persistence.extras import extra
from sessions._async.chat_history import AsyncChatHistory
from sessions.messages import Message

with extra("openai-agents"):
    from agents.memory import SessionABC, SessionSettings

if TYPE_CHECKING:
    from agents.items import TResponseInputItem

__all__ = ["HoldfastSession"]


class HoldfastSession(SessionABC):
    """The history of one session, in the order in which it was committed.

    Adding items is one statement, however many they are: all of them or none, and none of another writer's between
    them. An item comes back as it was added, key order, NUL and lone surrogates included. The thread is made with the
    first items, for ``user_id``.
    """

    def __init__(
        self,
        session_id: str,
        manager: AsyncDatabaseManager,
        name: str = "main",
        *,
        user_id: str = "default",
        tenant: str = "default",
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        self._history = AsyncChatHistory(manager, name, tenant=tenant, thread_id=session_id, user_id=user_id)
        self.session_id = session_id
        if isinstance(session_settings, dict):
            session_settings = SessionSettings().resolve(session_settings)
        self.session_settings = session_settings or SessionSettings()

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the last ``limit`` items, oldest first; None is the limit of the settings, or all."""
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        return await self._history.read(limit)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items.

        Raises:
            ValidationError: one of them isn't a dict of JSON; nothing was written.
        """
        await self._history.append([_message(item) for item in items])

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the last item away and return it; None where there is none."""
        message = await self._history.pop()
        return None if message is None else _item(message)

    async def clear_session(self) -> None:
        """Remove the thread with all of its items; the next items make it anew."""
        await self._history.clear()


def _message(item: Any) -> Message:
    """Return an item as a message; what has no role (a call, its output, reasoning) has its type for one."""
    if not isinstance(item, dict):
        raise ValidationError(f"an item is a {type(item).__name__}, not a dict")
    role = item.get("role") or item.get("type") or "item"
    return Message(role=str(role), content=item)


def _item(message: Message) -> TResponseInputItem:
    item: TResponseInputItem = message.content
    return item
