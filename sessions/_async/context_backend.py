"""What keeps a context: the calls that each backend answers in the same way, their arguments checked already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sessions.context import ContextAgent, ContextItem, ContextStats, Draft, Refused, Restored


class AsyncContextBackend(Protocol):
    """Keeps the items and agents of every user of one tenant; ``user`` is ``SHARED`` for what all of them share."""

    async def push(self, user: str, draft: Draft, agent: str | None, expected: int | None) -> ContextItem | Refused:
        """Store an item if it has the expected version (0: it isn't there) and the agent may post to its topics."""

    async def get(self, user: str, key: str, agent: str | None) -> ContextItem | None:
        """Return an item, for an agent only if it is addressed."""

    async def items(self, user: str, agent: str | None, topic: str | None, after: str, limit: int) -> list[ContextItem]:
        """Return items with keys above ``after``, by key in the order of UTF-8."""

    async def delete(self, user: str, key: str) -> bool:
        """Remove an item and tell whether it was there."""

    async def set_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Replace the topics of an agent."""

    async def add_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Append to the topics of an agent."""

    async def remove_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Take out of the topics of an agent."""

    async def set_permissions(self, user: str, agent: str, permissions: list[str] | None) -> None:
        """Replace the permissions of an agent."""

    async def agent(self, user: str, agent: str) -> ContextAgent | None:
        """Return an agent."""

    async def agents(self, user: str, topic: str | None, after: str, limit: int) -> list[ContextAgent]:
        """Return agents that listen (to the topic, if one is named) or are limited, by name."""

    async def topics(self, user: str, after: str, limit: int) -> list[str]:
        """Return the topics that agents listen to or items have, in order."""

    async def delete_topic(self, user: str, topic: str) -> int:
        """Remove a topic everywhere, and the items addressed to it alone; return how many."""

    async def delete_expired(self, user: str | None, limit: int) -> int:
        """Remove at most ``limit`` expired items of a user, or of every user, and return how many."""

    async def clear(self, user: str) -> int:
        """Remove everything of a user and return how many items."""

    async def restore(self, user: str, found: Sequence[Restored | ContextAgent]) -> None:
        """Write what an export holds, replacing what has the same key or name."""

    async def stats(self, user: str) -> ContextStats:
        """Count."""

    async def protect(self, on: bool) -> None:
        """Switch row-level security on or off."""
