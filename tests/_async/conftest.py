"""A manager for each test, and the SQL databases and the checkpointers that a contract runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from checkpoint import AsyncCheckpointer, AsyncDatabaseCheckpointer, AsyncMemoryCheckpointer
from persistence import AsyncDatabase, AsyncDatabaseManager, SQLiteConfig

SQL_BACKENDS = ("postgresql", "sqlite", "memory")


@pytest_asyncio.fixture
async def manager() -> AsyncIterator[AsyncDatabaseManager]:
    """A manager, closed at the end of the test."""
    async with AsyncDatabaseManager() as made:
        yield made


@pytest_asyncio.fixture(params=SQL_BACKENDS)
async def database(request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncDatabase:
    """The connection ``main`` of the manager: PostgreSQL, a SQLite file, or SQLite in memory."""
    if request.param == "postgresql":
        return await manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    path = ":memory:" if request.param == "memory" else str(tmp_path / "main.db")
    return await manager.add_sqlite("main", SQLiteConfig(path=path))


@pytest_asyncio.fixture(params=("process", *SQL_BACKENDS, "redis"))
async def checkpointer(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path
) -> AsyncCheckpointer:
    """An empty checkpointer: in the process, on PostgreSQL, on a SQLite file, on SQLite in memory, on Redis."""
    if request.param == "process":
        return AsyncMemoryCheckpointer()
    if request.param == "redis":
        await manager.add_redis("main", request.getfixturevalue("redis_config"))
    elif request.param == "postgresql":
        await manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    else:
        path = ":memory:" if request.param == "memory" else str(tmp_path / "main.db")
        await manager.add_sqlite("main", SQLiteConfig(path=path))
    return AsyncDatabaseCheckpointer(manager, "main")


@pytest_asyncio.fixture
async def stored(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncDatabaseCheckpointer:
    """A checkpointer on the connection ``main``, its tables made."""
    checkpointer = AsyncDatabaseCheckpointer(manager, "main")
    await checkpointer.latest("t")
    return checkpointer
