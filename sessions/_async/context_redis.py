"""The shared context on Redis: each call one Lua script, on keys that one cluster slot holds.

Keys are ``holdfast:{<tenant>:<user>}:context:<part>`` with both ids percent-encoded, so that no id can name the keys of
another. When every item of a user ends, the keys end a minute after the last one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote

from persistence import AsyncDatabaseManager
from persistence.dialect import to_json
from persistence.errors import CapabilityError
from persistence.scripts import call_script
from sessions.context import ContextAgent, ContextItem, ContextStats, Draft, Refused, Restored, agent_of

_PARTS = ("items", "order", "expiry", "agents")
READS = frozenset(("agent", "agents", "all_topics", "get", "items", "stats"))
"""Calls that change nothing: they are sent again after a dropped connection."""
_BATCH = 900
"""How many lines of an export one script takes; Lua passes at most some 8,000 arguments on."""


def _place(text: str) -> str:
    return quote(text, safe="")


class AsyncRedisContext:
    """Keeps contexts in hashes and sorted sets, four keys a user."""

    def __init__(self, manager: AsyncDatabaseManager, name: str, *, tenant: str) -> None:
        self._manager = manager
        self._name = name
        self._tenant = _place(tenant)

    async def _call(self, user: str, name: str, *arguments: str | int | None) -> Any:
        keys = [f"holdfast:{{{self._tenant}:{_place(user)}}}:context:{part}" for part in _PARTS]
        given = ["" if argument is None else argument for argument in arguments]
        connection = self._manager.get_redis(self._name)
        script = call_script("sessions", "context", name)
        return await connection.run_script(script, keys, [name, *given], reads=name in READS)

    async def push(self, user: str, draft: Draft, agent: str | None, expected: int | None) -> ContextItem | Refused:
        """Compare and write."""
        stored = await self._call(user, "push", *_stored(draft), draft.ttl, agent, expected)
        if len(stored) <= 2:  # the version that is there, and the permissions that forbid it
            return Refused(int(stored[0]), _list(stored[1]) if len(stored) == 2 else None)
        return _item(stored)

    async def get(self, user: str, key: str, agent: str | None) -> ContextItem | None:
        """Look it up."""
        found = await self._call(user, "get", key, agent)
        return None if found is None else _item(found)

    async def items(self, user: str, agent: str | None, topic: str | None, after: str, limit: int) -> list[ContextItem]:
        """Walk the sorted set."""
        return [_item(found) for found in await self._call(user, "items", agent, topic, after, limit)]

    async def delete(self, user: str, key: str) -> bool:
        """Remove it from all keys."""
        return bool(await self._call(user, "delete", key))

    async def set_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Replace them."""
        return _list(await self._call(user, "topics", agent, "set", to_json(topics)))

    async def add_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Append them."""
        return _list(await self._call(user, "topics", agent, "add", to_json(topics)))

    async def remove_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Take them out."""
        return _list(await self._call(user, "topics", agent, "remove", to_json(topics)))

    async def set_permissions(self, user: str, agent: str, permissions: list[str] | None) -> None:
        """Replace them."""
        await self._call(user, "permissions", agent, None if permissions is None else to_json(permissions))

    async def agent(self, user: str, agent: str) -> ContextAgent | None:
        """Look it up."""
        found = await self._call(user, "agent", agent)
        return None if found is None else _agent(agent.encode(), *found)

    async def agents(self, user: str, topic: str | None, after: str, limit: int) -> list[ContextAgent]:
        """Read all agents of the user; sorted here, since Lua would sort by the server's locale."""
        found = [_agent(*fields) for fields in await self._call(user, "agents")]
        wanted = [
            agent
            for agent in sorted(found, key=lambda agent: agent.agent)
            if agent.agent > after
            and (agent.topics or agent.permissions is not None)
            and (topic is None or topic in agent.topics)
        ]
        return wanted[:limit]

    async def topics(self, user: str, after: str, limit: int) -> list[str]:
        """Read the topics of agents and items; sorted here, as agents are."""
        found = {topic for topics in await self._call(user, "all_topics") for topic in _list(topics)}
        return sorted(topic for topic in found if topic > after)[:limit]

    async def delete_topic(self, user: str, topic: str) -> int:
        """Walk all items and agents of the user."""
        return int(await self._call(user, "delete_topic", topic))

    async def delete_expired(self, user: str | None, limit: int) -> int:
        """Remove a batch; of every user by looking for their keys, a round trip for each that has items that end."""
        if user is not None:
            return int(await self._call(user, "delete_expired", limit))
        client = self._manager.get_redis(self._name).client
        removed = 0
        async for key in client.scan_iter(match=f"holdfast:{{{self._tenant}:*}}:context:expiry", count=1000):
            found = key.decode().partition(":")[2].removeprefix("{").partition("}")[0].partition(":")[2]
            removed += int(await self._call(unquote(found), "delete_expired", limit - removed))
            if removed == limit:
                break
        return removed

    async def clear(self, user: str) -> int:
        """Delete the keys."""
        return int(await self._call(user, "clear"))

    async def erase(self, user: str) -> tuple[int, int]:
        """Delete the keys, and return how many items and agents there were, expired or not."""
        items, agents = await self._call(user, "erase")
        return int(items), int(agents)

    async def restore(self, user: str, found: Sequence[Restored | ContextAgent]) -> None:
        """Write batch after batch."""
        for start in range(0, len(found), _BATCH):
            await self._call(user, "restore", *_fields(found[start : start + _BATCH]))

    async def stats(self, user: str) -> ContextStats:
        """Count."""
        live, open_, expired, listening = await self._call(user, "stats")
        return ContextStats(items=live, for_everybody=open_, expired=expired, listening_agents=listening)

    async def protect(self, on: bool) -> None:
        """Refuse: there is no SQL that it could hold for."""
        raise CapabilityError("only PostgreSQL has row-level security", connection=self._name)


def _stored(draft: Draft) -> tuple[str, str, str, str]:
    return draft.key, draft.value, to_json(draft.topics), to_json(draft.subscribers)


def _fields(found: Sequence[Restored | ContextAgent]) -> Iterator[str | int]:
    for entry in found:
        if isinstance(entry, ContextAgent):
            permissions = "" if entry.permissions is None else to_json(entry.permissions)
            yield from ("agent", entry.agent, to_json(entry.topics), permissions, "", "", "", "")
        else:
            yield from ("item", *_stored(entry.draft), entry.created)
            yield "" if entry.expires is None else entry.expires
            yield "" if entry.draft.ttl is None else entry.draft.ttl


def _list(text: bytes) -> list[str]:
    found: list[str] = json.loads(text)
    return found


def _item(fields: Sequence[bytes]) -> ContextItem:
    key, value, topics, subscribers, version, created, updated, expires, ttl = fields
    draft = Draft(key.decode(), value.decode(), _list(topics), _list(subscribers), int(ttl) if ttl else None)
    return draft.item(int(version), int(created), int(updated), int(expires) if expires else None)


def _agent(agent: bytes, topics: bytes, permissions: bytes) -> ContextAgent:
    return agent_of(agent.decode(), _list(topics), _list(permissions) if permissions else None)
