"""The contract of the shared context: who reads what, what ends, what is refused, the same on every backend."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabaseManager,
    ClosedError,
    ConflictError,
    EmbeddedRedis,
    PersistenceError,
    PostgreSQLConfig,
    RedisConfig,
    SQLiteConfig,
    UnavailableError,
    ValidationError,
)
from sessions import (
    AsyncContextStore,
    AsyncMemoryContextStore,
    ContextAgent,
    ContextStats,
    NotPermittedError,
    lines_from_syntha,
)
from tests._async.redis_contract import teach
from tests._async.side import together

pytestmark = pytest.mark.tables("sessions")

SQL = ("postgresql", "sqlite")
BACKENDS = (*SQL, "redis", "memory")
HOSTILE = [
    "'; DROP TABLE holdfast_items; --",
    "%",
    "*",
    "a:b",
    "a}:{b",
    "{tenant}",
    '"quoted"',
    "back\\slash",
    "a/b",
    " ",
    "\x01\x1e\x1f\x7f",
    "denied",
    "conflict",
    "\u2028",
    "e\u0301\U0001f9f6",
    "x" * 1024,
]
BAD_NAMES = ["", "a\0b", "\ud800", "x" * 1025, "x" * 10_000, 7, None, b"x", ["x"]]
VALUES: list[Any] = [
    None,
    "",
    "text",
    "null",
    '{"a": 1}',
    0,
    -1,
    2**70,
    1.5,
    -0.0,
    1e16,
    5e-324,
    True,
    [],
    {},
    [[], {}, [None]],
    {"z": 1, "a": {"list": [1, 2.0, "x", None, False]}, "": "'; DROP TABLE x; --"},
    "a\0b",
    "\ud800 lone",
    {"\0": ["\udfff"]},
    '\U0001f9f6/\\"\u2028',
]
BAD_VALUES: list[Any] = [
    (1, 2),
    {"a": (1,)},
    {1: "a"},
    {None: 1},
    float("nan"),
    [float("inf")],
    {1, 2},
    b"x",
    object(),
    datetime(2024, 1, 1, tzinfo=UTC),
    "\ud83d\ude00",
]


OVER: list[Any] = [0, -1, -0.5, timedelta(0), timedelta(seconds=-5)]
BAD_LIMITS: list[Any] = [0, -1, 10_001, True, "5", 1.5, None]


async def opened(kind: str, manager: AsyncDatabaseManager, name: str, request: pytest.FixtureRequest) -> None:
    """Add a connection of a kind."""
    if kind == "postgresql":
        await manager.add_postgresql(name, request.getfixturevalue("postgresql_config"))
    elif kind == "redis":
        await manager.add_redis(name, request.getfixturevalue("redis_config"))
    elif kind == "sqlite":
        await manager.add_sqlite(name, SQLiteConfig(path=str(request.getfixturevalue("tmp_path") / "main.db")))


@pytest_asyncio.fixture(params=BACKENDS)
async def context(request: pytest.FixtureRequest, manager: AsyncDatabaseManager) -> AsyncContextStore:
    if request.param == "memory":
        return AsyncMemoryContextStore()
    await opened(request.param, manager, "main", request)
    return AsyncContextStore(manager, "main")


@pytest_asyncio.fixture(params=("postgresql", "sqlite", "redis"))
async def server(request: pytest.FixtureRequest, manager: AsyncDatabaseManager) -> AsyncIterator[AsyncContextStore]:
    """A store on a server or a file, whose connection ``main`` a second manager may open too."""
    await opened(request.param, manager, "main", request)
    yield AsyncContextStore(manager, "main")


@pytest_asyncio.fixture(params=SQL)
async def sql(request: pytest.FixtureRequest, manager: AsyncDatabaseManager) -> AsyncContextStore:
    await opened(request.param, manager, "main", request)
    return AsyncContextStore(manager, "main")


@pytest_asyncio.fixture
async def elsewhere(manager: AsyncDatabaseManager, server: AsyncContextStore) -> AsyncIterator[AsyncContextStore]:
    """The same store through connections of its own."""
    async with AsyncDatabaseManager() as other:
        connection: Any = manager.get("main")
        await {"postgresql": other.add_postgresql, "sqlite": other.add_sqlite, "redis": other.add_redis}[
            connection.kind
        ]("main", connection.config)
        yield AsyncContextStore(other, "main")


async def test_a_value_comes_back_as_it_was(server: AsyncContextStore, elsewhere: AsyncContextStore) -> None:
    for place, value in enumerate(VALUES):
        await server.push(f"key {place:02}", value)
    found = [item.value for item in await elsewhere.items()]
    assert list(map(repr, found)) == list(map(repr, VALUES))
    assert json.dumps(found) == json.dumps(VALUES)


async def test_an_item_has_what_it_was_pushed_with(context: AsyncContextStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    pushed = await context.push(
        "k", {"a": 1}, subscribers=["b", "a", "b"], topics=["z", "y", "z"], ttl=timedelta(hours=1)
    )
    assert pushed == await context.get_item("k")
    assert (pushed.key, pushed.value, pushed.version) == ("k", {"a": 1}, 1)
    assert (pushed.subscribers, pushed.topics) == (["b", "a"], ["z", "y"])
    assert pushed.ttl == timedelta(hours=1)
    assert pushed.expires_at == pushed.created_at + timedelta(hours=1)
    assert before < pushed.created_at == pushed.updated_at < datetime.now(UTC) + timedelta(seconds=1)
    assert pushed.created_at.tzinfo is UTC


async def test_pushing_again_replaces_everything_but_the_time_it_was_made(context: AsyncContextStore) -> None:
    first = await context.push("k", 1, subscribers=["a"], topics=["t"], ttl=60)
    second = await context.push("k", [2])
    assert (second.value, second.subscribers, second.topics, second.ttl, second.expires_at) == ([2], [], [], None, None)
    assert (second.version, second.created_at) == (2, first.created_at)
    assert second.updated_at >= first.updated_at
    assert await context.items() == [second]


async def test_what_was_passed_or_got_can_be_changed_without_changing_the_store(context: AsyncContextStore) -> None:
    value, names = {"a": [1]}, ["t"]
    await context.push("k", value, topics=names)
    await context.register_topics("a", names)
    value["a"].append(2)
    names.append("u")
    found = await context.get_item("k")
    assert found is not None
    found.value["a"].append(3)
    found.topics.append("v")
    (await context.topics_of("a")).append("w")
    again = await context.get_item("k")
    assert again is not None
    assert (again.value, again.topics, await context.topics_of("a")) == ({"a": [1]}, ["t"], ["t"])


async def test_a_missing_item_is_none_and_a_stored_none_is_told_from_it(context: AsyncContextStore) -> None:
    await context.push("k", None)
    assert await context.get("k") is None
    assert await context.get_item("k") is not None
    assert await context.get_item("other") is None
    assert await context.items(topic="t") == []


async def test_deleting_tells_whether_it_was_there(context: AsyncContextStore) -> None:
    await context.push("k", 1)
    assert await context.delete("k") is True
    assert await context.delete("k") is False
    assert await context.items() == []
    assert (await context.push("k", 1)).version == 1


async def test_items_are_listed_by_key_in_pages(context: AsyncContextStore) -> None:
    keys = ["B", "a", "a.", "b", "é", "z", "ｚ", "\U0001f9f6", "10", "9"]
    for key in keys:
        await context.push(key, key)
    ordered = sorted(keys)
    assert [item.key for item in await context.items()] == ordered
    first = await context.items(limit=4)
    rest = await context.items(limit=100, after=first[-1].key)
    assert [item.key for item in first + rest] == ordered
    assert [item.key for item in await context.items_for("x", limit=3, after="a")] == ["a.", "b", "z"]


async def test_an_agent_reads_what_is_for_everybody_for_it_and_for_its_topics(context: AsyncContextStore) -> None:
    await context.push("all", 1)
    await context.push("direct", 2, subscribers=["ann", "bob"])
    await context.push("topic", 3, topics=["sales", "news"])
    await context.push("both", 4, subscribers=["bob"], topics=["sales"])
    await context.register_topics("cy", ["weather", "sales"])
    keys = {agent: [item.key for item in await context.items_for(agent)] for agent in ("ann", "bob", "cy", "dee")}
    assert keys == {
        "ann": ["all", "direct"],
        "bob": ["all", "both", "direct"],
        "cy": ["all", "both", "topic"],
        "dee": ["all"],
    }
    assert [await context.get(key, "cy") for key in ("all", "direct", "topic", "both")] == [1, None, 3, 4]
    assert [await context.get(key) for key in ("all", "direct", "topic", "both")] == [1, 2, 3, 4]
    assert [item.key for item in await context.items_for("cy", topic="news")] == ["topic"]
    assert [item.key for item in await context.items(topic="sales")] == ["both", "topic"]
    assert await context.items_for("dee", topic="sales") == []


async def test_a_subscription_reaches_what_was_pushed_before_it(context: AsyncContextStore) -> None:
    await context.push("k", 1, topics=["sales"])
    assert await context.get("k", "ann") is None
    await context.subscribe("ann", ["sales"])
    assert await context.get("k", "ann") == 1
    await context.unsubscribe("ann", ["sales"])
    assert await context.get("k", "ann") is None


async def test_topics_keep_their_order_without_repeats(context: AsyncContextStore) -> None:
    assert await context.register_topics("ann", ["z", "a", "z", "m"]) == ["z", "a", "m"]
    assert await context.subscribe("ann", ["b", "a", "0"]) == ["z", "a", "m", "b", "0"]
    assert await context.unsubscribe("ann", ["a", "unknown", "z"]) == ["m", "b", "0"]
    assert await context.topics_of("ann") == ["m", "b", "0"]
    assert await context.register_topics("ann", []) == []
    assert await context.topics_of("ann") == await context.topics_of("nobody") == []
    assert await context.unsubscribe("nobody", ["a"]) == []


async def test_topics_and_agents_are_listed_in_order(context: AsyncContextStore) -> None:
    await context.register_topics("bob", ["sales", "a"])
    await context.register_topics("ann", ["sales"])
    await context.register_topics("idle", [])
    await context.set_permissions("limited", [])
    await context.push("k", 1, topics=["unheard"])
    assert await context.topics() == ["a", "sales", "unheard"]
    assert await context.topics(limit=1, after="a") == ["sales"]
    assert await context.subscribers_of("sales") == ["ann", "bob"]
    assert await context.subscribers_of("unheard") == []
    everyone = [
        ContextAgent(agent="ann", topics=["sales"]),
        ContextAgent(agent="bob", topics=["sales", "a"]),
        ContextAgent(agent="limited", permissions=[]),
    ]
    assert await context.agents() == everyone
    assert await context.agents(limit=1, after="ann") == everyone[1:2]


async def test_permissions_of_none_are_anywhere_and_an_empty_list_nowhere(context: AsyncContextStore) -> None:
    assert await context.permissions_of("ann") is None
    assert await context.can_post("ann", "sales") is True
    await context.set_permissions("ann", ["sales", "news"])
    await context.set_permissions("bob", [])
    assert await context.permissions_of("ann") == ["sales", "news"]
    assert await context.permissions_of("bob") == []
    assert [await context.can_post(agent, "sales") for agent in ("ann", "bob")] == [True, False]
    assert await context.can_post("ann", "weather") is False
    await context.set_permissions("bob", None)
    assert await context.permissions_of("bob") is None
    assert await context.can_post("bob", "sales") is True


async def test_a_push_of_a_limited_agent_goes_to_its_topics_only(context: AsyncContextStore) -> None:
    await context.set_permissions("ann", ["sales", "news"])
    await context.set_permissions("bob", [])
    await context.push("k", 1, topics=["news", "sales"], agent="ann")
    refused: list[dict[str, Any]] = [
        {"agent": "ann", "topics": ["sales", "weather"]},
        {"agent": "ann"},
        {"agent": "ann", "subscribers": ["cy"]},
        {"agent": "bob", "topics": ["sales"]},
        {"agent": "bob"},
        {"agent": "bob", "topics": ["sales"], "expected_version": 1},
        {"agent": "bob", "topics": ["sales"], "expected_version": 0},
    ]
    for options in refused:
        with pytest.raises(NotPermittedError) as caught:
            await context.push("k", 2, **options)
        assert repr(options["agent"]) in caught.value.message
        assert caught.value.hint is not None
    await context.push("free", 3, agent="unknown")
    assert [(item.key, item.value, item.version) for item in await context.items()] == [("free", 3, 1), ("k", 1, 1)]


async def test_topics_and_permissions_do_not_touch_each_other(context: AsyncContextStore) -> None:
    await context.set_permissions("ann", ["p"])
    await context.register_topics("ann", ["t"])
    await context.set_permissions("ann", ["q"])
    assert await context.agents() == [ContextAgent(agent="ann", topics=["t"], permissions=["q"])]


async def test_an_expected_version_that_is_not_there_is_a_conflict(context: AsyncContextStore) -> None:
    assert (await context.push("k", 1, expected_version=0)).version == 1
    assert (await context.push("k", 2, expected_version=1)).version == 2
    for expected in (0, 1, 3):
        with pytest.raises(ConflictError) as caught:
            await context.push("k", 3, expected_version=expected)
        assert (caught.value.expected, caught.value.actual) == (expected, 2)
    with pytest.raises(ConflictError) as caught:
        await context.push("missing", 3, expected_version=1)
    assert (caught.value.expected, caught.value.actual) == (1, 0)
    assert [(item.key, item.value) for item in await context.items()] == [("k", 2)]


async def test_of_two_changes_of_the_same_version_one_wins(context: AsyncContextStore) -> None:
    await context.push("k", 0)
    done = await together(*[partial(context.push, "k", n, expected_version=1) for n in range(8)])
    assert sorted(type(one).__name__ for one in done) == ["ConflictError"] * 7 + ["ContextItem"]


async def test_many_writers_of_one_key_and_of_many_lose_nothing(context: AsyncContextStore) -> None:
    calls = [partial(context.push, "one", n) for n in range(12)]
    calls += [partial(context.push, f"own {n:02}", n) for n in range(12)]
    assert [one for one in await together(*calls) if isinstance(one, BaseException)] == []
    found = {item.key: item for item in await context.items()}
    assert found["one"].version == 12
    assert [found[f"own {n:02}"].value for n in range(12)] == list(range(12))


async def test_subscriptions_made_at_once_all_count(context: AsyncContextStore) -> None:
    await together(*[partial(context.subscribe, "ann", [f"t{n}"]) for n in range(10)])
    assert sorted(await context.topics_of("ann")) == [f"t{n}" for n in range(10)]


async def test_what_has_expired_is_not_there_though_nothing_cleaned_up(context: AsyncContextStore) -> None:
    for ttl in OVER:
        await context.push("gone", 1, topics=["t"], ttl=ttl)
        await context.push("stays", 2, ttl=3600)
        assert await context.get("gone") is None
        assert await context.get("gone", "ann") is None
        assert [item.key for item in await context.items()] == ["stays"]
        assert [item.key for item in await context.items_for("ann")] == ["stays"]
        assert await context.topics() == []
        assert await context.delete("gone") is False


async def test_an_expired_item_begins_anew(context: AsyncContextStore) -> None:
    for _ in range(3):
        await context.push("k", 1, ttl=0)
    with pytest.raises(ConflictError) as caught:
        await context.push("k", 1, expected_version=1)
    assert caught.value.actual == 0
    fresh = await context.push("k", 2, expected_version=0)
    assert (fresh.version, fresh.created_at) == (1, fresh.updated_at)


async def test_a_time_to_live_is_exact(context: AsyncContextStore) -> None:
    item = await context.push("k", 1, ttl=10.000001)
    assert item.expires_at is not None
    assert item.expires_at - item.created_at == timedelta(seconds=10, microseconds=1)
    ended = await context.push("k", 1, ttl=0.000001)
    assert ended.expires_at == ended.updated_at + timedelta(microseconds=1)
    assert await context.get("k") is None


async def test_a_cleanup_removes_what_has_expired_and_counts_it(context: AsyncContextStore) -> None:
    for n in range(7):
        await context.push(f"gone {n}", n, ttl=0)
    await context.push("keeps", 1, ttl=3600)
    await context.push("stays", 2)
    ada = context.for_user("ada")
    await ada.push("gone", 1, ttl=0)
    assert await context.stats() == ContextStats(items=2, for_everybody=2, expired=7, listening_agents=0)
    assert await context.cleanup_expired(batch=3) == 7
    assert await context.cleanup_expired() == 0
    assert (await context.stats()).expired == 0
    assert (await ada.stats()).expired == 1
    assert [item.key for item in await context.items()] == ["keeps", "stays"]


async def test_a_cleanup_for_all_users_is_for_the_tenant_to_call(context: AsyncContextStore) -> None:
    for user in ("ada", "a:b", "}{"):
        for n in range(2):
            await context.for_user(user).push(f"k{n}", 1, ttl=0)
        await context.for_user(user).push("stays", 1)
    await context.push("k", 1, ttl=0)
    with pytest.raises(ValidationError, match="all_users"):
        await context.for_user("ada").cleanup_expired(all_users=True)
    assert await context.cleanup_expired(all_users=True, batch=2) == 7
    assert [(await context.for_user(user).stats()).items for user in ("ada", "a:b", "}{")] == [1, 1, 1]


async def test_deleting_a_topic_removes_what_only_it_addresses(context: AsyncContextStore) -> None:
    await context.push("only", 1, topics=["sales"])
    await context.push("ended", 1, topics=["sales"], ttl=0)
    await context.push("more", 2, topics=["sales", "news"])
    await context.push("direct", 3, topics=["sales"], subscribers=["bob"])
    await context.push("other", 4, topics=["news"])
    await context.register_topics("ann", ["sales"])
    await context.register_topics("bob", ["a", "sales", "b"])
    await context.set_permissions("ann", ["sales"])
    assert await context.delete_topic("sales") == 1
    left = {item.key: (item.topics, item.subscribers, item.version) for item in await context.items()}
    assert left == {"direct": ([], ["bob"], 2), "more": (["news"], [], 2), "other": (["news"], [], 1)}
    assert await context.agents() == [
        ContextAgent(agent="ann", permissions=[]),
        ContextAgent(agent="bob", topics=["a", "b"]),
    ]
    assert await context.topics() == ["a", "b", "news"]
    assert [item.key for item in await context.items_for("stranger")] == []
    assert await context.delete_topic("sales") == 0


async def test_clearing_removes_items_topics_and_permissions(context: AsyncContextStore) -> None:
    await context.push("k", 1)
    await context.push("gone", 1, ttl=0)
    await context.register_topics("ann", ["t"])
    await context.set_permissions("bob", [])
    assert await context.clear() == 1
    assert await context.clear() == 0
    assert (await context.items(), await context.agents(), await context.topics()) == ([], [], [])
    assert await context.stats() == ContextStats(items=0, for_everybody=0, expired=0, listening_agents=0)


async def test_users_do_not_see_count_or_remove_what_is_anothers(context: AsyncContextStore) -> None:
    users = ["ada", "bob", "Ada", "ad", "a@b-c_d", "ada:", "*", "'; --", "ada\x1f", "default:ada", "x" * 1024]
    stores = {user: context.for_user(user) for user in users}
    for user, store in stores.items():
        await store.push("k", user, topics=["t"])
        await store.register_topics("agent", ["t", user[:5]])
        await store.set_permissions("agent", ["t"])
    await context.push("k", "shared")
    for user, store in stores.items():
        assert store.user_id == user
        assert [(item.key, item.value) for item in await store.items()] == [("k", user)]
        assert await store.get("k", "agent") == user
        assert (await store.stats()).items == 1
    assert context.user_id is None
    assert [item.value for item in await context.items()] == ["shared"]
    assert await context.agents() == []
    assert await stores["ada"].delete("k") is True
    assert await stores["bob"].delete_topic("t") == 1
    assert await stores["Ada"].clear() == 1
    left = {user: await store.get("k") for user, store in stores.items()}
    assert left == {user: None if user in ("ada", "bob", "Ada") else user for user in users}
    assert await context.get("k") == "shared"
    assert await stores["ad"].topics_of("agent") == ["t", "ad"]


async def test_tenants_with_equal_ids_are_apart(manager: AsyncDatabaseManager, server: AsyncContextStore) -> None:
    other = AsyncContextStore(manager, "main", tenant="default:ada")
    await server.for_user("ada").push("k", 1)
    await other.for_user("ada").push("k", 2)
    await other.push("k", 3)
    assert await server.get("k") is None
    assert await server.for_user("ada").get("k") == 1
    await other.for_user("ada").push("gone", 1, ttl=0)
    assert await server.cleanup_expired(all_users=True) == 0
    assert await other.clear() == 1
    assert await other.for_user("ada").get("k") == 2


async def test_any_text_is_a_key_a_user_an_agent_and_a_topic(context: AsyncContextStore) -> None:
    for name in HOSTILE:
        store = context.for_user(name)
        await store.register_topics(name, [name, "other"])
        await store.set_permissions(name, [name])
        await store.push(name, name, subscribers=[name], topics=[name], agent=name)
        item = await store.get_item(name, name)
        assert item is not None
        assert (item.key, item.value, item.subscribers, item.topics) == (name, name, [name], [name])
        assert await store.items_for(name, topic=name) == await store.items() == [item]
        assert await store.subscribers_of(name) == [name]
        assert await store.topics() == sorted([name, "other"])
        assert await store.unsubscribe(name, ["other"]) == [name]
        assert await store.subscribe(name, ["more"]) == [name, "more"]
        assert await store.get(name + "x" if len(name) < 1024 else "x", name) is None
        assert await store.delete_topic(name) == 0
        assert await store.topics_of(name) == ["more"]
        assert await store.permissions_of(name) == []
        assert await store.delete(name) is True


async def test_thousands_of_subscribers_and_topics(context: AsyncContextStore) -> None:
    names = [f"agent {n}" for n in range(3000)]
    await context.push("k", 1, subscribers=names, topics=names)
    item = await context.get_item("k", "agent 2999")
    assert item is not None
    assert (item.subscribers, item.topics) == (names, names)
    assert await context.get("k", "agent 3000") is None


async def test_a_bad_name_is_refused_before_anything_is_written(context: AsyncContextStore) -> None:
    for bad in BAD_NAMES:
        calls: list[Any] = [
            partial(context.push, bad, 1),
            partial(context.push, "k", 1, subscribers=[bad]),
            partial(context.push, "k", 1, topics=["t", bad]),
            partial(context.get, bad),
            partial(context.delete, bad),
            partial(context.items_for, bad),
            partial(context.register_topics, bad, ["t"]),
            partial(context.register_topics, "a", [bad]),
            partial(context.subscribe, "a", [bad]),
            partial(context.unsubscribe, "a", [bad]),
            partial(context.topics_of, bad),
            partial(context.subscribers_of, bad),
            partial(context.set_permissions, bad, []),
            partial(context.set_permissions, "a", [bad]),
            partial(context.permissions_of, bad),
            partial(context.can_post, "a", bad),
            partial(context.delete_topic, bad),
        ]
        if bad is not None:
            calls += [
                partial(context.push, "k", 1, agent=bad),
                partial(context.get, "k", bad),
                partial(context.items, topic=bad),
                partial(context.items, after=bad),
                partial(context.push, "k", 1, topics=bad),
                partial(context.set_permissions, "a", bad),
            ]
            calls = calls[:-2] if bad == ["x"] else calls
        for call in calls:
            with pytest.raises(ValidationError):
                await call()
        with pytest.raises(ValidationError):
            context.for_user(bad)
        assert (await context.items(), await context.agents()) == ([], [])


async def test_a_value_that_would_not_come_back_is_refused(context: AsyncContextStore) -> None:
    for bad in BAD_VALUES:
        with pytest.raises(ValidationError):
            await context.push("k", bad)
        with pytest.raises(ValidationError):
            await context.push("k", {"a": [bad]})
        assert await context.items() == []


async def test_endless_and_deep_values_are_refused(context: AsyncContextStore) -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for bad in (endless, deep):
        with pytest.raises(ValidationError):
            await context.push("k", bad)


BAD_OPTIONS: list[dict[str, Any]] = [
    {"ttl": float("nan")},
    {"ttl": float("inf")},
    {"ttl": "60"},
    {"ttl": True},
    {"ttl": timedelta(days=40_000)},
    {"expected_version": -1},
    {"expected_version": "1"},
    {"expected_version": True},
    {"expected_version": 2**70},
]


async def test_a_bad_option_is_refused(context: AsyncContextStore) -> None:
    for options in BAD_OPTIONS:
        with pytest.raises(ValidationError):
            await context.push("k", 1, **options)
        with pytest.raises(TypeError):
            await context.push("k", 1, unknown=1)  # type: ignore[call-arg]
        assert await context.items() == []


async def test_a_bad_limit_is_refused(context: AsyncContextStore) -> None:
    for limit in BAD_LIMITS:
        for call in (context.items, context.agents, context.topics, partial(context.items_for, "a")):
            with pytest.raises(ValidationError):
                await call(limit=limit)
        with pytest.raises(ValidationError):
            await context.cleanup_expired(batch=limit)


async def test_a_bad_value_does_not_spoil_the_calls_after_it(context: AsyncContextStore) -> None:
    for bad in (float("nan"), object(), "\ud83d\ude00"):
        with pytest.raises(PersistenceError):
            await context.push("k", bad)
        await context.push("k", "good")
        assert await context.get("k") == "good"


async def exported(store: AsyncContextStore) -> list[str]:
    """Return the lines of an export."""
    return [line async for line in store.export()]


async def test_an_export_makes_the_same_context_again(context: AsyncContextStore) -> None:
    ada = context.for_user("ada")
    for place, value in enumerate(VALUES):
        await ada.push(f"k{place:02}", value, subscribers=["s"] * (place % 2), topics=["t", "u"][: place % 3])
    await ada.push("ends", 1, ttl=timedelta(hours=1))
    await ada.push("ended", 1, ttl=0)
    await ada.register_topics("ann", ["z", "a"])
    await ada.set_permissions("bob", [])
    lines = await exported(ada)
    assert len(lines) == len(VALUES) + 3
    eve = context.for_user("eve")
    await eve.push("ends", "old", subscribers=["x"])
    assert await eve.import_([*lines, "", "\n"]) == len(lines)
    assert await exported(eve) == lines
    assert [item.created_at for item in await eve.items()] == [item.created_at for item in await ada.items()]
    assert await eve.agents() == await ada.agents()
    assert await context.items() == []


async def test_imports_of_the_same_keys_in_whatever_order_come_through(context: AsyncContextStore) -> None:
    lines = [json.dumps({**ITEM, "key": f"{n:03}", "value": n}) for n in range(200)]
    assert await together(*[partial(context.import_, order) for order in (lines, lines[::-1]) * 4]) == [200] * 8
    assert await context.import_([json.dumps({**ITEM, "key": "000", "value": n}) for n in (2, 1)]) == 2
    assert [item.value for item in await context.items(limit=2)] == [1, 1]


async def test_an_export_of_many_pages_is_whole(context: AsyncContextStore) -> None:
    lines = [json.dumps({**ITEM, "key": f"{n:05}", "value": n}) for n in range(2500)]
    assert await context.import_(lines) == 2500
    assert [json.loads(line)["value"] for line in await exported(context)] == list(range(2500))


ITEM = {
    "kind": "item",
    "key": "k",
    "value": 1,
    "subscribers": [],
    "topics": [],
    "ttl": None,
    "expires_at": None,
    "created_at": "2026-01-01T00:00:00+00:00",
}


BAD_LINES = [
    "nonsense",
    "[]",
    "{}",
    "3",
    '{"kind": "other"}',
    '{"kind": "agent", "agent": "a", "topics": "t", "permissions": null}',
    '{"kind": "agent", "agent": "", "topics": [], "permissions": null}',
    json.dumps({**ITEM, "key": ""}),
    json.dumps({**ITEM, "ttl": "5"}),
    json.dumps({**ITEM, "ttl": -5}),
    json.dumps({**ITEM, "expires_at": "soon"}),
    json.dumps({**ITEM, "created_at": "2026-01-01T00:00:00"}),
    json.dumps({name: value for name, value in ITEM.items() if name != "value"}),
    json.dumps(ITEM).replace("1,", "NaN,", 1),
]


async def test_a_line_that_is_none_of_an_export_is_refused_whole(context: AsyncContextStore) -> None:
    for line in BAD_LINES:
        with pytest.raises(ValidationError):
            await context.import_([json.dumps(ITEM), line])
        assert await context.items() == []
    for given in (ITEM, {"kind": "agent", "agent": "a", "topics": [], "permissions": None}):
        with pytest.raises(ValidationError, match=r"line of an (item|agent) has the unknown field 'subscriber'"):
            await context.import_([json.dumps({**given, "subscriber": ["x"]})])
    assert await context.items() == await context.agents() == []


async def test_an_expired_item_of_an_export_stays_expired(context: AsyncContextStore) -> None:
    line = json.dumps({**ITEM, "ttl": 5, "expires_at": "2026-01-01T00:00:00.000005+00:00"})
    assert await context.import_([line]) == 1
    assert await context.get("k") is None
    assert await context.cleanup_expired() == 1


async def test_a_backup_of_synthas_can_be_read(context: AsyncContextStore) -> None:
    made = datetime.now(UTC).timestamp() - 60
    backup = {
        "context": {
            "prefs": [{"theme": "dark"}, ["ChatAgent"], None, made],
            "fresh": ["v", [], 3600.0, made],
            "stale": ["v", [], 30, made],
        },
        "topics": {"ChatAgent": ["b", "a"]},
        "permissions": {"ChatAgent": ["a"], "Other": []},
    }
    assert await context.import_(lines_from_syntha(json.loads(json.dumps(backup)))) == 5
    assert {item.key: (item.value, item.subscribers) for item in await context.items()} == {
        "prefs": ({"theme": "dark"}, ["ChatAgent"]),
        "fresh": ("v", []),
    }
    fresh = await context.get_item("fresh")
    assert fresh is not None
    assert fresh.expires_at is not None
    assert abs(fresh.expires_at.timestamp() - (made + 3600)) < 0.001
    assert await context.agents() == [ContextAgent(agent="ChatAgent", topics=["b", "a"], permissions=["a"])]
    for bad in ({"context": {"k": [1, 2]}}, {"topics": ["a"]}, {"context": {"k": ["v", [], "x", made]}}):
        with pytest.raises(ValidationError):
            list(lines_from_syntha(bad))


async def test_calls_join_the_transaction_they_are_made_in(
    manager: AsyncDatabaseManager, sql: AsyncContextStore
) -> None:
    await sql.push("kept", 1, topics=["t"])
    await sql.register_topics("ann", ["t"])
    database = manager.get_database("main")
    with pytest.raises(RuntimeError):
        async with database.transaction():
            await sql.push("new", 2)
            await sql.delete("kept")
            await sql.subscribe("ann", ["u"])
            await sql.set_permissions("ann", [])
            await sql.delete_topic("t")
            await sql.import_([json.dumps(ITEM)])
            await sql.push("gone", 1, ttl=0)
            await sql.cleanup_expired()
            await sql.clear()
            assert await sql.items() == []
            raise RuntimeError
    assert [(item.key, item.topics) for item in await sql.items()] == [("kept", ["t"])]
    assert await sql.agents() == [ContextAgent(agent="ann", topics=["t"])]


async def test_a_refusal_leaves_the_transaction_usable(manager: AsyncDatabaseManager, sql: AsyncContextStore) -> None:
    await sql.set_permissions("bob", [])
    async with manager.get_database("main").transaction():
        await sql.push("k", 1)
        with pytest.raises(ConflictError):
            await sql.push("k", 2, expected_version=0)
        with pytest.raises(NotPermittedError):
            await sql.push("k", 2, agent="bob")
        await sql.push("k", 3)
    assert await sql.get("k") == 3


async def test_every_call_is_one_request(manager: AsyncDatabaseManager, server: AsyncContextStore) -> None:
    await teach(manager)
    await server.push("warm", 1)
    calls: list[tuple[str, Any]] = [
        ("push", partial(server.push, "k", 1, topics=["t"], agent="ann")),
        ("push", partial(server.push, "k", 1, topics=["t"], agent="ann", expected_version=1)),
        ("get", partial(server.get, "k", "ann")),
        ("items_for", partial(server.items_for, "ann")),
        ("items", server.items),
        ("delete", partial(server.delete, "k")),
        ("register_topics", partial(server.register_topics, "ann", ["t"])),
        ("subscribe", partial(server.subscribe, "ann", ["u"])),
        ("unsubscribe", partial(server.unsubscribe, "ann", ["u"])),
        ("topics_of", partial(server.topics_of, "ann")),
        ("subscribers_of", partial(server.subscribers_of, "t")),
        ("topics", server.topics),
        ("agents", server.agents),
        ("set_permissions", partial(server.set_permissions, "ann", ["t"])),
        ("can_post", partial(server.can_post, "ann", "t")),
        ("delete_topic", partial(server.delete_topic, "t")),
        ("cleanup_expired", server.cleanup_expired),
        ("stats", server.stats),
        ("clear", server.clear),
    ]
    for name, call in calls:
        before = manager.stats()["main"].requests
        await call()
        used = manager.stats()["main"].requests - before
        assert (name, used) == (name, 1)


async def test_a_closed_manager_says_so(manager: AsyncDatabaseManager, server: AsyncContextStore) -> None:
    await server.push("k", 1)
    await manager.aclose()
    for call in (partial(server.push, "k", 1), partial(server.get, "k"), server.items):
        with pytest.raises(ClosedError):
            await call()


async def test_a_dead_server_is_an_error_and_not_an_empty_answer(manager: AsyncDatabaseManager) -> None:
    gone = {"host": "127.0.0.1", "port": 1}
    await manager.add_postgresql("sql", PostgreSQLConfig(**gone, database="x", username="x"), lazy=True)
    await manager.add_redis("redis", RedisConfig(**gone), lazy=True)
    for name in ("sql", "redis"):
        store = AsyncContextStore(manager, name)
        calls: list[Any] = [
            partial(store.push, "k", 1),
            partial(store.get, "k"),
            store.items,
            partial(store.delete, "k"),
            store.clear,
            store.stats,
        ]
        for call in calls:
            with pytest.raises(UnavailableError) as caught:
                await call()
            assert caught.value.connection == name


async def test_a_redis_that_forgot_the_script_is_sent_it_again(manager: AsyncDatabaseManager, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as own:  # on the one that all share, others count their requests
        connection = await manager.add_redis("own", own.config())
        store = AsyncContextStore(manager, "own")
        for n in range(3):
            await connection.client.script_flush()
            await store.push("k", n)
        assert await store.get_item("k") is not None
        assert (await store.push("k", 3)).version == 4
        await manager.aclose()


async def test_the_keys_of_a_redis_context_end_after_its_last_item(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    client = (await manager.add_redis("main", redis_config)).client
    ada = AsyncContextStore(manager, "main", tenant="a:b").for_user("ada}x")
    await ada.push("k", 1, ttl=1000)
    await ada.push("l", 1, ttl=2000)
    keys = sorted([key.decode() async for key in client.scan_iter()])
    assert keys == [f"holdfast:{{a%3Ab:ada%7Dx}}:context:{part}" for part in ("expiry", "items", "order")]
    left = [await client.pttl(key) for key in keys]
    assert [2_050_000 < milliseconds <= 2_060_001 for milliseconds in left] == [True] * 3
    await ada.push("m", 1)
    assert [await client.pttl(key) for key in keys] == [-1, -1, -1]
    await ada.delete("m")
    assert [await client.pttl(key) > 0 for key in keys] == [True] * 3
    await ada.delete("k")
    await ada.delete("l")
    assert [key async for key in client.scan_iter()] == []


async def test_row_security_is_for_postgresql(manager: AsyncDatabaseManager, context: AsyncContextStore) -> None:
    if "main" in manager.names() and manager.names()["main"] == "postgresql":
        await context.enable_row_security()
        await context.disable_row_security()
        return
    with pytest.raises(PersistenceError, match="PostgreSQL"):
        await context.enable_row_security()
    if manager.names():
        with pytest.raises(PersistenceError, match="PostgreSQL"):
            AsyncContextStore(manager, "main", row_security=True)
