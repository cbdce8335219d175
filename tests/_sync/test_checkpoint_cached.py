# Generated from ../_async/test_checkpoint_cached.py by tests/unasync.py: edit that one.
"""The checkpointer with Redis in front of PostgreSQL: the contract, what comes from where, and every fault of Redis."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import pytest

from checkpoint import CachedCheckpointer, DatabaseCheckpointer, CacheStats, Checkpoint
from persistence import (
    Database,
    DatabaseManager,
    RedisConnection,
    Cipher,
    ClosedError,
    CorruptError,
    PostgreSQLConfig,
    RedisConfig,
    SQLiteConfig,
    UnknownConnectionError,
    ValidationError,
    WrongKindError,
)
from tests._sync import test_checkpoint_history, test_checkpoint_retention, test_checkpointer
from tests._sync.checkpoints import refs_in
from tests._sync.side import together
from tests.servers import TestServers

pytestmark = pytest.mark.tables("checkpoint")

LONG = "word " * 3000
STATE = {"messages": [f"message {n} " * 9 for n in range(40)], "document": LONG, "notes": "x" * 700, "n": 0}


PATIENT = 10.0
"""A ``timeout`` that a busy machine keeps to, in seconds."""


class Forgetful(CachedCheckpointer):
    """Loads as a process does that has not seen the thread before."""

    def __init__(self, *connections: Any, timeout: float = PATIENT, **options: Any) -> None:
        super().__init__(*connections, timeout=timeout, **options)

    def _load(self, thread_id: str, version: Any, key: Any, namespace: str, writes: bool) -> Any:
        self._bases.drop((thread_id, namespace))
        return super()._load(thread_id, version, key, namespace, writes)


@pytest.fixture
def main(manager: DatabaseManager, postgresql_config: PostgreSQLConfig) -> Database:
    return manager.add_postgresql("main", postgresql_config)


@pytest.fixture
def redis(manager: DatabaseManager, main: Database, redis_config: RedisConfig) -> RedisConnection:
    return manager.add_redis("cache", redis_config)


@pytest.fixture
def checkpointer(manager: DatabaseManager, redis: RedisConnection) -> Iterator[Forgetful]:
    """An empty checkpointer that takes every latest from Redis, if that has it."""
    with Forgetful(manager, "main", "cache") as made:
        yield made
        assert made.stats().errors == 0


def contract_of(module: ModuleType) -> dict[str, Any]:
    """Return the tests of a module that ask for a checkpointer and nothing else."""
    named = module.__name__.rpartition("_")[2]
    return {
        name.replace("test_", f"test_{named}_", 1): test
        for name, test in vars(module).items()
        if name.startswith("test_") and [*inspect.signature(test).parameters][:1] == ["checkpointer"]
    }


for _module in (test_checkpointer, test_checkpoint_history, test_checkpoint_retention):
    globals().update(contract_of(_module))


def test_the_contract_is_run_here() -> None:
    """It is found by the name of its fixture."""
    for module in (test_checkpointer, test_checkpoint_history, test_checkpoint_retention):
        assert len(contract_of(module)) > 5


@pytest.fixture
def another(manager: DatabaseManager, redis: RedisConnection) -> Iterator[CachedCheckpointer]:
    """A second checkpointer on the same two servers, which remembers nothing of the first one's."""
    with CachedCheckpointer(manager, "main", "cache", timeout=PATIENT) as made:
        yield made


def entry(redis: RedisConnection) -> dict[bytes, bytes]:
    """Return the one entry that Redis has."""
    keys = redis.client.keys("*")
    assert len(keys) == 1
    found: dict[bytes, bytes] = redis.client.execute_command("HGETALL", keys[0])
    return found


def without_blocks(database: Database) -> None:
    """Take every block out of PostgreSQL, so that who needs it to send one gets an error."""
    database.execute("UPDATE holdfast_checkpoints SET data = NULL")
    database.execute("DELETE FROM holdfast_checkpoint_blocks")


# What comes from where


def test_saves_that_share_a_commit_are_cached_without_their_secrets(
    manager: DatabaseManager, checkpointer: Forgetful, main: Database
) -> None:
    options: dict[str, Any] = {"group_commit": True, "secrets": "redact"}
    with CachedCheckpointer(manager, "main", "cache", timeout=PATIENT, **options) as grouped:
        for n in range(24):
            grouped.save_checkpoint(Checkpoint(f"t{n}", STATE))
        before = manager.stats()["main"].requests
        saves = [Checkpoint(f"t{n}", {**STATE, "n": n, "login": "password=Hunter-77"}) for n in range(24)]
        together(*[partial(grouped.save_checkpoint, each) for each in saves])
        assert manager.stats()["main"].requests - before < 24
        assert grouped.stats().stores == 48
    without_blocks(main)
    for n in range(24):
        found = checkpointer.load_checkpoint(f"t{n}")
        assert found.state == {**STATE, "n": n, "login": "password=[REDACTED password]"}


def test_a_process_that_has_not_seen_the_thread_gets_its_blocks_from_redis(
    checkpointer: Forgetful, main: Database
) -> None:
    saved = checkpointer.save_checkpoint(Checkpoint("t", STATE))
    without_blocks(main)
    assert checkpointer.load_checkpoint("t") == saved
    assert checkpointer.stats() == CacheStats(hits=1, stores=1)


def test_a_load_that_missed_fills_redis_for_the_next(
    checkpointer: Forgetful, manager: DatabaseManager, main: Database
) -> None:
    saved = DatabaseCheckpointer(manager, "main").save_checkpoint(Checkpoint("t", STATE))
    assert checkpointer.load_checkpoint("t") == saved
    assert checkpointer.stats() == CacheStats(misses=1, stores=1)
    without_blocks(main)
    assert checkpointer.load_checkpoint("t") == saved
    assert checkpointer.stats() == CacheStats(hits=1, misses=1, stores=1)


def test_each_save_brings_redis_forward_and_only_what_the_latest_needs_stays_there(
    checkpointer: Forgetful, another: CachedCheckpointer, main: Database, redis: RedisConnection
) -> None:
    state = {**STATE, "messages": []}
    for n in range(60):
        state = {**state, "messages": [*state["messages"], f"message {n} " * 12], "n": n}  # type: ignore[misc]
        saved = another.save_checkpoint(Checkpoint("t", state))
    row = main.fetch_one(
        "SELECT h.stamp, c.version, c.refs FROM holdfast_checkpoint_threads AS h JOIN holdfast_checkpoints AS c"
        " ON c.version = h.latest"
    )
    assert row is not None
    found = entry(redis)
    assert found.pop(b"stamp") == b"%d" % row["stamp"]
    assert sorted(found) == sorted(b"%d.%d" % (row["version"] - (ref >> 8), ref & 255) for ref in refs_in(row["refs"]))
    stored = main.fetch_all(
        "SELECT version, 0 AS ordinal, data FROM holdfast_checkpoints"
        " UNION ALL SELECT version, ordinal, data FROM holdfast_checkpoint_blocks",
        binary=True,
    )
    blocks = {b"%d.%d" % (each["version"], each["ordinal"]): each["data"] for each in stored}
    assert found == {field: bytes(blocks[field]) for field in found}
    assert another.stats() == CacheStats(stores=60)
    without_blocks(main)
    assert checkpointer.load_checkpoint("t") == saved


def test_what_another_saved_beside_redis_is_seen_at_once(
    checkpointer: Forgetful, manager: DatabaseManager
) -> None:
    """As when a writer dies between its commit and Redis."""
    beside = DatabaseCheckpointer(manager, "main")
    for n in range(5):
        checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n}))
        saved = beside.save_checkpoint(Checkpoint("t", {**STATE, "n": -n, "document": LONG[::-1]}))
        assert checkpointer.load_checkpoint("t") == saved
    beside.delete_checkpoint("t", 10)
    assert (checkpointer.load_checkpoint("t")).version == 9
    beside.rewind("t", 2)
    assert (checkpointer.load_checkpoint("t")).state == {**STATE, "n": 0, "document": LONG[::-1]}
    beside.delete_thread("t")
    assert checkpointer.latest("t") is None
    again = beside.save_checkpoint(Checkpoint("t", {"document": "another " * 99}))
    assert checkpointer.load_checkpoint("t") == again


def test_a_database_that_was_put_back_is_read_as_it_is_now(checkpointer: Forgetful, main: Database) -> None:
    tables = ("holdfast_checkpoint_threads", "holdfast_checkpoints", "holdfast_checkpoint_blocks")
    older = checkpointer.save_checkpoint(Checkpoint("t", STATE))
    for table in tables:
        main.execute(f"CREATE TABLE {table}_then AS TABLE {table}")
    for n in range(1, 4):
        checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n, "document": f"future {n} " * 500}))
    main.execute("DELETE FROM holdfast_checkpoint_threads")
    main.execute("DELETE FROM holdfast_checkpoint_blocks")
    main.execute("DELETE FROM holdfast_checkpoints")
    for table in tables:
        main.execute(f"INSERT INTO {table} SELECT * FROM {table}_then")
    assert checkpointer.load_checkpoint("t") == older
    # The same versions again, with other contents: nothing of the lost future may come back.
    for n in range(1, 4):
        saved = checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n, "document": f"now {n} " * 500}))
        assert saved.version == n + 1
        assert checkpointer.load_checkpoint("t") == saved


def test_each_call_is_one_request_to_each_server(
    checkpointer: Forgetful, another: CachedCheckpointer, manager: DatabaseManager
) -> None:
    checkpointer.save_checkpoint(Checkpoint("t", STATE))
    another.load_checkpoint("t")
    links = [checkpointer._link, another._link]

    def requests() -> tuple[int, int]:
        return manager.stats()["main"].requests, sum(link.requests for link in links if link is not None)

    for call, expected in (
        (lambda: checkpointer.load_checkpoint("t"), (1, 1)),  # a hit
        (lambda: another.load_checkpoint("t"), (1, 0)),  # it has the state
        (lambda: checkpointer.load_checkpoint("t", 1), (1, 0)),  # a version is never asked of Redis
        (lambda: checkpointer.list_checkpoints("t", states=True), (1, 0)),
        (lambda: another.save_checkpoint(Checkpoint("t", {**STATE, "n": 1})), (1, 1)),
        (lambda: checkpointer.put_writes("t", "k", "task", [("a", 1)]), (1, 0)),
    ):
        before = requests()
        call()  # type: ignore[no-untyped-call]
        assert tuple(after - then for after, then in zip(requests(), before, strict=True)) == expected
    assert manager.stats()["cache"].requests == 0


def test_a_state_that_is_small_or_too_large_is_not_kept(
    manager: DatabaseManager, redis: RedisConnection
) -> None:
    with Forgetful(manager, "main", "cache", max_bytes=2000) as checkpointer:
        for state in ({"n": 1, "text": "short"}, {"large": [f"{n}" * 7 for n in range(2000)]}):
            saved = checkpointer.save_checkpoint(Checkpoint("t", state))
            assert checkpointer.load_checkpoint("t") == saved
            assert redis.client.keys("*") == []
        grown: list[str] = []
        for n in range(100):
            grown = [*grown, f"{n} and so on " * 2]
            saved = checkpointer.save_checkpoint(Checkpoint("grows", {"items": grown}))
            assert sum(map(len, (redis.client.keys("*")) and (entry(redis)).values())) < 2100
        assert checkpointer.load_checkpoint("grows") == saved


def test_what_is_deleted_goes_from_redis_too(checkpointer: Forgetful, redis: RedisConnection) -> None:
    for namespace in ("", "sub"):
        checkpointer.save_checkpoint(Checkpoint("t", STATE, namespace=namespace))
    checkpointer.save_checkpoint(Checkpoint("other", STATE))
    assert len(redis.client.keys("*")) == 3
    assert checkpointer.delete_thread("t") == 2
    assert len(redis.client.keys("*")) == 1
    assert checkpointer.delete_checkpoint("other", 1)
    assert redis.client.keys("*") == []


def test_an_entry_expires(manager: DatabaseManager, redis: RedisConnection) -> None:
    with CachedCheckpointer(manager, "main", "cache", timeout=PATIENT, ttl=1000) as checkpointer:
        checkpointer.save_checkpoint(Checkpoint("t", STATE))
        (key,) = redis.client.keys("*")
        assert 990_000 < redis.client.pttl(key) <= 1_000_000


def test_what_a_transaction_undid_is_never_read(
    checkpointer: Forgetful, another: CachedCheckpointer, main: Database
) -> None:
    saved = checkpointer.save_checkpoint(Checkpoint("t", STATE))
    with pytest.raises(ZeroDivisionError):
        with main.transaction():
            inside = checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "document": LONG[::-1]}))
            assert checkpointer.load_checkpoint("t") == inside
            assert (another.load_checkpoint("t")) == inside
            raise ZeroDivisionError
    assert checkpointer.load_checkpoint("t") == saved
    assert another.load_checkpoint("t") == saved
    assert checkpointer.stats().stores == 1


def test_tenants_with_equal_ids_never_meet(manager: DatabaseManager, redis: RedisConnection) -> None:
    with Forgetful(manager, "main", "cache", tenant="a") as a, Forgetful(manager, "main", "cache") as b:
        for n, each in enumerate((a, b)):
            each.save_checkpoint(Checkpoint("t", {**STATE, "n": n}))
        assert [(each.load_checkpoint("t")).state["n"] for each in (a, b)] == [0, 1]
        assert [each.stats().hits for each in (a, b)] == [1, 1]
    assert len(redis.client.keys("*")) == 2


def test_with_a_cipher_redis_has_nothing_that_can_be_read(
    manager: DatabaseManager, redis: RedisConnection, main: Database
) -> None:
    old, new = Cipher({"old": b"o" * 32}, "old"), Cipher({"old": b"o" * 32, "new": b"n" * 32}, "new")
    canary = {"word": "canary " * 9, "words": ["canary " * 90] * 3, "noise": [f"canary {n}" for n in range(300)]}
    with Forgetful(manager, "main", "cache", cipher=old) as checkpointer:
        checkpointer.save_checkpoint(Checkpoint("t", canary))
        saved = checkpointer.save_checkpoint(Checkpoint("t", {**canary, "n": 1, "more": "canary " * 99}))
        found = entry(redis)
        assert len(found) > 1
        assert not any(b"canary" in part for part in (*found.keys(), *found.values()))
        assert checkpointer.load_checkpoint("t") == saved
        assert checkpointer.stats().hits == 1
    with Forgetful(manager, "main", "cache", cipher=new) as checkpointer:
        checkpointer.rotate_keys()
    only_new = Cipher({"new": b"n" * 32}, "new")
    with Forgetful(manager, "main", "cache", cipher=only_new) as checkpointer:
        for _ in range(2):
            assert checkpointer.load_checkpoint("t") == saved
        assert checkpointer.stats().hits == 1


def test_damaged_refs_are_told_with_their_checkpoint_whoever_has_its_blocks(
    checkpointer: Forgetful, another: CachedCheckpointer, main: Database, redis: RedisConnection
) -> None:
    checkpointer.save_checkpoint(Checkpoint("t", STATE))
    assert entry(redis)
    main.execute("UPDATE holdfast_checkpoints SET refs = '0,NULL'")
    for reader in (checkpointer, another):
        with pytest.raises(CorruptError, match="checkpoint 1 of thread 't': its refs are damaged"):
            reader.load_checkpoint("t")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "no stamp", "another type"])
def test_damaged_bytes_in_redis_are_noticed_and_replaced(
    checkpointer: Forgetful, redis: RedisConnection, damage: str
) -> None:
    saved = checkpointer.save_checkpoint(Checkpoint("t", STATE))
    (key,) = redis.client.keys("*")
    field, block = max((entry(redis)).items(), key=lambda item: len(item[1]))
    if damage == "flipped":
        middle = len(block) // 2
        redis.client.hset(key, field, block[:middle] + bytes([block[middle] ^ 1]) + block[middle + 1 :])
    elif damage == "cut":
        redis.client.hset(key, field, block[:-1])
    elif damage == "gone":
        redis.client.hdel(key, field)
    elif damage == "no stamp":
        redis.client.hdel(key, "stamp")
    else:
        redis.client.set(key, "a text")
    assert checkpointer.load_checkpoint("t") == saved
    if damage == "another type":
        assert checkpointer.stats().errors == 1
        checkpointer._stats = replace(checkpointer._stats, errors=0)
        return
    before = checkpointer.stats().hits
    assert checkpointer.load_checkpoint("t") == saved
    assert checkpointer.stats().hits == before + 1


# Bad input


def test_connections_of_other_kinds_are_refused(
    manager: DatabaseManager, redis: RedisConnection
) -> None:
    manager.add_sqlite("file", SQLiteConfig(path=":memory:"))
    with pytest.raises(WrongKindError):
        CachedCheckpointer(manager, "file", "cache")
    with pytest.raises(WrongKindError):
        CachedCheckpointer(manager, "main", "main")
    with pytest.raises(UnknownConnectionError):
        CachedCheckpointer(manager, "main", "nowhere")


def test_bad_options_are_refused(manager: DatabaseManager, redis: RedisConnection) -> None:
    bad: Any
    for bad in (
        *({"ttl": value} for value in (0, -1, float("nan"), float("inf"), "1h", None)),
        *({"timeout": value} for value in (0, True, -0.1)),
        *({"max_bytes": value} for value in (-1, 1.5, None)),
        {"tenant": ""},
        {"durability": "never"},
    ):
        with pytest.raises(ValidationError):
            CachedCheckpointer(manager, "main", "cache", **bad)


def test_a_closed_manager_says_so_and_a_redis_put_in_place_of_another_is_used(
    manager: DatabaseManager, checkpointer: Forgetful, redis: RedisConnection, servers: TestServers
) -> None:
    checkpointer.save_checkpoint(Checkpoint("t", STATE))
    another = servers.fresh_redis()
    new = manager.add_redis("cache", another, replace=True)
    checkpointer.load_checkpoint("t")
    assert len(new.client.keys("*")) == 1
    manager.close()
    with pytest.raises(ClosedError):
        checkpointer.load_checkpoint("t")
    with pytest.raises(ClosedError):
        checkpointer.save_checkpoint(Checkpoint("t", STATE))
    checkpointer._stats = replace(checkpointer._stats, errors=0)
    servers.release_redis(another)
