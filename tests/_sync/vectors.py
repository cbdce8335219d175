# Generated from ../_async/vectors.py by tests/unasync.py: edit that one.
"""The vector stores that a contract runs on: each kind on a connection of its own, and ways to look from beside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest

from persistence import Database, DatabaseManager, PgVectorConfig, SQLiteConfig
from vectorstore import (
    MemoryVectorStore,
    PgVectorStore,
    SQLiteVectorStore,
    VectorStore,
    Document,
    SearchResult,
)

DATABASES = ("pgvector", "sqlite", "sqlite in memory")
BACKENDS = (*DATABASES, "memory")

X, Y, Z = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


class Backend:
    """One kind of store on one connection, ``main``, and ways to look at it from beside."""

    def __init__(self, kind: str, manager: DatabaseManager, config: PgVectorConfig | SQLiteConfig | None) -> None:
        self.kind = kind
        self.manager = manager
        self.config = config
        self.managers: list[DatabaseManager] = []

    @property
    def is_shared(self) -> bool:
        """Whether another connection sees the same documents."""
        return self.kind in ("pgvector", "sqlite")

    def connect(self, manager: DatabaseManager) -> None:
        if isinstance(self.config, PgVectorConfig):
            manager.add_pgvector("main", self.config)
        elif self.config is not None:
            manager.add_sqlite("main", self.config)

    def store(self, manager: DatabaseManager | None = None, **options: Any) -> VectorStore:
        options = {"dimensions": 3, **options}
        if self.kind == "memory":
            return MemoryVectorStore(**options)
        if self.kind == "pgvector":
            return PgVectorStore(manager or self.manager, "main", **options)
        return SQLiteVectorStore(manager or self.manager, "main", **options)

    def beside(self, **options: Any) -> VectorStore:
        """Return a store on a connection of another manager, as another program has one."""
        manager = DatabaseManager()
        self.managers.append(manager)
        self.connect(manager)
        return self.store(manager, **options)

    @property
    def database(self) -> Database:
        return self.manager.get_database("main")

    def requests(self) -> int:
        return self.manager.stats()["main"].requests


@pytest.fixture(name="backend")
def vector_backend(
    request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path
) -> Iterator[Backend]:
    config: PgVectorConfig | SQLiteConfig | None = None
    if request.param == "pgvector":
        config = request.getfixturevalue("pgvector_config")
    elif request.param != "memory":
        config = SQLiteConfig(path=str(tmp_path / "main.db") if request.param == "sqlite" else ":memory:")
    made = Backend(request.param, manager, config)
    made.connect(manager)
    yield made
    for other in made.managers:
        other.close()


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
