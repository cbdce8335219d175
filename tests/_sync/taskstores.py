# Generated from ../_async/taskstores.py by tests/unasync.py: edit that one.
"""A task store on each backend, and how a test lets time pass for a task without waiting."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest

from persistence import DatabaseManager, PostgreSQLConfig, SQLiteConfig
from persistence._sync.compat import Parallel
from persistence.dialect import to_micros
from sessions import TaskStore, Task
from tests.servers import TestServers

BACKENDS = ("postgresql", "sqlite", "redis")


@dataclass
class Backend:
    """The connection ``main`` of a manager, of some kind."""

    manager: DatabaseManager
    kind: str
    config: Any
    tenant: str

    def store(self, **options: Any) -> TaskStore:
        """Return a store of the tasks that this test alone has."""
        return TaskStore(self.manager, "main", **{"tenant": self.tenant, **options})

    def connect(self, name: str) -> None:
        """Add one more connection to the same database."""
        if self.kind == "postgresql":
            self.manager.add_postgresql(name, self.config)
        elif self.kind == "redis":
            self.manager.add_redis(name, self.config)
        else:
            self.manager.add_sqlite(name, self.config)

    def lapse(self, task: Task, seconds: float = 0) -> None:
        """Have the task's lease or waiting end now, or so many seconds from now."""
        self._move("wake_at", task, seconds)

    def age(self, task: Task, seconds: float) -> None:
        """Have the task be added, and ended if it is, so many seconds ago."""
        self._move("created_at", task, -seconds)
        if not task.is_open:
            self._move("finished_at", task, -seconds)

    def _move(self, column: str, task: Task, seconds: float) -> None:
        if self.kind == "redis":
            self._move_in_redis(column, task, seconds)
            return
        database = self.manager.get_database("main")
        moment = datetime.now(UTC) + timedelta(seconds=seconds)  # the servers of the tests have our clock
        changed = database.execute(
            f"UPDATE holdfast_tasks SET {column} = :moment WHERE tenant_id = :tenant AND id = :id",
            {"moment": moment, "tenant": self.tenant, "id": task.id},
        )
        assert changed == 1

    def _move_in_redis(self, column: str, task: Task, seconds: float) -> None:
        client = self.manager.get_redis("main").client
        moment = to_micros(datetime.now(UTC) + timedelta(seconds=seconds))
        root = f"holdfast:{{{self.tenant}}}:tasks"
        assert client.hset(f"{root}:task:{task.id}", column, str(moment)) == 0
        for name in {"wake_at": ["wake"], "finished_at": ["finished"]}.get(column, ["newest", f"kind:{task.kind}"]):
            assert client.zadd(f"{root}:{name}", {task.id or "": moment}, xx=True, ch=True) in (0, 1)


@pytest.fixture(scope="module")
def shared_config(servers: TestServers) -> Iterator[PostgreSQLConfig]:
    """A database for all tests of a module, which a tenant keeps apart: one for each would cost more than they do."""
    config = servers.fresh_database()
    yield config
    servers.drop_database(config)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path) -> Backend:
    config: Any
    if request.param == "postgresql":
        config = request.getfixturevalue("shared_config")
    elif request.param == "redis":
        config = request.getfixturevalue("redis_config")
    else:
        config = SQLiteConfig(path=str(tmp_path / "main.db"))
    made = Backend(
        manager, request.param, config, f"tenant {secrets.token_hex(4)}" if request.param == "postgresql" else "t"
    )
    made.connect("main")
    return made


@pytest.fixture
def tasks(backend: Backend) -> TaskStore:
    return backend.store()


@pytest.fixture
def elsewhere(backend: Backend) -> TaskStore:
    """The same tasks through a second connection."""
    backend.connect("elsewhere")
    return TaskStore(backend.manager, "elsewhere", tenant=backend.tenant)


@pytest.fixture
def parallel() -> Iterator[Parallel]:
    made = Parallel()
    yield made
    made.close()
