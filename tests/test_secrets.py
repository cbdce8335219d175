"""A password that is fed through every path and then looked for: in reprs, logs, errors, health and statistics."""

from __future__ import annotations

import asyncio
import io
import logging
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from psycopg import sql

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import (
    AsyncDatabaseManager,
    DatabaseManager,
    EmbeddedPostgreSQL,
    KeyValueStore,
    PersistenceError,
    PgVectorConfig,
    PostgreSQLConfig,
    RedisConfig,
    ValidationError,
)
from persistence.cli import main as command_line
from persistence.opentelemetry import OpenTelemetryObserver
from persistence.prometheus import PrometheusMetrics

CANARY = "CANARY@ '\\x"
VALUE = 'sk-CANARY "quoted" key'
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


@pytest.fixture
def canary_config(postgresql_config: PostgreSQLConfig) -> Iterator[PostgreSQLConfig]:
    """The test's database for a user whose password is the canary."""
    role = postgresql_config.database.replace("-", "_")
    with psycopg.connect(**postgresql_config.connection_parameters(), autocommit=True) as connection:
        name, password = sql.Identifier(role), sql.Literal(CANARY)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(name, password))
        yield replace(postgresql_config, username=role, password=CANARY)
        connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
        connection.execute(sql.SQL("DROP ROLE {}").format(name))


def url_with_canary(config: PostgreSQLConfig) -> str:
    host = quote(config.host, safe="")
    return f"postgresql://{config.username}:{MARKS[1]}@{host}:{config.port}/{config.database}"


COMMANDS = [
    ["health"],
    ["stats"],
    ["doctor"],
    ["threads"],
    ["checkpoints", "t"],
    ["prune", "--keep-last", "1"],
    ["backup", "FILE"],
    ["migrate", "status"],
    ["migrate", "up", "--no-backup"],
    ["search", "--collection", "c", "--text", "x"],
    ["citus-plan"],
]


def test_no_command_shows_a_password(
    canary_config: PostgreSQLConfig,
    log: io.StringIO,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("HOLDFAST_URL", "HOLDFAST_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    works = url_with_canary(canary_config)
    wrong = url_with_canary(replace(canary_config, username="nobody-of-that-name"))
    dead = f"postgresql://u:{MARKS[1]}@127.0.0.1:9/db"
    codes = set()
    for number, url in enumerate((works, wrong, dead, f"{works}?nope=1", f"rediss://:{MARKS[1]}@127.0.0.1:9/0")):
        for command in COMMANDS:
            arguments = [str(tmp_path / f"{number}.backup") if each == "FILE" else each for each in command]
            monkeypatch.setenv("HOLDFAST_URL", url)
            for more in ([], ["--json"]):
                with suppress(SystemExit):  # what argparse says of a wrong command line
                    codes.add(command_line([*arguments, *more]))
    told = capsys.readouterr()
    assert {0, 1, 3} <= codes
    assert len(told.out) > 2000
    assert len(told.err) > 2000
    for mark in MARKS:
        assert mark not in told.out + told.err + log.getvalue()


def test_neither_metrics_nor_spans_nor_logs_of_working_stores_show_a_password_or_a_value(
    canary_config: PostgreSQLConfig, log: io.StringIO
) -> None:
    registry, spans = CollectorRegistry(), InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with DatabaseManager() as manager:
        PrometheusMetrics(manager, registry=registry)
        OpenTelemetryObserver(manager, tracer_provider=provider)
        main = manager.add_postgresql("main", replace(canary_config, slow_threshold=0.0000001))
        checkpoints, values = DatabaseCheckpointer(manager, "main"), KeyValueStore(manager, "main")
        checkpoints.save_checkpoint(Checkpoint("t", {"api_key": VALUE}, metadata={"api_key": VALUE}, key="once"))
        values.put("api key", VALUE)
        said = [
            said_by(lambda: checkpoints.save_checkpoint(Checkpoint("t", {"api_key": VALUE}), expected_version=7)),
            said_by(lambda: main.execute("INSERT INTO holdfast_checkpoints (nowhere) VALUES (:v)", {"v": VALUE})),
            said_by(lambda: main.fetch_value("SELECT CAST(:v AS text)::integer", {"v": VALUE})),
        ]
        with pytest.raises(ValidationError, match="invalid input syntax for type integer") as caught:
            main.fetch_value("SELECT CAST(:v AS text)::integer", {"v": VALUE})
        said.append("".join(traceback.format_exception(caught.value)))
        assert values.get("api key") == VALUE
        said += [repr(manager.stats()), repr(manager.health_check()), generate_latest(registry).decode()]
        said += [span.to_json() for span in spans.get_finished_spans()]
    everything = "\n".join([*said, log.getvalue()])
    assert "holdfast_checkpoints" in everything
    for mark in (*MARKS, "quoted"):
        assert mark not in everything
