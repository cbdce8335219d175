"""A password that is fed through every path and then looked for: in reprs, logs, errors, health and statistics."""

from __future__ import annotations

import asyncio
import io
import logging
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from persistence import (
    AsyncDatabaseManager,
    DatabaseManager,
    EmbeddedPostgreSQL,
    PersistenceError,
    PgVectorConfig,
    PostgreSQLConfig,
    RedisConfig,
)

CANARY = "CANARY@ '\\x"
MARKS = ("CANARY", quote(CANARY, safe=""))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that any logger says, at every level."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


def said_by(call: Any) -> str:
    """Return everything that a failing call says of itself, but not the values in the frames."""
    try:
        call()
    except PersistenceError as exc:
        shown = "".join(traceback.TracebackException.from_exception(exc).format_exception_only())
        cause = exc.__cause__
        while cause is not None:
            shown += str(cause) + repr(cause)
            cause = cause.__cause__
        return f"{shown}{exc!r}{exc.message}{exc.hint}{exc.args}{vars(exc)}"
    raise AssertionError("the call was to fail")


def test_the_password_shows_nowhere(
    postgresql_config: PostgreSQLConfig, redis_config: RedisConfig, log: io.StringIO, tmp_path: Path
) -> None:
    wrong = replace(postgresql_config, password=CANARY)
    cache = replace(redis_config, password=CANARY)
    dead = PostgreSQLConfig(host="127.0.0.1", port=9, username="u", password=CANARY)
    vectors = PgVectorConfig(host="127.0.0.1", port=9, username="u", password=CANARY)
    said = [repr(each) + str(each) + str(asdict(each)) for each in (wrong, cache, dead, vectors)]
    with DatabaseManager() as manager:
        said += [
            said_by(lambda: manager.add_postgresql("a", wrong)),
            said_by(lambda: manager.add_redis("b", cache)),
            said_by(lambda: manager.add_postgresql("c", dead)),
            said_by(lambda: manager.add_pgvector("d", vectors)),
            said_by(lambda: manager.add_redis("e", RedisConfig(host="127.0.0.1", port=9, password=CANARY))),
            said_by(lambda: manager.add("f", f"postgresql://u:{CANARY}@h:nonsense/db")),
            said_by(lambda: manager.add("f", f"redis://:{CANARY}@h/nonsense")),
            said_by(lambda: manager.add("f", f"mysql://u:{CANARY}@h/db")),
            said_by(lambda: manager.add("f", f"postgresql://u:{CANARY}@h/db?nope=1")),
        ]
        manager.add_postgresql("lazy", dead, lazy=True)
        manager.add_redis("lazy-cache", cache, lazy=True)
        said += [
            said_by(lambda: manager.get_postgresql("lazy").fetch_value("SELECT 1")),
            said_by(lambda: manager.get_redis("lazy-cache").client.get("k")),
            repr(manager.health_check()),
            repr(manager.stats()),
            repr(manager.get_postgresql("lazy")),
            repr(manager.get_redis("lazy-cache")),
            repr(manager.get_redis("lazy-cache").client),
            repr(manager),
        ]

    async def other_side() -> str:
        async with AsyncDatabaseManager() as other:
            found = []
            for name, config in (("a", wrong), ("b", dead)):
                try:
                    await other.add_postgresql(name, config)
                except PersistenceError as exc:
                    found.append(f"{exc}{exc!r}{exc.__cause__}{vars(exc)}")
            try:
                await other.add_redis("c", cache)
            except PersistenceError as exc:
                found.append(f"{exc}{exc!r}{exc.__cause__}{vars(exc)}")
            await other.add_redis("lazy", cache, lazy=True)
            return "".join(found) + repr(await other.health_check()) + repr(other.get_redis("lazy").client)

    said.append(asyncio.run(other_side()))
    said.append(repr(EmbeddedPostgreSQL(tmp_path / "pg")))
    everything = "\n".join([*said, log.getvalue()])
    assert "authentication failed" in everything  # the failures were the real ones
    for mark in MARKS:
        assert mark not in everything


def test_a_database_that_works_shows_no_password_either(postgresql_config: PostgreSQLConfig, log: io.StringIO) -> None:
    password = postgresql_config.password.reveal()  # type: ignore[union-attr]
    with DatabaseManager() as manager:
        database = manager.add_postgresql("main", postgresql_config)
        failed = said_by(lambda: database.execute("SELECT * FROM nowhere"))
        shown = repr(database) + repr(manager.health_check()) + repr(manager.stats()) + failed + log.getvalue()
    assert password not in shown
