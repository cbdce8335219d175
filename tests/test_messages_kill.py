"""Messages that were acknowledged are there, whoever is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread as Worker
from time import monotonic, sleep

import pytest

from persistence import DatabaseManager, EmbeddedPostgreSQL, PersistenceError, SQLiteConfig
from persistence.fields import reveal
from sessions import Message, MessageStore, Thread, ThreadManager
from tests._sync.test_faults import processes_of
from tests.unasync import ROOT

pytestmark = pytest.mark.tables("sessions")

WRITER = """
import sys
from persistence import DatabaseManager
from sessions import Message, MessageStore
with DatabaseManager() as manager:
    manager.add("main", sys.argv[1])
    messages = MessageStore(manager, "main")
    for number in range(100_000):
        stored = messages.append_many("t1", [Message(role="user", content=[number, part]) for part in range(2)])
        print(stored[-1].seq, flush=True)
"""


def numbers(messages: MessageStore) -> list[int]:
    """Return the numbers of the messages, having checked that each append is whole."""
    stored = messages.last("t1", 10_000)
    assert [message.content for message in stored] == [[place // 2, place % 2] for place in range(len(stored))]
    return [message.seq or 0 for message in stored]


@pytest.mark.parametrize("kind", ["postgresql", "sqlite", "redis"])
def test_every_acknowledged_message_outlives_the_kill_of_its_writer(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    with DatabaseManager() as manager:
        if kind == "postgresql":
            config = request.getfixturevalue("postgresql_config")
            manager.add_postgresql("main", config)
            user = f"{config.username}:{reveal(config.password)}"
            url = f"postgresql://{user}@/{config.database}?host={config.host}&port={config.port}"
        elif kind == "redis":
            redis = request.getfixturevalue("redis_config")
            manager.add_redis("main", redis)
            url = f"unix://:{reveal(redis.password or '')}@{redis.unix_socket}?db={redis.database}"
        else:
            path = tmp_path / "main.db"
            manager.add_sqlite("main", SQLiteConfig(path=str(path)))
            url = f"sqlite:///{path}"
        ThreadManager(manager, "main").create_thread(Thread(id="t1", user_id="ada"))
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(20)]
            writer.kill()
            acknowledged += [int(line) for line in writer.stdout.read().split("\n") if line]
        found = numbers(MessageStore(manager, "main"))
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= acknowledged[-1] >= 40


def test_every_acknowledged_message_outlives_the_kill_of_the_server(tmp_path: Path) -> None:
    with EmbeddedPostgreSQL(tmp_path / "server") as server, DatabaseManager() as manager:
        manager.add_postgresql("main", server.config())
        ThreadManager(manager, "main").create_thread(Thread(id="t1", user_id="ada"))
        messages = MessageStore(manager, "main")
        acknowledged: list[int] = []
        failures: list[BaseException] = []

        def write() -> None:
            try:
                for _ in range(100_000):
                    acknowledged.append(messages.append("t1", Message(role="user", content="x")).seq or 0)
            except PersistenceError as exc:
                failures.append(exc)

        workers = [Worker(target=write) for _ in range(4)]
        for worker in workers:
            worker.start()
        until = monotonic() + 30
        while len(acknowledged) < 40 and monotonic() < until:
            sleep(0.005)
        assert server.pid is not None
        for pid in processes_of(server.pid):
            with suppress(ProcessLookupError):  # it went with its parent
                os.kill(pid, signal.SIGKILL)
        for worker in workers:
            worker.join(30)
        assert len(failures) == 4
        server.start()
        found = [message.seq for message in messages.last("t1", 10_000)]
        assert found == list(range(1, len(found) + 1))
        assert set(acknowledged) <= set(found)
        assert len(acknowledged) >= 40
        assert messages.append("t1", Message(role="user", content="x")).seq == len(found) + 1
