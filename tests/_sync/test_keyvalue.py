# Generated from ../_async/test_keyvalue.py by tests/unasync.py: edit that one.
"""Keys and values on PostgreSQL, SQLite and Redis: what comes back, versions, lifetimes, pages, counting."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest

from persistence import (
    Database,
    DatabaseManager,
    KeyValueStore,
    ClosedError,
    ConflictError,
    CorruptError,
    MigrationError,
    PostgreSQLConfig,
    SQLiteConfig,
    StatementEvent,
    ValidationError,
)
from tests._sync.side import sleep, together

pytestmark = pytest.mark.tables("persistence")


@pytest.fixture(params=("postgresql", "sqlite", "redis"))
def store(request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path) -> KeyValueStore:
    """An empty namespace on the connection ``main``."""
    if request.param == "redis":
        manager.add_redis("main", request.getfixturevalue("redis_config"))
    elif request.param == "postgresql":
        manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    else:
        manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    return KeyValueStore(manager, "main")


def test_what_a_value_has_left_is_told_by_the_clock_of_the_server(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    admin = manager.add_postgresql("admin", postgresql_config)
    admin.execute("CREATE SCHEMA ahead")
    admin.execute(
        "CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
        " AS $$ SELECT pg_catalog.clock_timestamp() + INTERVAL '1 hour' $$"
    )
    manager.add_postgresql("main", replace(postgresql_config, search_path="ahead,pg_catalog,public"))
    store = KeyValueStore(manager, "main")
    store.put("k", 1, ttl=60)
    left = store.ttl("k")
    assert left is not None
    assert 0 < left <= 60


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 2**63, 10**400, 0.5, -0.0, 1e16, 1e300, "", "text", "a\0b",
    "\ud800", "☃", b"", b"\0\xff", [], {}, [1, [None, {"a": "\0"}]], {"b": 1, "a": {"ü": [1.0, 2]}}, "12", b"12",
    "x" * 100_000,
]  # fmt: skip


def test_every_value_comes_back_equal_and_of_its_type(store: KeyValueStore) -> None:
    for number, value in enumerate(VALUES):
        store.put(f"k{number}", value)
        found = store.get(f"k{number}", "missing")
        assert (found, type(found)) == (value, type(value))
        assert math.copysign(1, found) == math.copysign(1, value) if isinstance(value, float) else True
    keys = [f"k{number}" for number in range(len(VALUES))]
    assert store.get_many(keys) == dict(zip(keys, VALUES, strict=True))
    store.clear()
    store.put_many(dict(zip(keys, VALUES, strict=True)))
    assert store.get_many([*keys, "nobody"]) == dict(zip(keys, VALUES, strict=True))
    assert [item.value for item in store.scan()] == [VALUES[int(key[1:])] for key in sorted(keys)]


def test_what_is_not_there_is_none_or_false(store: KeyValueStore) -> None:
    assert store.get("k") is None
    assert store.get("k", 7) == 7
    assert store.get_item("k") is None
    assert store.get_many(["k"]) == {}
    assert store.get_many([]) == {}
    assert not store.exists("k")
    assert not store.delete("k")
    assert store.delete_many(["k", "l"]) == 0
    assert store.delete_many([]) == 0
    assert not store.expire("k", 10)
    assert store.ttl("k") is None
    assert store.scan() == []
    assert store.clear() == 0
    store.put("k", None)
    assert store.exists("k")
    assert store.get("k", 7) is None


def test_versions_grow_and_hold_back_a_stale_writer(store: KeyValueStore) -> None:
    first = store.put("k", "a", expected_version=0)
    with pytest.raises(ConflictError, match="main: the value of 'k' has another version than 0"):
        store.put("k", "b", expected_version=0)
    assert store.put("k", "b", expected_version=first) == first + 1
    assert store.put("k", "c") == first + 2
    assert not store.compare_and_set("k", "d", expected_version=first + 1)
    assert not store.delete("k", expected_version=first + 1)
    item = store.get_item("k")
    assert item is not None
    assert (item.key, item.value, item.version, item.expires_at) == ("k", "c", first + 2, None)
    assert store.compare_and_set("k", "d", expected_version=first + 2)
    assert store.delete("k", expected_version=first + 3)
    assert not store.compare_and_set("k", "e", expected_version=first + 3)


def test_no_version_comes_back_when_a_key_ends_and_is_put_again(store: KeyValueStore) -> None:
    def put() -> int:
        return store.put("k", "v")

    def put_new() -> int:
        return store.put("k", "v", expected_version=0)

    def put_with_others() -> int:
        store.put_many({"k": "v", "other": "v"})
        return version()

    def count() -> int:
        store.increment("k")
        return version()

    def version() -> int:
        item = store.get_item("k")
        assert item is not None
        return item.version

    seen = [store.put("k", "v", ttl=0.005)]
    while store.exists("k"):
        pass  # it ends by itself
    for begin in (put, put_new, put_with_others, count, put):
        seen.append(begin())
        seen.append(put())
        for stale in seen[:-1]:
            assert not store.compare_and_set("k", "stale", expected_version=stale)
            assert not store.delete("k", expected_version=stale)
        assert seen == sorted(set(seen))
        assert store.delete("k")


def test_of_many_who_compare_and_set_one_wins(store: KeyValueStore) -> None:
    version = store.put("k", 0)
    won = together(*[lambda n=n: store.compare_and_set("k", n, expected_version=version) for n in range(8)])
    assert sorted(won) == [False] * 7 + [True]
    assert store.get("k") == won.index(True)


def test_counting_at_the_same_time_loses_nothing(store: KeyValueStore) -> None:
    assert store.increment("n", 5) == 5

    def count() -> None:
        for _ in range(25):
            store.increment("n")

    assert together(*[count] * 4) == [None] * 4
    assert store.get("n") == 105
    assert store.increment("n", -200) == -95
    counted = store.get_item("n")
    assert counted is not None
    assert store.put("n", 2**63 - 1) == counted.version + 1
    with pytest.raises(ValidationError, match="more than 64 bits"):
        store.increment("n")
    assert store.get("n") == 2**63 - 1
    for value in ("5", 0.5, b"5", 2**63, None):
        store.put("other", value)
        with pytest.raises(ValidationError, match="no whole number"):
            store.increment("other")
        assert store.get("other") == value


def until_gone(store: KeyValueStore, key: str) -> None:
    until = monotonic() + 10
    while store.exists(key):
        assert monotonic() < until
        sleep(0.005)


def test_what_has_expired_is_not_there(store: KeyValueStore, manager: DatabaseManager) -> None:
    store.put("short", "x", ttl=0.05)
    store.put("long", "y", ttl=timedelta(hours=1))
    store.increment("count", ttl=0.5)
    store.increment("count", ttl=3600)
    left = store.ttl("long")
    assert left is not None
    assert 3590 < left <= 3600.1
    item = store.get_item("long")
    assert item is not None
    assert item.expires_at is not None
    assert abs(item.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=10)
    until_gone(store, "short")
    until_gone(store, "count")
    assert store.get_item("short") is None
    assert store.get_many(["short", "long"]) == {"long": "y"}
    assert [each.key for each in store.scan()] == ["long"]
    assert not store.delete("short")
    assert not store.expire("short", 10)
    assert store.put("short", "z", expected_version=0) >= 1
    assert store.increment("count") == 1
    assert store.ttl("count") is None
    assert store.expire("long", None)
    assert store.ttl("long") is None
    assert store.expire("long", 0.02)
    until_gone(store, "long")
    assert store.delete_expired() == (0 if manager.get("main").kind == "redis" else 1)
    assert store.put("short", "kept") >= 2
    assert [each.key for each in store.scan()] == ["count", "short"]


def test_pages_follow_one_another_in_the_order_of_keys(store: KeyValueStore) -> None:
    keys = sorted(
        [*(f"a/{n}" for n in range(25)), "a", "a\U0010ffff", "a%", "a_", "b", "B", "ü", "\ue000", "\U0001f600"]
    )
    store.put_many({key: n for n, key in enumerate(keys)})
    found: list[str] = []
    after = None
    while page := store.scan(limit=7, after=after):
        assert len(page) <= 7
        found += [item.key for item in page]
        after = page[-1].key
    assert found == keys
    for prefix in ("a", "a/", "a/1", "a%", "a_", "\ud7ff", "\U0010ffff", "a\U0010ffff", "nobody"):
        if prefix != "\ud7ff":
            assert [item.key for item in store.scan(prefix)] == [key for key in keys if key.startswith(prefix)]
    assert [item.key for item in store.scan("a/", after="a/3", limit=2)] == ["a/4", "a/5"]
    assert [item.key for item in store.scan("b", after="a")] == ["b"]
    assert store.delete_many([*keys, "nobody"]) == len(keys)
    assert store.scan() == []


def test_tenants_and_namespaces_are_apart(store: KeyValueStore, manager: DatabaseManager) -> None:
    stores = [
        KeyValueStore(manager, "main", tenant=tenant, namespace=namespace)
        for tenant in ("a", "a:b", "a}")
        for namespace in ("c", "b:c", ":", "*")
    ]
    for number, each in enumerate(stores):
        each.put("k:*", number)
    assert [each.get("k:*") for each in stores] == list(range(12))
    assert stores[0].clear() == 1
    assert [each.get("k:*") for each in stores[1:]] == list(range(1, 12))
    assert store.scan() == []


def test_any_number_of_keys_takes_bounded_statements(
    store: KeyValueStore, manager: DatabaseManager
) -> None:
    store.put_many({f"{n:05}": n for n in range(2500)})
    events: list[StatementEvent] = []
    # A script that the server doesn't know yet, or no more, is sent again as a whole: that try is not counted.
    manager.on_statement.append(lambda event: events.append(event) if event.error is None else None)
    assert len(store.get_many(f"{n:05}" for n in range(3000))) == 2500
    assert len(events) == 3
    store.get("00001")
    version = store.put("00001", "x")
    store.increment("00002")
    store.put("00001", "x", expected_version=version)
    store.delete("00001")
    store.scan(limit=2)
    assert len(events) == 9


BAD_KEYS: list[Any] = ["", "a\0b", "\ud800", "x" * 1025, b"k", 7, None]
BAD_VALUES: list[Any] = [
    math.nan, math.inf, (1, 2), {1: 2}, {"a": (1,)}, {"a": {"b": {1, 2}}}, object(), datetime.now(UTC), 1j,
    bytearray(b"x"),
]  # fmt: skip


def test_bad_input_is_refused_and_changes_nothing(
    store: KeyValueStore, manager: DatabaseManager
) -> None:
    version = store.put("k", "kept")
    for key in BAD_KEYS:
        for call in (store.get, store.get_item, store.exists, store.delete, store.increment, store.ttl):
            with pytest.raises(ValidationError):
                call(key)
        for values in ({key: 1}, {"k": 1, key: 1}):
            with pytest.raises(ValidationError):
                store.put_many(values)
    for value in BAD_VALUES:
        with pytest.raises(ValidationError):
            store.put("k", value)
        with pytest.raises(ValidationError):
            store.put_many({"k": 1, "l": value})
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValidationError, match="deeper than 100 levels"):
        store.put("k", deep)
    for ttl in (0, -1, math.nan, math.inf, "1s", True):
        with pytest.raises(ValidationError):
            store.put("k", 1, ttl=ttl)  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            store.expire("k", ttl)  # type: ignore[arg-type]
    for wrong in (-1, True, "1", 1.0):
        with pytest.raises(ValidationError):
            store.put("k", 1, expected_version=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            store.scan(limit=wrong if wrong != 1.0 else 0)  # type: ignore[arg-type]
    for by in (2**63, "1", 0.5, True):
        with pytest.raises(ValidationError):
            store.increment("k", by)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        store.get_many("keys")
    for namespace in ("", "\0", 7):
        with pytest.raises(ValidationError):
            KeyValueStore(manager, "main", namespace=namespace)  # type: ignore[arg-type]
    assert [(item.key, item.value, item.version) for item in store.scan()] == [("k", "kept", version)]


def test_a_hostile_key_is_a_key(store: KeyValueStore) -> None:
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
        store.put(key, key)
    assert store.get_many(keys) == {key: key for key in keys}


def test_a_closed_manager_says_so(store: KeyValueStore, manager: DatabaseManager) -> None:
    manager.close()
    with pytest.raises(ClosedError):
        store.get("k")


def test_calls_join_the_transaction_of_their_task(manager: DatabaseManager, database: Database) -> None:
    store = KeyValueStore(manager, "main")
    store.put("k", 1)
    with pytest.raises(RuntimeError):
        with database.transaction():
            store.put("k", 2)
            store.put_many({"l": 1, "m": 2})
            assert store.get_many(["k", "l"]) == {"k": 2, "l": 1}
            raise RuntimeError
    assert store.get_many(["k", "l"]) == {"k": 1}


@pytest.mark.tables
def test_the_raw_column_holds_what_is_documented(manager: DatabaseManager, database: Database) -> None:
    with pytest.raises(MigrationError, match="persistence/0001_key_values"):
        KeyValueStore(manager, "main", migrate=False).get("k")
    store = KeyValueStore(manager, "main")
    store.put_many({"a": {"x": 1}, "b": b"\x00", "c": 5})
    rows = database.fetch_all("SELECT key, value, number FROM holdfast_key_values ORDER BY key")
    assert [(row["key"], row["value"], row["number"]) for row in rows] == [
        ("a", b'j{"x":1}', None),
        ("b", b"b\x00", None),
        ("c", None, 5),
    ]
    database.execute("UPDATE holdfast_key_values SET value = :v WHERE key = 'a'", {"v": b"junk"})
    with pytest.raises(CorruptError):
        store.get("a")


def test_each_call_is_one_request(store: KeyValueStore, manager: DatabaseManager) -> None:
    calls: list[Callable[[], Any]] = [
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
            call()
            counts.append(manager.stats()["main"].requests - before)
    assert counts == [1] * len(calls)
