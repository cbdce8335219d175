"""The vector stores that a contract runs on: each kind on a connection of its own, and ways to look from beside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from persistence import AsyncDatabase, AsyncDatabaseManager, PgVectorConfig, SQLiteConfig
from vectorstore import (
    AsyncMemoryVectorStore,
    AsyncPgVectorStore,
    AsyncSQLiteVectorStore,
    AsyncVectorStore,
    Document,
    SearchResult,
)

DATABASES = ("pgvector", "sqlite", "sqlite in memory")
BACKENDS = (*DATABASES, "memory")

X, Y, Z = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


class Backend:
    """One kind of store on one connection, ``main``, and ways to look at it from beside."""

    def __init__(self, kind: str, manager: AsyncDatabaseManager, config: PgVectorConfig | SQLiteConfig | None) -> None:
        self.kind = kind
        self.manager = manager
        self.config = config
        self.managers: list[AsyncDatabaseManager] = []

    @property
    def is_shared(self) -> bool:
        """Whether another connection sees the same documents."""
        return self.kind in ("pgvector", "sqlite")

    async def connect(self, manager: AsyncDatabaseManager) -> None:
        if isinstance(self.config, PgVectorConfig):
            await manager.add_pgvector("main", self.config)
        elif self.config is not None:
            await manager.add_sqlite("main", self.config)

    def store(self, manager: AsyncDatabaseManager | None = None, **options: Any) -> AsyncVectorStore:
        options = {"dimensions": 3, **options}
        if self.kind == "memory":
            return AsyncMemoryVectorStore(**options)
        if self.kind == "pgvector":
            return AsyncPgVectorStore(manager or self.manager, "main", **options)
        return AsyncSQLiteVectorStore(manager or self.manager, "main", **options)

    async def beside(self, **options: Any) -> AsyncVectorStore:
        """Return a store on a connection of another manager, as another program has one."""
        manager = AsyncDatabaseManager()
        self.managers.append(manager)
        await self.connect(manager)
        return self.store(manager, **options)

    @property
    def database(self) -> AsyncDatabase:
        return self.manager.get_database("main")

    def requests(self) -> int:
        return self.manager.stats()["main"].requests


@pytest_asyncio.fixture(name="backend")
async def vector_backend(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path
) -> AsyncIterator[Backend]:
    config: PgVectorConfig | SQLiteConfig | None = None
    if request.param == "pgvector":
        config = request.getfixturevalue("pgvector_config")
    elif request.param != "memory":
        config = SQLiteConfig(path=str(tmp_path / "main.db") if request.param == "sqlite" else ":memory:")
    made = Backend(request.param, manager, config)
    await made.connect(manager)
    yield made
    for other in made.managers:
        await other.aclose()


everywhere = pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
in_a_database = pytest.mark.parametrize("backend", list(DATABASES), indirect=True)
where_others_look = pytest.mark.parametrize("backend", ["pgvector", "sqlite"], indirect=True)
on_pgvector = pytest.mark.parametrize("backend", ["pgvector"], indirect=True)
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def doc(id: str, /, vector: Any = X, content: str = "text", **metadata: Any) -> Document:
    return Document(id, content, metadata, vector)


def ids(results: list[SearchResult]) -> list[str]:
    return [result.id for result in results]


def numbers(document: Document | SearchResult | None) -> list[float]:
    assert document is not None
    assert isinstance(document.embedding, np.ndarray)
    assert document.embedding.dtype == np.float32
    return [float(number) for number in document.embedding]
