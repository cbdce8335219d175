# Generated from ../_async/test_redis_replicas.py by tests/unasync.py: edit that one.
"""Writes to Redis that wait for a replica: against a master and its replica, with a network in between that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from redis.exceptions import WatchError

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import (
    DatabaseManager,
    KeyValueStore,
    LeaseLock,
    ConfigError,
    NotReplicatedError,
    QueryError,
    ReadOnlyError,
    RedisConfig,
)
from persistence.scripts import script_of
from sessions import SessionManager, TaskStore, Session, Task
from tests._sync.side import together
from tests.redis_servers import RedisPair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[RedisPair]:
    """A master and its replica."""
    servers = RedisPair(tmp_path / "pair")
    try:
        yield servers.start()
    finally:
        servers.stop()


def test_a_write_is_acknowledged_once_the_replica_has_it(manager: DatabaseManager, pair: RedisPair) -> None:
    cache = manager.add_redis("cache", pair.config(min_replicas=1, replica_timeout=20, read_timeout=30))
    client, writes = cache.client, script_of("return redis.call('INCR', KEYS[1])")

    def count(number: int) -> None:
        key = f"n{number}"
        for expected in range(1, 21):
            assert client.incr(key) == expected
            assert pair.client(1).get(key) == str(expected)

    assert together(*[lambda number=number: count(number) for number in range(8)]) == [None] * 8
    with client.pipeline() as pipe:
        pipe.set("in a transaction", "v").incr("a")
        assert pipe.execute() == [True, 1]
    with client.pipeline(transaction=False) as pipe:
        pipe.set("in a pipeline", "v" * 100_000).get("in a transaction")
        assert pipe.execute() == [True, b"v"]
    assert cache.run_script(writes, ["by a script"]) == 1  # once unknown, once known
    assert cache.run_script(writes, ["by a script"]) == 2
    with pair.client(1) as replica:
        assert replica.mget("in a transaction", "a", "by a script") == ["v", "1", "2"]
        assert len(replica.get("in a pipeline") or "") == 100_000
    assert cache.stats().in_use == 0


def test_a_write_that_no_replica_has_is_an_error_and_reads_go_on(
    manager: DatabaseManager, pair: RedisPair
) -> None:
    cache = manager.add_redis("cache", pair.config(min_replicas=1, replica_timeout=0.1, pool_size=2))
    patient = manager.add_redis("patient", pair.config(min_replicas=1, replica_timeout=2.5))
    client, writes = cache.client, script_of("return redis.call('INCR', KEYS[1])")
    reads = script_of("return redis.call('GET', KEYS[1])")
    patient.client.set("k", "before")
    patient.run_script(writes, ["n"])
    errors = cache.errors
    pair.between.mode = "black hole"

    started = monotonic()
    with pytest.raises(NotReplicatedError, match=r"cache: the server took it, but 0 of 1 replicas had it within 0.1 s"):
        client.set("k", "behind")
    assert 0.09 <= monotonic() - started < 5
    assert (cache.errors, cache.stats().in_use) == (errors + 1, 0)

    # What only reads, or is no data, asks no replica, or it would fail too.
    assert client.get("k") == b"behind"
    assert cache.run_script(reads, ["k"], reads=True) == b"behind"
    with client.pipeline() as pipe:
        pipe.get("k").exists("n")
        assert pipe.execute() == [b"behind", 1]
    assert client.publish("channel", "notice") == 0
    cache.ping()

    with pytest.raises(NotReplicatedError):
        cache.run_script(writes, ["n"])
    for atomic in (True, False):
        with client.pipeline(transaction=atomic) as pipe:
            pipe.incr("n")
            with pytest.raises(NotReplicatedError):
                pipe.execute(raise_on_error=False)
    with pytest.raises(QueryError, match="WRONGTYPE"):  # refused: that is what its caller is told
        client.lpush("k", "x")
    with client.pipeline() as pipe:
        pipe.watch("n")
        pipe.get("n")
        pipe.multi()
        pipe.incr("n")
        pair.run(0, "INCR", "n")
        with pytest.raises(WatchError):
            pipe.execute()
    assert client.get("n") == b"5"  # each connection says what it was asked
    assert cache.stats().in_use == 0

    pair.between.cut()
    pair.between.mode = "pass"
    pair.promote()  # or it might wait for an answer on a connection that it made just before
    pair.follow(1, pair.between.port)
    assert patient.client.incr("n") == 6
    assert pair.run(1, "GET", "n") == "6"


def test_every_store_is_told_and_a_repeated_write_is_not_taken_for_replicated(
    manager: DatabaseManager, pair: RedisPair
) -> None:
    manager.add_redis("main", pair.config(min_replicas=1, replica_timeout=0.05))
    manager.add_redis("patient", pair.config(min_replicas=1, replica_timeout=2.5))
    checkpoints, values = DatabaseCheckpointer(manager, "main"), KeyValueStore(manager, "main")
    sessions, tasks = SessionManager(manager, "main"), TaskStore(manager, "main")
    DatabaseCheckpointer(manager, "patient").save_checkpoint(Checkpoint("t", {"n": 1}))
    KeyValueStore(manager, "patient").put("k", b"1")
    pair.between.mode = "black hole"
    for write in (
        lambda: checkpoints.save_checkpoint(Checkpoint("t", {"n": 2}, key="once")),
        lambda: checkpoints.save_checkpoint(Checkpoint("new", {"n": 2})),
        lambda: values.put("k", b"2"),
        lambda: sessions.create_session(Session(user_id="u")),
        lambda: tasks.add(Task(kind="work")),
        lambda: LeaseLock(manager, "main", "door").acquire(),
    ):
        with pytest.raises(NotReplicatedError):
            write()
    # It finds itself done, which changes nothing; and yet no replica has what it did.
    with pytest.raises(NotReplicatedError):
        checkpoints.save_checkpoint(Checkpoint("t", {"n": 2}, key="once"))
    assert (checkpoints.load_checkpoint("t")).state == {"n": 2}
    assert values.get("k") == b"2"


def test_a_master_that_became_a_replica_refuses_writes(manager: DatabaseManager, pair: RedisPair) -> None:
    cache = manager.add_redis("cache", pair.config(min_replicas=1, replica_timeout=0.1))
    pair.promote()
    pair.follow(0, pair.ports[1])
    with pytest.raises(ReadOnlyError, match="read only replica"):
        cache.client.set("k", "v")
    assert cache.client.get("k") is None


def test_what_cannot_be_waited_for_is_refused() -> None:
    for wrong, what in (
        ({"min_replicas": -1}, "min_replicas -1 is below 0"),
        ({"min_replicas": 1, "replica_timeout": 0}, "replica_timeout 0.0 is not within 0 and read_timeout 3"),
        ({"min_replicas": 1, "replica_timeout": 3}, "replica_timeout 3.0 is not within 0 and read_timeout 3"),
        ({"min_replicas": 1, "cluster": True}, "cluster and min_replicas exclude each other"),
    ):
        with pytest.raises(ConfigError, match=what):
            RedisConfig(**wrong)  # type: ignore[arg-type]
    assert RedisConfig.from_url("redis://h?min_replicas=2&replica_timeout=250ms").replica_timeout == 0.25
