"""A task store on each backend, and how a test lets time pass for a task without waiting."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from persistence import AsyncDatabaseManager, PostgreSQLConfig, SQLiteConfig
from persistence._async.compat import Parallel
from persistence.dialect import to_micros
from sessions import AsyncTaskStore, Task
from tests.servers import TestServers

BACKENDS = ("postgresql", "sqlite", "redis")


@dataclass
class Backend:
    """The connection ``main`` of a manager, of some kind."""

    manager: AsyncDatabaseManager
    kind: str
    config: Any
    tenant: str

    def store(self, **options: Any) -> AsyncTaskStore:
        """Return a store of the tasks that this test alone has."""
        return AsyncTaskStore(self.manager, "main", **{"tenant": self.tenant, **options})

    async def connect(self, name: str) -> None:
        """Add one more connection to the same database."""
        if self.kind == "postgresql":
            await self.manager.add_postgresql(name, self.config)
        elif self.kind == "redis":
            await self.manager.add_redis(name, self.config)
        else:
            await self.manager.add_sqlite(name, self.config)

    async def lapse(self, task: Task, seconds: float = 0) -> None:
        """Have the task's lease or waiting end now, or so many seconds from now."""
        await self._move("wake_at", task, seconds)

    async def age(self, task: Task, seconds: float) -> None:
        """Have the task be added, and ended if it is, so many seconds ago."""
        await self._move("created_at", task, -seconds)
        if not task.is_open:
            await self._move("finished_at", task, -seconds)

    async def _move(self, column: str, task: Task, seconds: float) -> None:
        if self.kind == "redis":
            await self._move_in_redis(column, task, seconds)
            return
        database = self.manager.get_database("main")
        moment = datetime.now(UTC) + timedelta(seconds=seconds)  # the servers of the tests have our clock
        changed = await database.execute(
            f"UPDATE holdfast_tasks SET {column} = :moment WHERE tenant_id = :tenant AND id = :id",
            {"moment": moment, "tenant": self.tenant, "id": task.id},
        )
        assert changed == 1

    async def _move_in_redis(self, column: str, task: Task, seconds: float) -> None:
        client = self.manager.get_redis("main").client
        moment = to_micros(datetime.now(UTC) + timedelta(seconds=seconds))
        root = f"holdfast:{{{self.tenant}}}:tasks"
        assert await client.hset(f"{root}:task:{task.id}", column, str(moment)) == 0
        for name in {"wake_at": ["wake"], "finished_at": ["finished"]}.get(column, ["newest", f"kind:{task.kind}"]):
            assert await client.zadd(f"{root}:{name}", {task.id or "": moment}, xx=True, ch=True) in (0, 1)


@pytest.fixture(scope="module")
def shared_config(servers: TestServers) -> Iterator[PostgreSQLConfig]:
    """A database for all tests of a module, which a tenant keeps apart: one for each would cost more than they do."""
    config = servers.fresh_database()
    yield config
    servers.drop_database(config)


@pytest_asyncio.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path) -> Backend:
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
    await made.connect("main")
    return made


@pytest_asyncio.fixture
async def tasks(backend: Backend) -> AsyncTaskStore:
    return backend.store()


@pytest_asyncio.fixture
async def elsewhere(backend: Backend) -> AsyncTaskStore:
    """The same tasks through a second connection."""
    await backend.connect("elsewhere")
    return AsyncTaskStore(backend.manager, "elsewhere", tenant=backend.tenant)


@pytest_asyncio.fixture
async def parallel() -> AsyncIterator[Parallel]:
    made = Parallel()
    yield made
    made.close()
