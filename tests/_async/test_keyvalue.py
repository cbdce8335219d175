"""Keys and values on PostgreSQL, SQLite and Redis: what comes back, versions, lifetimes, pages, counting."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncKeyValueStore,
    ClosedError,
    ConflictError,
    CorruptError,
    MigrationError,
    PostgreSQLConfig,
    SQLiteConfig,
    StatementEvent,
    ValidationError,
)
from tests._async.side import sleep, together

pytestmark = pytest.mark.tables("persistence")


@pytest_asyncio.fixture(params=("postgresql", "sqlite", "redis"))
async def store(request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncKeyValueStore:
    """An empty namespace on the connection ``main``."""
    if request.param == "redis":
        await manager.add_redis("main", request.getfixturevalue("redis_config"))
    elif request.param == "postgresql":
        await manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    else:
        await manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    return AsyncKeyValueStore(manager, "main")


async def test_what_a_value_has_left_is_told_by_the_clock_of_the_server(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    admin = await manager.add_postgresql("admin", postgresql_config)
    await admin.execute("CREATE SCHEMA ahead")
    await admin.execute(
        "CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
        " AS $$ SELECT pg_catalog.clock_timestamp() + INTERVAL '1 hour' $$"
    )
    await manager.add_postgresql("main", replace(postgresql_config, search_path="ahead,pg_catalog,public"))
    store = AsyncKeyValueStore(manager, "main")
    await store.put("k", 1, ttl=60)
    left = await store.ttl("k")
    assert left is not None
    assert 0 < left <= 60


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 2**63, 10**400, 0.5, -0.0, 1e16, 1e300, "", "text", "a\0b",
    "\ud800", "☃", b"", b"\0\xff", [], {}, [1, [None, {"a": "\0"}]], {"b": 1, "a": {"ü": [1.0, 2]}}, "12", b"12",
    "x" * 100_000,
]  # fmt: skip


async def test_every_value_comes_back_equal_and_of_its_type(store: AsyncKeyValueStore) -> None:
    for number, value in enumerate(VALUES):
        await store.put(f"k{number}", value)
        found = await store.get(f"k{number}", "missing")
        assert (found, type(found)) == (value, type(value))
        assert math.copysign(1, found) == math.copysign(1, value) if isinstance(value, float) else True
    keys = [f"k{number}" for number in range(len(VALUES))]
    assert await store.get_many(keys) == dict(zip(keys, VALUES, strict=True))
    await store.clear()
    await store.put_many(dict(zip(keys, VALUES, strict=True)))
    assert await store.get_many([*keys, "nobody"]) == dict(zip(keys, VALUES, strict=True))
    assert [item.value for item in await store.scan()] == [VALUES[int(key[1:])] for key in sorted(keys)]


async def test_what_is_not_there_is_none_or_false(store: AsyncKeyValueStore) -> None:
    assert await store.get("k") is None
    assert await store.get("k", 7) == 7
    assert await store.get_item("k") is None
    assert await store.get_many(["k"]) == {}
    assert await store.get_many([]) == {}
    assert not await store.exists("k")
    assert not await store.delete("k")
    assert await store.delete_many(["k", "l"]) == 0
    assert await store.delete_many([]) == 0
    assert not await store.expire("k", 10)
    assert await store.ttl("k") is None
    assert await store.scan() == []
    assert await store.clear() == 0
    await store.put("k", None)
    assert await store.exists("k")
    assert await store.get("k", 7) is None


async def test_versions_grow_and_hold_back_a_stale_writer(store: AsyncKeyValueStore) -> None:
    first = await store.put("k", "a", expected_version=0)
    with pytest.raises(ConflictError, match="main: the value of 'k' has another version than 0"):
        await store.put("k", "b", expected_version=0)
    assert await store.put("k", "b", expected_version=first) == first + 1
    assert await store.put("k", "c") == first + 2
    assert not await store.compare_and_set("k", "d", expected_version=first + 1)
    assert not await store.delete("k", expected_version=first + 1)
    item = await store.get_item("k")
    assert item is not None
    assert (item.key, item.value, item.version, item.expires_at) == ("k", "c", first + 2, None)
    assert await store.compare_and_set("k", "d", expected_version=first + 2)
    assert await store.delete("k", expected_version=first + 3)
    assert not await store.compare_and_set("k", "e", expected_version=first + 3)


async def test_no_version_comes_back_when_a_key_ends_and_is_put_again(store: AsyncKeyValueStore) -> None:
    async def put() -> int:
        return await store.put("k", "v")

    async def put_new() -> int:
        return await store.put("k", "v", expected_version=0)

    async def put_with_others() -> int:
        await store.put_many({"k": "v", "other": "v"})
        return await version()

    async def count() -> int:
        await store.increment("k")
        return await version()

    async def version() -> int:
        item = await store.get_item("k")
        assert item is not None
        return item.version

    seen = [await store.put("k", "v", ttl=0.005)]
    while await store.exists("k"):
        pass  # it ends by itself
    for begin in (put, put_new, put_with_others, count, put):
        seen.append(await begin())
        seen.append(await put())
        for stale in seen[:-1]:
            assert not await store.compare_and_set("k", "stale", expected_version=stale)
            assert not await store.delete("k", expected_version=stale)
        assert seen == sorted(set(seen))
        assert await store.delete("k")


async def test_of_many_who_compare_and_set_one_wins(store: AsyncKeyValueStore) -> None:
    version = await store.put("k", 0)
    won = await together(*[lambda n=n: store.compare_and_set("k", n, expected_version=version) for n in range(8)])
    assert sorted(won) == [False] * 7 + [True]
    assert await store.get("k") == won.index(True)


async def test_counting_at_the_same_time_loses_nothing(store: AsyncKeyValueStore) -> None:
    assert await store.increment("n", 5) == 5

    async def count() -> None:
        for _ in range(25):
            await store.increment("n")

    assert await together(*[count] * 4) == [None] * 4
    assert await store.get("n") == 105
    assert await store.increment("n", -200) == -95
    counted = await store.get_item("n")
    assert counted is not None
    assert await store.put("n", 2**63 - 1) == counted.version + 1
    with pytest.raises(ValidationError, match="more than 64 bits"):
        await store.increment("n")
    assert await store.get("n") == 2**63 - 1
    for value in ("5", 0.5, b"5", 2**63, None):
        await store.put("other", value)
        with pytest.raises(ValidationError, match="no whole number"):
            await store.increment("other")
        assert await store.get("other") == value


async def until_gone(store: AsyncKeyValueStore, key: str) -> None:
    until = monotonic() + 10
    while await store.exists(key):
        assert monotonic() < until
        await sleep(0.005)


async def test_what_has_expired_is_not_there(store: AsyncKeyValueStore, manager: AsyncDatabaseManager) -> None:
    await store.put("short", "x", ttl=0.05)
    await store.put("long", "y", ttl=timedelta(hours=1))
    await store.increment("count", ttl=0.5)
    await store.increment("count", ttl=3600)
    left = await store.ttl("long")
    assert left is not None
    assert 3590 < left <= 3600.1
    item = await store.get_item("long")
    assert item is not None
    assert item.expires_at is not None
    assert abs(item.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=10)
    await until_gone(store, "short")
    await until_gone(store, "count")
    assert await store.get_item("short") is None
    assert await store.get_many(["short", "long"]) == {"long": "y"}
    assert [each.key for each in await store.scan()] == ["long"]
    assert not await store.delete("short")
    assert not await store.expire("short", 10)
    assert await store.put("short", "z", expected_version=0) >= 1
    assert await store.increment("count") == 1
    assert await store.ttl("count") is None
    assert await store.expire("long", None)
    assert await store.ttl("long") is None
    assert await store.expire("long", 0.02)
    await until_gone(store, "long")
    assert await store.delete_expired() == (0 if manager.get("main").kind == "redis" else 1)
    assert await store.put("short", "kept") >= 2
    assert [each.key for each in await store.scan()] == ["count", "short"]


async def test_pages_follow_one_another_in_the_order_of_keys(store: AsyncKeyValueStore) -> None:
    keys = sorted(
        [*(f"a/{n}" for n in range(25)), "a", "a\U0010ffff", "a%", "a_", "b", "B", "ü", "\ue000", "\U0001f600"]
    )
    await store.put_many({key: n for n, key in enumerate(keys)})
    found: list[str] = []
    after = None
    while page := await store.scan(limit=7, after=after):
        assert len(page) <= 7
        found += [item.key for item in page]
        after = page[-1].key
    assert found == keys
    for prefix in ("a", "a/", "a/1", "a%", "a_", "\ud7ff", "\U0010ffff", "a\U0010ffff", "nobody"):
        if prefix != "\ud7ff":
            assert [item.key for item in await store.scan(prefix)] == [key for key in keys if key.startswith(prefix)]
    assert [item.key for item in await store.scan("a/", after="a/3", limit=2)] == ["a/4", "a/5"]
    assert [item.key for item in await store.scan("b", after="a")] == ["b"]
    assert await store.delete_many([*keys, "nobody"]) == len(keys)
    assert await store.scan() == []


async def test_tenants_and_namespaces_are_apart(store: AsyncKeyValueStore, manager: AsyncDatabaseManager) -> None:
    stores = [
        AsyncKeyValueStore(manager, "main", tenant=tenant, namespace=namespace)
        for tenant in ("a", "a:b", "a}")
        for namespace in ("c", "b:c", ":", "*")
    ]
    for number, each in enumerate(stores):
        await each.put("k:*", number)
    assert [await each.get("k:*") for each in stores] == list(range(12))
    assert await stores[0].clear() == 1
    assert [await each.get("k:*") for each in stores[1:]] == list(range(1, 12))
    assert await store.scan() == []


async def test_any_number_of_keys_takes_bounded_statements(
    store: AsyncKeyValueStore, manager: AsyncDatabaseManager
) -> None:
    await store.put_many({f"{n:05}": n for n in range(2500)})
    events: list[StatementEvent] = []
    # A script that the server doesn't know yet, or no more, is sent again as a whole: that try is not counted.
    manager.on_statement.append(lambda event: events.append(event) if event.error is None else None)
    assert len(await store.get_many(f"{n:05}" for n in range(3000))) == 2500
    assert len(events) == 3
    await store.get("00001")
    version = await store.put("00001", "x")
    await store.increment("00002")
    await store.put("00001", "x", expected_version=version)
    await store.delete("00001")
    await store.scan(limit=2)
    assert len(events) == 9


BAD_KEYS: list[Any] = ["", "a\0b", "\ud800", "x" * 1025, b"k", 7, None]
BAD_VALUES: list[Any] = [
    math.nan, math.inf, (1, 2), {1: 2}, {"a": (1,)}, {"a": {"b": {1, 2}}}, object(), datetime.now(UTC), 1j,
    bytearray(b"x"),
]  # fmt: skip


async def test_bad_input_is_refused_and_changes_nothing(
    store: AsyncKeyValueStore, manager: AsyncDatabaseManager
) -> None:
    version = await store.put("k", "kept")
    for key in BAD_KEYS:
        for call in (store.get, store.get_item, store.exists, store.delete, store.increment, store.ttl):
            with pytest.raises(ValidationError):
                await call(key)
        for values in ({key: 1}, {"k": 1, key: 1}):
            with pytest.raises(ValidationError):
                await store.put_many(values)
    for value in BAD_VALUES:
        with pytest.raises(ValidationError):
            await store.put("k", value)
        with pytest.raises(ValidationError):
            await store.put_many({"k": 1, "l": value})
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValidationError, match="deeper than 100 levels"):
        await store.put("k", deep)
    for ttl in (0, -1, math.nan, math.inf, "1s", True):
        with pytest.raises(ValidationError):
            await store.put("k", 1, ttl=ttl)  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            await store.expire("k", ttl)  # type: ignore[arg-type]
    for wrong in (-1, True, "1", 1.0):
        with pytest.raises(ValidationError):
            await store.put("k", 1, expected_version=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            await store.scan(limit=wrong if wrong != 1.0 else 0)  # type: ignore[arg-type]
    for by in (2**63, "1", 0.5, True):
        with pytest.raises(ValidationError):
            await store.increment("k", by)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        await store.get_many("keys")
    for namespace in ("", "\0", 7):
        with pytest.raises(ValidationError):
            AsyncKeyValueStore(manager, "main", namespace=namespace)  # type: ignore[arg-type]
    assert [(item.key, item.value, item.version) for item in await store.scan()] == [("k", "kept", version)]


async def test_a_hostile_key_is_a_key(store: AsyncKeyValueStore) -> None:
    keys = [
        "'; DROP TABLE holdfast_key_values; --",
        "%",
        "_",
        "*",
        "{x}",
        ":",
        "a:b",
        "\\",
        "x" * 1024,
        " a ",
        "é",
        "é",
    ]
    for key in keys:
        await store.put(key, key)
    assert await store.get_many(keys) == {key: key for key in keys}


async def test_a_closed_manager_says_so(store: AsyncKeyValueStore, manager: AsyncDatabaseManager) -> None:
    await manager.aclose()
    with pytest.raises(ClosedError):
        await store.get("k")


async def test_calls_join_the_transaction_of_their_task(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    store = AsyncKeyValueStore(manager, "main")
    await store.put("k", 1)
    with pytest.raises(RuntimeError):
        async with database.transaction():
            await store.put("k", 2)
            await store.put_many({"l": 1, "m": 2})
            assert await store.get_many(["k", "l"]) == {"k": 2, "l": 1}
            raise RuntimeError
    assert await store.get_many(["k", "l"]) == {"k": 1}


@pytest.mark.tables
async def test_the_raw_column_holds_what_is_documented(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    with pytest.raises(MigrationError, match="persistence/0001_key_values"):
        await AsyncKeyValueStore(manager, "main", migrate=False).get("k")
    store = AsyncKeyValueStore(manager, "main")
    await store.put_many({"a": {"x": 1}, "b": b"\x00", "c": 5})
    rows = await database.fetch_all("SELECT key, value, number FROM holdfast_key_values ORDER BY key")
    assert [(row["key"], row["value"], row["number"]) for row in rows] == [
        ("a", b'j{"x":1}', None),
        ("b", b"b\x00", None),
        ("c", None, 5),
    ]
    await database.execute("UPDATE holdfast_key_values SET value = :v WHERE key = 'a'", {"v": b"junk"})
    with pytest.raises(CorruptError):
        await store.get("a")


async def test_each_call_is_one_request(store: AsyncKeyValueStore, manager: AsyncDatabaseManager) -> None:
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.put("k", {"a": 1}),
        lambda: store.put("k", 2, ttl=60),
        lambda: store.compare_and_set("k", 3, expected_version=3),
        lambda: store.get("k"),
        lambda: store.get_item("k"),
        lambda: store.get_many(["k", "l", "m"]),
        lambda: store.put_many({"l": 1, "m": 2}),
        lambda: store.increment("l"),
        lambda: store.expire("k", 5),
        lambda: store.scan(),
        lambda: store.delete("k"),
        lambda: store.delete_many(["l", "m"]),
    ]
    counts = []
    for _ in range(2):  # the first time a Redis server gets to know the scripts
        counts.clear()
        for call in calls:
            before = manager.stats()["main"].requests
            await call()
            counts.append(manager.stats()["main"].requests - before)
    assert counts == [1] * len(calls)
