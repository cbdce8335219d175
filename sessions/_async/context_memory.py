"""The shared context in the memory of this process, gone with it.

Values are kept as JSON text, so that nothing is shared with the caller and every backend refuses the same values.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from persistence._async.compat import Mutex
from persistence.dialect import to_micros
from persistence.errors import CapabilityError
from sessions.context import ContextAgent, ContextItem, ContextStats, Draft, Refused, Restored


@dataclass(slots=True)
class _Kept:
    draft: Draft
    version: int
    created: int
    updated: int
    expires: int | None

    def is_live(self, now: int) -> bool:
        return self.expires is None or self.expires > now

    def item(self) -> ContextItem:
        return self.draft.item(self.version, self.created, self.updated, self.expires)

    def is_for(self, agent: str, listens: Sequence[str]) -> bool:
        draft = self.draft
        if not draft.topics and not draft.subscribers:
            return True
        return agent in draft.subscribers or not set(draft.topics).isdisjoint(listens)


@dataclass(slots=True)
class _Scope:
    items: dict[str, _Kept] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    agents: dict[str, ContextAgent] = field(default_factory=dict)

    def put(self, key: str, kept: _Kept) -> None:
        if key not in self.items:
            insort(self.keys, key)
        self.items[key] = kept

    def drop(self, gone: set[str]) -> None:
        for key in gone:
            del self.items[key]
        self.keys = [key for key in self.keys if key not in gone]

    def agent(self, agent: str) -> ContextAgent:
        return self.agents.get(agent) or ContextAgent(agent=agent)


def _now() -> int:
    return to_micros(datetime.now(UTC))


class AsyncMemoryContext:
    """Keeps contexts in dicts; every call holds one lock, and waits for nothing."""

    def __init__(self) -> None:
        self._mutex = Mutex()
        self._scopes: dict[str, _Scope] = {}

    def _scope(self, user: str) -> _Scope:
        return self._scopes.setdefault(user, _Scope())

    async def push(self, user: str, draft: Draft, agent: str | None, expected: int | None) -> ContextItem | Refused:
        """Store it, unless the version or the permission is against it."""
        with self._mutex:
            scope, now = self._scope(user), _now()
            old = scope.items.get(draft.key)
            if old is not None and not old.is_live(now):
                old = None
            actual = 0 if old is None else old.version
            rules = None if agent is None else scope.agent(agent)
            denied = None if rules is None or rules.may_post(draft.topics) else rules.permissions
            if denied is not None or (expected is not None and expected != actual):
                return Refused(actual, denied)
            expires = None if draft.ttl is None else now + draft.ttl
            created, updated = (now, now) if old is None else (old.created, max(old.updated, now))
            kept = _Kept(draft, actual + 1, created, updated, expires)
            scope.put(draft.key, kept)
            return kept.item()

    async def get(self, user: str, key: str, agent: str | None) -> ContextItem | None:
        """Look it up."""
        with self._mutex:
            scope = self._scope(user)
            kept = scope.items.get(key)
            if kept is None or not kept.is_live(_now()):
                return None
            is_open = agent is None or kept.is_for(agent, scope.agent(agent).topics)
            return kept.item() if is_open else None

    async def items(self, user: str, agent: str | None, topic: str | None, after: str, limit: int) -> list[ContextItem]:
        """Walk the sorted keys."""
        with self._mutex:
            scope, now = self._scope(user), _now()
            listens = () if agent is None else scope.agent(agent).topics
            found: list[ContextItem] = []
            for key in scope.keys[bisect_right(scope.keys, after) :]:
                kept = scope.items[key]
                if (
                    kept.is_live(now)
                    and (topic is None or topic in kept.draft.topics)
                    and (agent is None or kept.is_for(agent, listens))
                ):
                    found.append(kept.item())
                    if len(found) == limit:
                        break
            return found

    async def delete(self, user: str, key: str) -> bool:
        """Remove it."""
        with self._mutex:
            scope = self._scope(user)
            kept = scope.items.get(key)
            if kept is None:
                return False
            scope.drop({key})
            return kept.is_live(_now())

    async def set_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Replace them."""
        return self._listen(user, agent, lambda _: list(topics))

    async def add_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Append them."""
        return self._listen(user, agent, lambda known: list(dict.fromkeys([*known, *topics])))

    async def remove_topics(self, user: str, agent: str, topics: list[str]) -> list[str]:
        """Take them out."""
        return self._listen(user, agent, lambda known: [topic for topic in known if topic not in topics])

    def _listen(self, user: str, agent: str, change: Callable[[list[str]], list[str]]) -> list[str]:
        with self._mutex:
            scope = self._scope(user)
            rules = scope.agent(agent)
            scope.agents[agent] = replace(rules, topics=change(rules.topics))
            return list(scope.agents[agent].topics)

    async def set_permissions(self, user: str, agent: str, permissions: list[str] | None) -> None:
        """Replace them."""
        with self._mutex:
            scope = self._scope(user)
            scope.agents[agent] = replace(scope.agent(agent), permissions=permissions)

    async def agent(self, user: str, agent: str) -> ContextAgent | None:
        """Look it up."""
        with self._mutex:
            found = self._scope(user).agents.get(agent)
            return None if found is None else _copy(found)

    async def agents(self, user: str, topic: str | None, after: str, limit: int) -> list[ContextAgent]:
        """Sort and filter."""
        with self._mutex:
            found = [
                _copy(rules)
                for name, rules in sorted(self._scope(user).agents.items())
                if name > after
                and (rules.topics or rules.permissions is not None)
                and (topic is None or topic in rules.topics)
            ]
            return found[:limit]

    async def topics(self, user: str, after: str, limit: int) -> list[str]:
        """Gather and sort."""
        with self._mutex:
            scope, now = self._scope(user), _now()
            found = {topic for rules in scope.agents.values() for topic in rules.topics}
            found.update(topic for kept in scope.items.values() if kept.is_live(now) for topic in kept.draft.topics)
            return sorted(topic for topic in found if topic > after)[:limit]

    async def delete_topic(self, user: str, topic: str) -> int:
        """Remove it everywhere."""
        with self._mutex:
            scope, now = self._scope(user), _now()
            gone: dict[str, bool] = {}
            for key, kept in scope.items.items():
                draft = kept.draft
                if draft.topics == [topic] and not draft.subscribers:
                    gone[key] = kept.is_live(now)
                elif topic in draft.topics:
                    kept.draft = draft._replace(topics=[name for name in draft.topics if name != topic])
                    kept.version, kept.updated = kept.version + 1, max(kept.updated, now)
            scope.drop(set(gone))
            for name, rules in scope.agents.items():
                allowed = rules.permissions
                scope.agents[name] = ContextAgent(
                    agent=name,
                    topics=[known for known in rules.topics if known != topic],
                    permissions=None if allowed is None else [known for known in allowed if known != topic],
                )
            return sum(gone.values())

    async def delete_expired(self, user: str | None, limit: int) -> int:
        """Remove them."""
        with self._mutex:
            now, left = _now(), limit
            for scope in self._scopes.values() if user is None else [self._scope(user)]:
                gone = [key for key in scope.keys if not scope.items[key].is_live(now)][:left]
                scope.drop(set(gone))
                left -= len(gone)
            return limit - left

    async def clear(self, user: str) -> int:
        """Forget the user."""
        with self._mutex:
            now, scope = _now(), self._scopes.pop(user, _Scope())
            return sum(kept.is_live(now) for kept in scope.items.values())

    async def restore(self, user: str, found: Sequence[Restored | ContextAgent]) -> None:
        """Write all of it."""
        with self._mutex:
            scope, now = self._scope(user), _now()
            for entry in found:
                if isinstance(entry, ContextAgent):
                    scope.agents[entry.agent] = _copy(entry)
                else:
                    old = scope.items.get(entry.draft.key)
                    version = 1 if old is None else old.version + 1
                    scope.put(entry.draft.key, _Kept(entry.draft, version, entry.created, now, entry.expires))

    async def stats(self, user: str) -> ContextStats:
        """Count."""
        with self._mutex:
            scope, now = self._scope(user), _now()
            live = [kept for kept in scope.items.values() if kept.is_live(now)]
            return ContextStats(
                items=len(live),
                for_everybody=sum(not kept.draft.topics and not kept.draft.subscribers for kept in live),
                expired=len(scope.items) - len(live),
                listening_agents=sum(bool(rules.topics) for rules in scope.agents.values()),
            )

    async def protect(self, on: bool) -> None:
        """Refuse: there is no SQL that it could hold for."""
        raise CapabilityError("only PostgreSQL has row-level security")


def _copy(rules: ContextAgent) -> ContextAgent:
    return replace(
        rules,
        topics=list(rules.topics),
        permissions=None if rules.permissions is None else list(rules.permissions),
    )
