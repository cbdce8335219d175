"""Each option that is a number, of every package: what is no such number is refused by name, and nothing is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import (
    Backoff,
    Cache,
    ConfigError,
    DatabaseManager,
    EmbeddedRedis,
    HealthMonitor,
    KeyValueStore,
    LeaseLock,
    Maintenance,
    MigrationLine,
    Migrator,
    Outbox,
    Relay,
    ValidationError,
    WriteBehind,
)
from sessions import EventLog, MemoryGraph, Message, MessageStore, Task, TaskStore, TaskWorker
from vectorstore import Diversity, Document, FileVectorIndex, Fusion, SQLiteVectorStore

Call = Callable[[Any], object]
NONE_AT_ALL = (math.nan, math.inf, -math.inf, True, "5", 10**400)
"""What no option takes, however it is bounded."""


@pytest.fixture
def manager() -> Iterator[DatabaseManager]:
    with DatabaseManager() as made:
        made.add_sqlite("main", "sqlite://")
        yield made


def refused(calls: dict[str, Call], *more: object) -> None:
    """Check that each call, named after its option, refuses all that it should, by that name."""
    for label, call in calls.items():
        name = label.rpartition(" ")[2]
        for value in (*NONE_AT_ALL, *more):
            with pytest.raises((ValidationError, ConfigError), match=rf"(?i)\b{name}\b"):
                call(value)


def test_timeouts_and_limits_of_statements(manager: DatabaseManager, tmp_path: Path) -> None:
    database, migrator = manager.get_database("main"), Migrator(manager.get_database("main"))
    line = MigrationLine.of_package("sessions")
    database.execute("CREATE TABLE t (id integer)")
    calls: dict[str, Call] = {
        "execute timeout": lambda x: database.execute("INSERT INTO t VALUES (1)", timeout=x),
        "fetch_all timeout": lambda x: database.fetch_all("SELECT 1", timeout=x),
        "fetch_batch timeout": lambda x: database.fetch_batch([("SELECT 1", None)], timeout=x),
        "copy_into timeout": lambda x: database.copy_into("t", ["id"], [(1,)], timeout=x),
        "iterate batch_size": lambda x: next(database.iterate("SELECT id FROM t", key="id", batch_size=x)),
        "fetch_by_keys batch_size": lambda x: database.fetch_by_keys("t", [1], batch_size=x),
        "ping timeout": lambda x: database.ping(timeout=x),
        "transaction timeout": lambda x: database.transaction(timeout=x),
        "run_transaction timeout": lambda x: database.run_transaction(lambda t: t.execute("SELECT 1"), timeout=x),
        "back_up timeout": lambda x: database.back_up(tmp_path / "backup", timeout=x),
        "health_check timeout": lambda x: manager.health_check(timeout=x),
        "up lock_timeout": lambda x: migrator.up(line, lock_timeout=x),
        "down lock_timeout": lambda x: migrator.down(line, lock_timeout=x),
        "dry_run lock_timeout": lambda x: migrator.dry_run(line, lock_timeout=x),
        "adopt lock_timeout": lambda x: migrator.adopt(line, 1, lock_timeout=x),
        "adopt number": lambda x: migrator.adopt(line, x),
    }
    refused(calls, -1, -0.5)
    assert database.fetch_value("SELECT count(*) FROM t") == 0
    assert not (tmp_path / "backup").exists()
    assert migrator.status(line).current == 0
    database.execute("INSERT INTO t VALUES (1)", timeout=timedelta(seconds=5))


def test_what_runs_beside_the_caller(manager: DatabaseManager, tmp_path: Path) -> None:
    outbox = Outbox(manager, "main", "t")
    calls: dict[str, Call] = {
        "monitor interval": lambda x: HealthMonitor(manager, interval=x),
        "monitor timeout": lambda x: HealthMonitor(manager, timeout=x),
        "monitor failures": lambda x: HealthMonitor(manager, failures=x),
        "maintenance interval": lambda x: Maintenance(manager, "main", interval=x),
        "maintenance batches": lambda x: Maintenance(manager, "main", batches=x),
        "outbox keys": lambda x: outbox.claim(x, 1, 1.0),
        "outbox each": lambda x: outbox.claim(1, x, 1.0),
        "outbox lease": lambda x: outbox.claim(1, 1, x),
        "outbox idle": lambda x: outbox.forget_keys(idle=x),
        "relay lease": lambda x: Relay(outbox, print, lease=x),
        "relay poll": lambda x: Relay(outbox, print, poll=x),
        "relay side_by_side": lambda x: Relay(outbox, print, side_by_side=x),
        "flush timeout": lambda x: Relay(outbox, print).flush(timeout=x),
        "backoff base": lambda x: Backoff(base=x),
        "backoff cap": lambda x: Backoff(cap=x),
        "backoff jitter": lambda x: Backoff(jitter=x),
        "delay attempt": lambda x: Backoff().delay(x),
        "behind age": lambda x: WriteBehind(print, age=x),
        "behind timeout": lambda x: WriteBehind(print, timeout=x),
        "behind capacity": lambda x: WriteBehind(print, capacity=x),
        "server start_timeout": lambda x: EmbeddedRedis(tmp_path / "redis", start_timeout=x),
    }
    refused(calls, -1)
    for never in (math.nan, math.inf, True, "5", -1):
        with pytest.raises(ConfigError, match=r"retries"):
            Backoff(retries=never)  # type: ignore[arg-type]


def test_keys_leases_and_caches(manager: DatabaseManager) -> None:
    values = KeyValueStore(manager, "main")
    values.put("k", 1)
    calls: dict[str, Call] = {
        "lifetime": lambda x: values.put("k", 1, ttl=x),
        "expire lifetime": lambda x: values.expire("k", x),
        "put expected_version": lambda x: values.put("k", 2, expected_version=x),
        "scan limit": lambda x: values.scan(limit=x),
        "lock lifetime": lambda x: LeaseLock(manager, "main", "l", ttl=x),
        "lock timeout": lambda x: LeaseLock(manager, "main", "l", timeout=x),
        "acquire timeout": lambda x: LeaseLock(manager, "main", "l").acquire(x),
        "cache lifetime": lambda x: Cache(values, ttl=x),
        "cache stale": lambda x: Cache(values, stale=x),
        "cache local_ttl": lambda x: Cache(values, local_ttl=x),
        "cache max_size": lambda x: Cache(values, max_size=x),
        "load timeout": lambda x: Cache(values).get_or_load("c", lambda: 1, timeout=x),
    }
    refused(calls, -1)
    for never in (math.nan, math.inf, True, "5"):
        with pytest.raises(ValidationError, match=r"\bby\b"):
            values.increment("n", by=never)  # type: ignore[arg-type]
    assert values.get("k") == 1
    assert values.get("n") is None


def test_checkpoints_and_documents(manager: DatabaseManager, tmp_path: Path) -> None:
    checkpoints = DatabaseCheckpointer(manager, "main")
    checkpoints.save_checkpoint(Checkpoint(thread_id="t", state={}))
    store = SQLiteVectorStore(manager, "main", collection="c", dimensions=2)
    store.store_documents([Document(id="d", content="d", embedding=[1, 0])])
    index = FileVectorIndex(tmp_path, dimensions=2)
    calls: dict[str, Call] = {
        "load version": lambda x: checkpoints.load_checkpoint("t", x),
        "list limit": lambda x: checkpoints.list_checkpoints("t", limit=x),
        "prune keep_last": lambda x: checkpoints.prune("t", keep_last=x),
        "prune batch": lambda x: checkpoints.prune("t", keep_last=1, batch=x),
        "set_ttl ttl": lambda x: checkpoints.set_ttl("t", x),
        "search k": lambda x: store.search([1, 0], k=x),
        "search diversity": lambda x: store.search([1, 0], diversity=x),
        "store batch_size": lambda x: store.store_documents([], batch_size=x),
        "store dimensions": lambda x: SQLiteVectorStore(manager, "main", collection="e", dimensions=x),
        "diversity balance": lambda x: Diversity(balance=x),
        "diversity candidates": lambda x: Diversity(candidates=x),
        "fusion weight": lambda x: Fusion(weight=x),
        "fusion depth": lambda x: Fusion(depth=x),
        "index k": lambda x: index.search([1, 0], k=x),
        "index version": lambda x: index.rollback(version=x),
        "index keep": lambda x: FileVectorIndex(tmp_path, keep=x),
    }
    refused(calls, -1)
    for search in (store.search, index.search):
        with pytest.raises(ValidationError, match=r"min_score nan"):
            search([1, 0], min_score=math.nan)


def test_messages_events_graphs_and_tasks(manager: DatabaseManager) -> None:
    messages, log = MessageStore(manager, "main").for_user("u"), EventLog(manager, "main")
    graph, tasks = MemoryGraph(manager, "main"), TaskStore(manager, "main")
    messages.append("t", Message(role="user", content="hi"))
    calls: dict[str, Call] = {
        "last limit": lambda x: messages.last("t", limit=x),
        "list after": lambda x: messages.list_messages("t", after=x),
        "follow poll": lambda x: next(messages.follow("t", poll=x, timeout=1)),
        "follow timeout": lambda x: next(messages.follow("t", after=1, timeout=x)),
        "prune older_than": lambda x: messages.prune(older_than=x),
        "messages notify": lambda x: MessageStore(manager, "main", notify=x),
        "message cost": lambda x: messages.append("t", Message(role="user", content="", cost=x)),
        "message input_tokens": lambda x: messages.append("t", Message(role="user", content="", input_tokens=x)),
        "query limit": lambda x: log.query(limit=x),
        "aggregate bucket": lambda x: log.aggregate(x),
        "aggregate timeout": lambda x: log.aggregate(60, timeout=x),
        "follow lateness": lambda x: next(log.follow(lateness=x, timeout=1)),
        "writer age": lambda x: log.writer(age=x),
        "neighbours depth": lambda x: graph.neighbours("a", depth=x),
        "forget older_than": lambda x: graph.forget(older_than=x),
        "claim lease": lambda x: tasks.claim("k", "me", lease=x),
        "claim n": lambda x: tasks.claim_next("k", "me", x),
        "release batch": lambda x: tasks.release_expired(batch=x),
        "finished batch": lambda x: tasks.delete_finished(older_than=1, batch=x),
        "task max_attempts": lambda x: tasks.add(Task(kind="k", max_attempts=x)),
        "worker concurrency": lambda x: TaskWorker(tasks, {"k": print}, "me", concurrency=x),
        "worker poll": lambda x: TaskWorker(tasks, {"k": print}, "me", poll=x),
        "worker grace": lambda x: TaskWorker(tasks, {"k": print}, "me", grace=x),
    }
    refused(calls, -1)
    assert len(messages.list_messages("t")) == 1
    assert tasks.find() == []
