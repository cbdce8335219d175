"""The context that agents share: items with subscribers, topics and a time to live, apart for each user."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterable
from typing import Any, Self

from persistence import AsyncDatabaseManager
from persistence._async.guards import AsyncSecretsOption, check_secrets, guarded
from persistence._async.manager import named_connection
from persistence.errors import ConflictError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_id, check_limit, check_tenant, shown
from sessions._async.context_backend import AsyncContextBackend
from sessions._async.context_memory import AsyncMemoryContext
from sessions._async.context_redis import AsyncRedisContext
from sessions._async.context_sql import AsyncSQLContext
from sessions.contents import content_json, decoded
from sessions.context import (
    ContextAgent,
    ContextItem,
    ContextStats,
    NotPermittedError,
    Refused,
    Restored,
    agent_line,
    check_agent,
    check_names,
    context_of,
    draft_of,
    item_line,
    read_line,
)
from sessions.items import SHARED
from sessions.records import expected_of

BATCH = 1000
"""How many items a clean-up removes, an export reads and an import writes at a time."""


class AsyncContextStore:
    """The shared context of one tenant, on a PostgreSQL, SQLite or Redis connection of a manager.

    The store itself holds what all users of the tenant share; ``for_user`` gives the store of one user. Nothing of one
    is seen, changed, counted or removed by another: the user is part of every key.

    An agent reads an item that is addressed to nobody, to it, or to a topic that it listens to *now*. What has expired
    is not there, for any call, whether ``cleanup_expired`` ran or not: by the clock of the server on PostgreSQL and
    Redis, by ours on SQLite. A value is any JSON and comes back as it was, NUL and lone surrogates included.

    Every call is one round trip. On PostgreSQL and SQLite it commits before it returns, or joins the transaction that
    its task is in; on Redis it is one atomic script.

    With ``row_security=True`` each call on PostgreSQL tells the server whose rows it may see, which costs a transaction
    around it; a program needs that where it connects as a role for which ``enable_row_security`` holds.

    ``secrets`` says what becomes of secrets in values: a ``SecretVault`` keeps them, under the context ``context``, or
    ``context/`` and the user's id, and references stand in their place; ``"redact"`` takes them out; ``"refuse"`` is a
    ValidationError.
    """

    _backend: AsyncContextBackend
    _secrets: AsyncSecretsOption = None

    @named_connection
    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        *,
        tenant: str = "default",
        migrate: bool = True,
        row_security: bool = False,
        secrets: AsyncSecretsOption = None,
    ) -> None:
        self._user = SHARED
        self._secrets = check_secrets(secrets)
        self._name: str | None = name
        if manager.get(name).kind == "redis":
            if row_security:
                raise ValidationError("row_security is for PostgreSQL", hint="leave it out: the keys isolate users")
            self._backend = AsyncRedisContext(manager, name, tenant=check_tenant(tenant))
        else:
            self._backend = AsyncSQLContext(manager, name, tenant=tenant, migrate=migrate, row_security=row_security)

    def for_user(self, user_id: str) -> Self:
        """Return the store of one user.

        Raises:
            ValidationError: the id is empty, too long or no text. There is no id that stands for everybody.
        """
        bound = copy.copy(self)
        bound._user = check_id("the user's id", user_id)
        return bound

    @property
    def user_id(self) -> str | None:
        """Whose context it is; None is what all users share."""
        return self._user or None

    async def push(
        self,
        key: str,
        value: Any,
        *,
        subscribers: list[str] | None = None,
        topics: list[str] | None = None,
        ttl: Duration | None = None,
        agent: str | None = None,
        expected_version: int | None = None,
    ) -> ContextItem:
        """Store a value under a key, replacing what is there, and return the item as stored.

        It is addressed to ``subscribers`` (agents) and to who listens to ``topics``; without either, to everybody. It
        ends ``ttl`` seconds (or a timedelta) after the call; 0 and less is at once, None is never.

        ``agent`` is who pushes: one with permissions may push only to topics that it may post to, and must name one.
        ``expected_version`` is the version that must be there, 0 for none.

        Raises:
            NotPermittedError: the agent may not post there; nothing was written.
            ConflictError: another version is there, which is in ``actual``; nothing was written.
            ValidationError: something in it can't be stored; nothing was written.
        """
        draft = draft_of(key, value, subscribers, topics, ttl)
        if self._secrets is not None:
            draft = draft_of(key, await self._guarded(key, value), subscribers, topics, ttl)
        pusher = None if agent is None else check_agent(agent)
        expected = expected_of(None, expected_version)
        stored = await self._backend.push(self._user, draft, pusher, expected)
        if not isinstance(stored, Refused):
            return stored
        if stored.permissions is not None or expected is None:
            allowed = ", ".join(map(shown, (stored.permissions or [])[:10])) or "nowhere"
            wanted = ", ".join(map(shown, draft.topics[:10])) or "everybody or single agents"
            raise NotPermittedError(
                f"agent {shown(pusher or '')} may not post to {wanted}",
                hint=f"it may post to: {allowed}",
                operation="push",
                connection=self._name,
            )
        raise ConflictError(
            f"context item {shown(key)} has version {stored.actual}, not {expected}",
            expected=expected,
            actual=stored.actual,
            hint="read it again, apply the change to what is there now, and push that",
            operation="push",
            connection=self._name,
        )

    async def _guarded(self, key: str, value: Any) -> Any:
        """Return a value with what is to be kept of the secrets in it."""
        kept = await guarded(self._secrets, {key: value}, "the value", context_of(self._user))
        return next(iter(kept.values()))

    async def get(self, key: str, agent: str | None = None) -> Any:
        """Return a value, or None when it isn't there or, for an agent, isn't addressed to it.

        Without ``agent`` nobody's access is checked. ``get_item`` tells a stored None from a missing one.
        """
        found = await self.get_item(key, agent)
        return None if found is None else found.value

    async def get_item(self, key: str, agent: str | None = None) -> ContextItem | None:
        """Return an item, or None as ``get`` does."""
        reader = None if agent is None else check_agent(agent)
        return await self._backend.get(self._user, check_id("the key", key), reader)

    async def items_for(
        self, agent: str, *, topic: str | None = None, limit: int = 100, after: str | None = None
    ) -> list[ContextItem]:
        """Return what an agent may read, of one topic if it is named, by key; ``after`` is the last key seen."""
        return await self._items(check_agent(agent), topic, limit, after)

    async def items(self, *, topic: str | None = None, limit: int = 100, after: str | None = None) -> list[ContextItem]:
        """Return every item, of one topic if it is named, by key; ``after`` is the last key seen."""
        return await self._items(None, topic, limit, after)

    async def _items(self, agent: str | None, topic: str | None, limit: int, after: str | None) -> list[ContextItem]:
        wanted = None if topic is None else check_id("the topic", topic)
        return await self._backend.items(self._user, agent, wanted, _after(after), check_limit(limit))

    async def delete(self, key: str) -> bool:
        """Remove an item and tell whether it was there."""
        return await self._backend.delete(self._user, check_id("the key", key))

    async def register_topics(self, agent: str, topics: list[str]) -> list[str]:
        """Have an agent listen to these topics and no others, and return them without repeats, in this order."""
        return await self._backend.set_topics(self._user, check_agent(agent), check_names("topics", topics))

    async def subscribe(self, agent: str, topics: list[str]) -> list[str]:
        """Have an agent listen to these topics too, and return all of its topics; two callers at once both count."""
        return await self._backend.add_topics(self._user, check_agent(agent), check_names("topics", topics))

    async def unsubscribe(self, agent: str, topics: list[str]) -> list[str]:
        """Have an agent no longer listen to these topics, and return those that it still listens to."""
        return await self._backend.remove_topics(self._user, check_agent(agent), check_names("topics", topics))

    async def topics_of(self, agent: str) -> list[str]:
        """Return what an agent listens to, in the order of registration; ``[]`` for an unknown one."""
        found = await self._backend.agent(self._user, check_agent(agent))
        return [] if found is None else found.topics

    async def subscribers_of(self, topic: str, *, limit: int = 1000, after: str | None = None) -> list[str]:
        """Return the agents that listen to a topic, by name."""
        wanted = check_id("the topic", topic)
        found = await self._backend.agents(self._user, wanted, _after(after), check_limit(limit))
        return [agent.agent for agent in found]

    async def topics(self, *, limit: int = 1000, after: str | None = None) -> list[str]:
        """Return every topic that an agent listens to or an item is addressed to, in order."""
        return await self._backend.topics(self._user, _after(after), check_limit(limit))

    async def agents(self, *, limit: int = 100, after: str | None = None) -> list[ContextAgent]:
        """Return the agents that listen to a topic or are limited in posting, by name."""
        return await self._backend.agents(self._user, None, _after(after), check_limit(limit))

    async def set_permissions(self, agent: str, topics: list[str] | None) -> None:
        """Say to which topics an agent may post: None is anywhere, as for an unknown agent, and ``[]`` nowhere."""
        allowed = None if topics is None else check_names("topics", topics)
        await self._backend.set_permissions(self._user, check_agent(agent), allowed)

    async def permissions_of(self, agent: str) -> list[str] | None:
        """Return to which topics an agent may post: None is anywhere, ``[]`` nowhere."""
        found = await self._backend.agent(self._user, check_agent(agent))
        return None if found is None else found.permissions

    async def can_post(self, agent: str, topic: str) -> bool:
        """Tell whether an agent may post to a topic; ``push(…, agent=…)`` checks it in the same step as it writes."""
        wanted = check_id("the topic", topic)
        found = await self._backend.agent(self._user, check_agent(agent))
        return found is None or found.may_post([wanted])

    async def delete_topic(self, topic: str) -> int:
        """Remove a topic from agents, permissions and items, and return how many items went with it.

        An item goes when nothing else addresses it: without its topic everybody could read it. One with other topics or
        with subscribers stays for them.
        """
        return await self._backend.delete_topic(self._user, check_id("the topic", topic))

    async def cleanup_expired(self, *, all_users: bool = False, batch: int = BATCH) -> int:
        """Remove what has expired, ``batch`` items at a time, and return how many there were.

        It takes room only: nothing sees an expired item. ``all_users`` cleans up for every user of the tenant.

        Raises:
            ValidationError: ``all_users`` in the store of one user.
            CapabilityError: ``all_users`` as a role that row-level security holds for, which sees one user at a time.
        """
        if all_users and self._user:
            raise ValidationError("all_users is not for the store of one user", hint="call it on the tenant's store")
        size = check_limit(batch, "batch")
        removed, found = 0, size
        while found == size:
            found = await self._backend.delete_expired(None if all_users else self._user, size)
            removed += found
        return removed

    async def clear(self) -> int:
        """Remove every item, topic and permission of this user (or of what is shared), and return how many items."""
        return await self._backend.clear(self._user)

    async def stats(self) -> ContextStats:
        """Count the items and agents."""
        return await self._backend.stats(self._user)

    async def export(self) -> AsyncIterator[str]:
        """Yield agents, then items, as lines of JSON, from which ``import_`` makes the same again.

        It reads page by page: use a ``repeatable read`` transaction where others write meanwhile.
        """
        agents = await self._backend.agents(self._user, None, "", BATCH)
        while agents:
            for agent in agents:
                yield agent_line(agent)
            agents = await self._backend.agents(self._user, None, agents[-1].agent, BATCH)
        items = await self._backend.items(self._user, None, None, "", BATCH)
        while items:
            for item in items:
                yield item_line(item)
            items = await self._backend.items(self._user, None, None, items[-1].key, BATCH)

    async def import_(self, lines: Iterable[str]) -> int:
        """Write the lines of an export, replacing what has the same key or name; return how many there were.

        An item keeps the time at which it was made and the one at which it ends. All is written or nothing, except on
        Redis, where that holds for each 900 lines.

        Raises:
            ValidationError: a line is none of an export; nothing was written.
        """
        found = [read_line(line) for line in lines if line.strip()]
        if self._secrets is not None:
            found = [await self._guarded_line(each) for each in found]
        if found:
            await self._backend.restore(self._user, found)
        return len(found)

    async def _guarded_line(self, found: Restored | ContextAgent) -> Restored | ContextAgent:
        if not isinstance(found, Restored):
            return found
        value = content_json(await self._guarded(found.draft.key, decoded(found.draft.value)), "the value")
        return found._replace(draft=found.draft._replace(value=value))

    async def enable_row_security(self) -> None:
        """Have PostgreSQL itself show each user's rows to that user only, however the SQL was written.

        It holds for every role but superusers and the owner of the tables, on the settings ``holdfast.tenant_id`` and
        ``holdfast.user_id`` of the connection or transaction; without them nothing is seen.

        Raises:
            CapabilityError: it isn't PostgreSQL.
        """
        await self._backend.protect(True)

    async def disable_row_security(self) -> None:
        """Undo ``enable_row_security``."""
        await self._backend.protect(False)


class AsyncMemoryContextStore(AsyncContextStore):
    """The shared context in the memory of this process: the same calls and answers, for tests and what may go.

    ``secrets`` is the option of ``AsyncContextStore``.
    """

    def __init__(self, *, secrets: AsyncSecretsOption = None) -> None:
        self._user = SHARED
        self._secrets = check_secrets(secrets)
        self._name = None
        self._backend = AsyncMemoryContext()


def _after(after: object) -> str:
    return "" if after is None else check_id("after", after)
