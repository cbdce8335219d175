# Generated from ../_async/test_context_parity.py by tests/unasync.py: edit that one.
"""Every backend of the shared context answers a long mixture of calls alike: the memory's answers are the reference."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from persistence import DatabaseManager, ConflictError, SQLiteConfig
from sessions import ContextStore, MemoryContextStore, ContextItem, NotPermittedError

pytestmark = pytest.mark.tables("sessions")

KEYS = ["a", "b", "é", "a:b", "\U0001f9f6"]
AGENTS = ["ann", "bob", "cy"]
TOPICS = ["t", "u", "v/w"]
USERS = [None, "ada", "bob"]
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def some(chance: random.Random, names: list[str]) -> list[str]:
    return chance.sample(names, chance.randrange(len(names)))


def call(chance: random.Random) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return a random call: its name and arguments."""
    key, agent, topic = chance.choice(KEYS), chance.choice(AGENTS), chance.choice(TOPICS)
    options: dict[str, Any] = {"subscribers": some(chance, AGENTS), "topics": some(chance, TOPICS)}
    if chance.random() < 0.3:
        options["agent"] = agent
    if chance.random() < 0.3:
        options["expected_version"] = chance.randrange(4)
    options["ttl"] = chance.choice([None, None, 3600, 0])
    page = {"limit": chance.choice([1, 2, 100]), "after": chance.choice([None, *KEYS])}
    calls: list[tuple[int, str, tuple[Any, ...], dict[str, Any]]] = [
        (8, "push", (key, chance.choice([None, 1, [1, "x"], {"k": "v\0"}])), options),
        (2, "get", (key, chance.choice([None, agent])), {}),
        (2, "items_for", (agent,), page),
        (2, "items", (), {**page, "topic": chance.choice([None, topic])}),
        (1, "delete", (key,), {}),
        (1, "register_topics", (agent, some(chance, TOPICS)), {}),
        (2, "subscribe", (agent, some(chance, TOPICS)), {}),
        (1, "unsubscribe", (agent, some(chance, TOPICS)), {}),
        (1, "subscribers_of", (topic,), {}),
        (1, "topics", (), {}),
        (1, "agents", (), {}),
        (1, "set_permissions", (agent, chance.choice([None, [], some(chance, TOPICS)])), {}),
        (1, "can_post", (agent, topic), {}),
        (1, "delete_topic", (topic,), {}),
        (1, "cleanup_expired", (), {"batch": 2}),
        (1, "stats", (), {}),
    ]
    _, *found = chance.choices(calls, [weight for weight, *_ in calls])[0]
    return found[0], found[1], found[2]


def outcome(store: ContextStore, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return what a call gave, without its times, or the error that it raised."""
    try:
        found = getattr(store, name)(*arguments, **options)
    except (ConflictError, NotPermittedError) as error:
        return type(error).__name__, error.message, error.hint
    return [timeless(one) for one in found] if isinstance(found, list) else timeless(found)


def timeless(found: Any) -> Any:
    if not isinstance(found, ContextItem):
        return found
    ends = None if found.expires_at is None else NEVER
    return replace(found, created_at=NEVER, updated_at=NEVER, expires_at=ends)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["postgresql", "sqlite", "redis"])
def test_a_mixture_of_calls_is_answered_as_by_the_memory(
    kind: str, seed: int, manager: DatabaseManager, request: pytest.FixtureRequest
) -> None:
    if kind == "postgresql":
        manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    elif kind == "redis":
        manager.add_redis("main", request.getfixturevalue("redis_config"))
    else:
        manager.add_sqlite("main", SQLiteConfig(path=str(request.getfixturevalue("tmp_path") / "main.db")))
    chance = random.Random(seed)
    ours, reference = ContextStore(manager, "main"), MemoryContextStore()
    for step in range(250):
        user = chance.choice(USERS)
        name, arguments, options = call(chance)
        answers = [
            outcome(store if user is None else store.for_user(user), name, arguments, options)
            for store in (ours, reference)
        ]
        assert (step, user, name, arguments, options, answers[0]) == (step, user, name, arguments, options, answers[1])
    for user in USERS[1:]:
        lines = [[line for line in store.for_user(str(user)).export()] for store in (ours, reference)]
        assert [line.partition('"created_at"')[0].partition('"expires_at"')[0] for line in lines[0]] == [
            line.partition('"created_at"')[0].partition('"expires_at"')[0] for line in lines[1]
        ]
