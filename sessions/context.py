"""Own the records of the shared context: items, agents and their permissions, and the lines that export them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from persistence.dialect import from_micros, to_micros
from persistence.errors import PersistenceError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_id, shown
from sessions.contents import content_json, decoded
from sessions.items import lifetime_micros, namespace_key

NAMESPACE = namespace_key(["context"])
"""The namespace of the context among all items."""

_MICROSECOND = timedelta(microseconds=1)


class NotPermittedError(PersistenceError):
    """An agent did what it may not: it pushed to a topic, or read or wrote in a scope, that is closed to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextItem:
    """A value that agents share, as it is stored.

    It is addressed to the agents in ``subscribers`` and to those who listen to one of ``topics``; without either, to
    every agent. ``version`` counts its pushes from 1. ``ttl`` is the time to live that it was pushed with, and
    ``expires_at`` when it ends; None is never. A listing goes on after an item's ``key``.
    """

    key: str
    value: Any
    subscribers: list[str] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    version: int
    ttl: timedelta | None = None
    expires_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextAgent:
    """What an agent listens to, in the order in which it was registered, and where it may post.

    ``permissions`` is None for anywhere, ``[]`` for nowhere.
    """

    agent: str
    topics: list[str] = field(default_factory=list)
    permissions: list[str] | None = None

    def may_post(self, topics: Sequence[str]) -> bool:
        """Tell whether a push to these topics is permitted: who is limited must name topics, all of them permitted."""
        if self.permissions is None:
            return True
        return bool(topics) and set(topics) <= set(self.permissions)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextStats:
    """How much a context holds: ``items`` that are there, of which ``for_everybody`` are addressed to nobody.

    ``expired`` ones are no longer there, but not yet removed. ``listening_agents`` have at least one topic.
    """

    items: int
    for_everybody: int
    expired: int
    listening_agents: int


class Draft(NamedTuple):
    """A push, checked: what every backend stores of it."""

    key: str
    value: str
    topics: list[str]
    subscribers: list[str]
    ttl: int | None

    def item(self, version: int, created: int, updated: int, expires: int | None) -> ContextItem:
        """Return the item as stored; the times are in microseconds."""
        return ContextItem(
            key=self.key,
            value=decoded(self.value),
            subscribers=list(self.subscribers),
            topics=list(self.topics),
            version=version,
            ttl=None if self.ttl is None else self.ttl * _MICROSECOND,
            expires_at=None if expires is None else from_micros(expires),
            created_at=from_micros(created),
            updated_at=from_micros(updated),
        )


class Restored(NamedTuple):
    """An item of an export: a draft and its times, in microseconds."""

    draft: Draft
    created: int
    expires: int | None


class Refused(NamedTuple):
    """Why nothing was pushed: the version that is there (0: none), and the agent's permissions if they forbid it."""

    actual: int
    permissions: list[str] | None


def check_agent(agent: object) -> str:
    """Return an agent's name: a text of 1 to 1,024 bytes."""
    return check_id("the agent's name", agent)


def check_names(what: str, names: object) -> list[str]:
    """Return names without repeats, in their order; None is none.

    Raises:
        ValidationError: it is no list of texts (a single str is none, though it can be iterated).
    """
    if names is None:
        return []
    if not isinstance(names, list | tuple | set | frozenset):
        raise ValidationError(f"{what} is a {type(names).__name__}, not a list of names")
    given = sorted(names) if isinstance(names, set | frozenset) and all(isinstance(n, str) for n in names) else names
    return list(dict.fromkeys([check_id(f"a name in {what}", name) for name in given]))


def draft_of(key: object, value: object, subscribers: object, topics: object, ttl: Duration | None) -> Draft:
    """Return a push, checked.

    Raises:
        ValidationError: something in it can't be stored.
    """
    return Draft(
        check_id("the key", key),
        content_json(value, "the value"),
        check_names("topics", topics),
        check_names("subscribers", subscribers),
        lifetime_micros(ttl),
    )


def item_line(item: ContextItem) -> str:
    """Return the line of an export that holds an item."""
    return json.dumps(
        {
            "kind": "item",
            "key": item.key,
            "value": item.value,
            "subscribers": item.subscribers,
            "topics": item.topics,
            "ttl": None if item.ttl is None else item.ttl // _MICROSECOND,
            "expires_at": None if item.expires_at is None else item.expires_at.isoformat(),
            "created_at": item.created_at.isoformat(),
        },
        separators=(",", ":"),
    )


def context_of(user: str) -> str:
    """Return the context under which a vault keeps the secrets of a user's shared context; ``""`` is nobody's own."""
    return f"context/{user}" if user else "context"


def agent_line(agent: ContextAgent) -> str:
    """Return the line of an export that holds an agent."""
    found = {"kind": "agent", "agent": agent.agent, "topics": agent.topics, "permissions": agent.permissions}
    return json.dumps(found, separators=(",", ":"))


_FIELDS = {
    "agent": {"kind", "agent", "topics", "permissions"},
    "item": {"kind", "key", "value", "subscribers", "topics", "ttl", "expires_at", "created_at"},
}
"""What a line of each kind has."""


def read_line(line: str) -> Restored | ContextAgent:
    """Return what a line of an export holds.

    Raises:
        ValidationError: it is no such line, or has a field that none has.
    """
    try:
        found = json.loads(line)
        kind = found["kind"]
        unknown = sorted(set(found) - _FIELDS.get(kind, set(found)))
        if unknown:
            raise ValidationError(f"the line of an {kind} has the unknown field {shown(unknown[0])}")
        if kind == "agent":
            permissions = found["permissions"]
            return ContextAgent(
                agent=check_agent(found["agent"]),
                topics=check_names("topics", found["topics"]),
                permissions=None if permissions is None else check_names("permissions", permissions),
            )
        if kind == "item":
            return _restored(found)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ValidationError(f"not a line of a context's export: {type(exc).__name__}") from None
    raise ValidationError("not a line of a context's export: of no known kind")


def _restored(found: Mapping[str, Any]) -> Restored:
    draft = draft_of(found["key"], found["value"], found["subscribers"], found["topics"], None)
    ttl, expires = found["ttl"], found["expires_at"]
    if ttl is not None and (type(ttl) is not int or ttl < 0):
        raise ValidationError("the ttl of an exported item is not a whole number of microseconds")
    return Restored(
        draft._replace(ttl=ttl),
        to_micros(datetime.fromisoformat(found["created_at"])),
        None if expires is None else to_micros(datetime.fromisoformat(expires)),
    )


def lines_from_syntha(backup: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that ``import_`` reads for a backup of Syntha's, the dict that its documentation saves as JSON.

    ``context`` maps keys to (value, subscribers, ttl, created_at), ``topics`` agents to topics, ``permissions`` agents
    to topics; each may be left out. An empty list of permissions means anywhere there, and so becomes None here.

    Raises:
        ValidationError: it isn't of that form.
    """
    topics, permissions = backup.get("topics", {}), backup.get("permissions", {})
    try:
        for agent in sorted({*topics, *permissions}):
            yield agent_line(
                ContextAgent(agent=agent, topics=topics.get(agent, []), permissions=permissions.get(agent) or None)
            )
        for key, (value, subscribers, ttl, created_at) in backup.get("context", {}).items():
            created = datetime.fromtimestamp(created_at, UTC)
            life = None if ttl is None else timedelta(seconds=max(0, ttl))
            yield item_line(
                ContextItem(
                    key=key,
                    value=value,
                    subscribers=subscribers,
                    version=1,
                    ttl=life,
                    expires_at=None if life is None else created + life,
                    created_at=created,
                    updated_at=created,
                )
            )
    except (TypeError, ValueError, OverflowError, AttributeError, OSError) as exc:
        raise ValidationError(f"not a backup of Syntha's: {exc}") from None


def agent_of(agent: str, topics: object, permissions: object) -> ContextAgent:
    """Return an agent as a backend holds it."""
    return ContextAgent(
        agent=agent,
        topics=list(cast("list[str]", topics)),
        permissions=None if permissions is None else list(cast("list[str]", permissions)),
    )
