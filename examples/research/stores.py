"""The connections of the demo, and the stores that stand on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from checkpoint import DatabaseCheckpointer
from persistence import DatabaseManager, RedisClient
from research.debian import DIMENSIONS
from sessions import SessionManager, ThreadManager
from vectorstore import PgVectorStore, SQLiteVectorStore


@dataclass(frozen=True)
class Stores:
    """Everything that the agent keeps its state in."""

    manager: DatabaseManager
    checkpoints: DatabaseCheckpointer
    packages: PgVectorStore | SQLiteVectorStore
    sessions: SessionManager
    threads: ThreadManager
    cache: RedisClient | None
    """Answers that were given lately, for whoever asks again. The truth is in the checkpoints."""


@contextmanager
def open_stores(kind: str, folder: Path) -> Iterator[Stores]:
    """Connect to servers (``postgresql``) or to one file (``sqlite``) whose data is in ``folder``.

    The URLs start a PostgreSQL and a Redis there, or attach to those that another process has started. In production
    they would be ``postgresql://user@host/database`` and ``redis://host``, and nothing else would change.
    """
    with DatabaseManager() as manager:
        if kind == "sqlite":
            manager.add_sqlite("main", f"sqlite:///{quote(str(folder / 'demo.db'))}")
            yield _stores(manager, SQLiteVectorStore(manager, "main", collection="packages", dimensions=DIMENSIONS))
        else:
            postgresql = f"embedded+postgresql://{quote(str(folder / 'postgresql'))}"
            manager.add_postgresql("main", postgresql)
            manager.add_pgvector("vectors", postgresql, dimensions=DIMENSIONS)
            manager.add_redis("cache", f"embedded+redis://{quote(str(folder / 'redis'))}")
            yield _stores(manager, PgVectorStore(manager, "vectors", collection="packages", dimensions=DIMENSIONS))


def _stores(manager: DatabaseManager, packages: PgVectorStore | SQLiteVectorStore) -> Stores:
    return Stores(
        manager=manager,
        checkpoints=DatabaseCheckpointer(manager, "main"),
        packages=packages,
        sessions=SessionManager(manager, "main"),
        threads=ThreadManager(manager, "main"),
        cache=manager.get_redis("cache").client if "cache" in manager.names() else None,
    )
