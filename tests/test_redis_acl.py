"""The user of Redis that docs/security.md proposes: every store works as it, and nothing else is its to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import Cache, ConnectError, DatabaseManager, KeyValueStore, LeaseLock, PubSub, RedisConfig
from sessions import (
    ContextStore,
    Message,
    MessageStore,
    Session,
    SessionManager,
    Task,
    TaskStore,
    Thread,
    ThreadManager,
)
from tests.servers import redis_client
from tests.unasync import ROOT


@pytest.fixture
def limited(redis_config: RedisConfig) -> Iterator[RedisConfig]:
    """The test's Redis for the user of the page, under a name that no other run has."""
    name = f"holdfast-{uuid4().hex[:8]}"
    page = (ROOT / "docs" / "security.md").read_text()
    (line,) = re.findall(r"^ACL SETUSER holdfast (.*)$", page, re.MULTILINE)
    with redis_client(redis_config) as client:
        client.execute_command("ACL", "SETUSER", name, *line.replace(">s3cret", ">known").split())
        yield replace(redis_config, username=name, password="known", max_retries=0)
        client.execute_command("ACL", "DELUSER", name)


def test_every_store_works_as_the_user_of_the_page_and_nothing_else_does(limited: RedisConfig) -> None:
    with DatabaseManager() as manager:
        main = manager.add_redis("main", limited)
        status = manager.health_check()["main"]
        assert status, status.error

        checkpoints = DatabaseCheckpointer(manager, "main")
        for number in range(3):
            checkpoints.save_checkpoint(Checkpoint("t", {"n": number}))
        checkpoints.prune("t", keep_last=1)
        checkpoints.copy_thread("t", "u")
        assert [each.state for each in checkpoints.list_checkpoints("u", states=True)] == [{"n": 2}]
        checkpoints.set_ttl("t", 60)
        assert checkpoints.delete_thread("u") == 1

        SessionManager(manager, "main").create_session(Session(user_id="ada", id="s"))
        threads, messages = ThreadManager(manager, "main"), MessageStore(manager, "main")
        threads.create_thread(Thread(user_id="ada", id="t", session_id="s"))
        messages.append("t", Message(role="user", content="hello"))
        messages.fork("t")
        assert threads.delete_thread("t")
        context = ContextStore(manager, "main")
        context.push("k", {"a": 1}, ttl=60)
        assert [item.key for item in context.items()] == ["k"]

        tasks = TaskStore(manager, "main")
        tasks.add(Task(kind="work"))
        (claimed,) = tasks.claim_next("work", owner="me")
        tasks.complete(claimed)

        values = KeyValueStore(manager, "main")
        values.put_many({"a": 1, "b": 2})
        assert values.increment("n") == 1
        assert Cache(values, ttl=60).get_or_load("c", lambda: 3) == 3
        with LeaseLock(manager, "main", "door") as lock:
            assert lock.fence == 1
        pubsub = PubSub(manager, "main")
        with pubsub.subscribe("c") as subscription:
            pubsub.publish("c", "x")
            assert subscription.get(timeout=5) is not None

        for command in (
            ("SET", "others", "v"),
            ("GET", "others"),
            ("KEYS", "*"),
            ("FLUSHDB",),
            ("CONFIG", "GET", "requirepass"),
            ("ACL", "LIST"),
            ("PUBLISH", "others", "x"),
        ):
            with pytest.raises(ConnectError, match=r"(?i)permission"):
                main.client.execute_command(*command)
