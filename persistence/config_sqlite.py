"""The settings of a SQLite file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from persistence.config_base import Config
from persistence.errors import ConfigError
from persistence.fields import Duration
from persistence.urls import Url


@dataclass(frozen=True, kw_only=True)
class SQLiteConfig(Config):
    """One SQLite file (or memory, ``path=":memory:"``), with one writer and readers beside it.

    ``synchronous="FULL"`` makes each commit survive a power cut; ``NORMAL`` may lose the last ones.
    ``busy_timeout`` bounds the wait for another process's write. A new file is readable by its owner alone. What is
    deleted stays in the file's free pages until their room is used again, unless ``secure_delete`` has it overwritten
    with zeros, which writes as much as was deleted.
    """

    path: str = "holdfast.db"
    busy_timeout: Duration = 10.0
    synchronous: Literal["FULL", "NORMAL", "EXTRA", "OFF"] = "FULL"
    secure_delete: bool = False
    max_readers: int = 4
    max_waiting: int | None = None
    pool_timeout: Duration = 10.0
    timeout: Duration = 30.0
    cache_size: int = 16384
    read_only: bool = False
    slow_threshold: Duration | None = None
    leak_after: Duration | None = None

    schemes: ClassVar[tuple[str, ...]] = ("sqlite", "sqlite3")
    aliases: ClassVar[Mapping[str, str]] = {"db_path": "path", "name": "path", "database": "path"}

    def _problems(self) -> Iterable[str]:
        if not self.path:
            yield "path is empty"
        if self.max_readers < 1:
            yield f"max_readers {self.max_readers} is below 1"
        if self.cache_size < 0:
            yield f"cache_size {self.cache_size} (KiB) is below 0"
        for name in ("busy_timeout", "pool_timeout", "timeout"):
            if getattr(self, name) <= 0:
                yield f"{name} {getattr(self, name)} is not above 0"
        if self.read_only and self.path == ":memory:":
            yield "read_only and :memory: exclude each other"

    @classmethod
    def _from_parts(cls, parts: Url) -> dict[str, Any]:
        # sqlite:///relative.db, sqlite:////absolute.db and sqlite:// (memory), as SQLAlchemy's URLs.
        if parts.hosts or parts.user:
            raise ConfigError("a SQLite URL has no host", hint="sqlite:///relative.db or sqlite:////absolute.db")
        return {"path": parts.path or ":memory:"}

    @property
    def address(self) -> str:
        """Where the database is, for messages: its path."""
        return self.path
