# Generated from ../_async/test_context_from_syntha.py by tests/unasync.py: edit that one.
"""What was wrong in Syntha's persistence, and must not be here: each test names the defect that it would show."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest

from persistence import (
    Database,
    DatabaseManager,
    Migrator,
    ClosedError,
    ConnectError,
    CorruptError,
    MigrationLine,
    PostgreSQLConfig,
    SQLiteConfig,
    ValidationError,
)
from sessions import ContextStore, MemoryContextStore, ContextAgent
from tests._sync.side import together

pytestmark = pytest.mark.tables("sessions")

SQL = ("postgresql", "sqlite")


def add(manager: DatabaseManager, kind: str, request: pytest.FixtureRequest) -> Database:
    """Add the connection ``main``; twice, it is the same database."""
    if kind == "postgresql":
        return manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    return manager.add_sqlite("main", SQLiteConfig(path=str(request.getfixturevalue("tmp_path") / "main.db")))


@pytest.fixture(params=SQL)
def database(request: pytest.FixtureRequest, manager: DatabaseManager) -> Database:
    return add(manager, request.param, request)


@pytest.fixture
def context(manager: DatabaseManager, database: Database) -> ContextStore:
    return ContextStore(manager, "main")


@pytest.fixture
def elsewhere(
    request: pytest.FixtureRequest, manager: DatabaseManager, database: Database
) -> Iterator[Database]:
    """The same database through another connection."""
    with DatabaseManager() as other:
        yield add(other, database.kind, request)


def test_1_an_update_is_not_lost_behind_a_second_row(
    context: ContextStore, elsewhere: Database
) -> None:
    for value in ("v1", "v2"):
        context.push("k", value)
        context.register_topics("ann", [value])
        context.set_permissions("ann", [value])
    assert context.get("k") == "v2"
    assert context.agents() == [ContextAgent(agent="ann", topics=["v2"], permissions=["v2"])]
    rows = elsewhere.fetch_all("SELECT CAST(value AS text) AS value FROM holdfast_items")
    assert rows == [{"value": '"v2"'}]
    assert elsewhere.fetch_value("SELECT count(*) FROM holdfast_context_agents") == 1


def test_2_the_stored_clock_has_microseconds_not_steps_of_128_seconds(
    context: ContextStore, elsewhere: Database
) -> None:
    before = datetime.now(UTC)
    context.push("k", 1, ttl=10)
    row = elsewhere.fetch_one("SELECT created_at, expires_at FROM holdfast_items")
    assert row is not None
    made, ends = elsewhere.dialect.moment(row["created_at"]), elsewhere.dialect.moment(row["expires_at"])
    assert made is not None
    assert ends is not None
    assert ends - made == timedelta(seconds=10)
    assert abs(made - before) < timedelta(seconds=5)
    assert context.get("k") == 1


def test_3_a_push_after_close_fails_at_once_and_a_reopened_store_goes_on(
    request: pytest.FixtureRequest, manager: DatabaseManager, database: Database
) -> None:
    context = ContextStore(manager, "main")
    context.push("k", 1)
    manager.close()
    with pytest.raises(ClosedError):
        context.push("k", 2)
    with DatabaseManager() as again:
        add(again, database.kind, request)
        store = ContextStore(again, "main")
        store.push("k", 3)
        assert store.get("k") == 3


def test_4_a_store_without_a_user_neither_reads_nor_removes_what_is_a_users(context: ContextStore) -> None:
    ada = context.for_user("ada")
    ada.push("secret", 1)
    ada.push("ended", 1, ttl=0)
    ada.register_topics("ann", ["t"])
    assert context.get("secret") is None
    assert context.items() == []
    assert context.topics_of("ann") == []
    assert context.delete("secret") is False
    assert context.cleanup_expired() == 0
    assert context.clear() == 0
    assert ada.get("secret") == 1
    for empty in ("", None):
        with pytest.raises(ValidationError):
            context.for_user(empty)  # type: ignore[arg-type]


def test_5_two_writers_of_a_new_key_do_not_collide(context: ContextStore) -> None:
    context.push("warm", 0)
    for n in range(10):
        done = together(*[partial(context.push, f"k{n}", writer) for writer in range(4)])
        assert sorted(getattr(one, "version", one) for one in done) == [1, 2, 3, 4]


def test_6_a_bad_value_does_not_abort_the_connection_for_others(
    context: ContextStore, elsewhere: Database
) -> None:
    with pytest.raises(ValidationError):
        context.push("k", float("nan"))
    context.push("k", "a\0b")
    assert context.get("k") == "a\0b"
    stored = elsewhere.fetch_value("SELECT CAST(value AS text) FROM holdfast_items")
    assert stored == '"a\\u0000b"'


def test_7_a_read_leaves_no_transaction_open(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    manager.add_postgresql("main", postgresql_config)
    context = ContextStore(manager, "main")
    context.push("k", 1)
    context.get("k", "ann")
    context.items()
    with DatabaseManager() as other:
        watcher = other.add_postgresql("main", postgresql_config)
        states = watcher.fetch_all(
            "SELECT DISTINCT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert states == [{"state": "idle"}]


def test_8_nan_is_refused_on_every_backend_alike(context: ContextStore) -> None:
    messages = set()
    for store in (context, MemoryContextStore()):
        with pytest.raises(ValidationError) as caught:
            store.push("k", {"a": [float("nan")]})
        messages.add(str(caught.value))
        assert store.items() == []
    assert len(messages) == 1


def test_9_the_last_topic_of_an_agent_and_of_an_item_can_be_deleted(context: ContextStore) -> None:
    context.register_topics("ann", ["t"])
    context.set_permissions("ann", ["t"])
    context.push("k", 1, topics=["t"])
    assert context.delete_topic("t") == 1
    assert context.agents() == [ContextAgent(agent="ann", permissions=[])]
    assert context.items() == []


@pytest.mark.tables
def test_10_an_older_schema_is_brought_up_to_date_and_keeps_its_rows(
    manager: DatabaseManager, database: Database, tmp_path: Path
) -> None:
    shipped = Path(str(MigrationLine.of_package("sessions").folder))
    (tmp_path / "older" / database.kind).mkdir(parents=True)
    for path in (shipped / database.kind).glob("0001_*.sql"):
        shutil.copy(path, tmp_path / "older" / database.kind)
    Migrator(database).up(MigrationLine("sessions", tmp_path / "older"))
    moment: Any = database.dialect.time(datetime.now(UTC))
    database.execute(
        "INSERT INTO holdfast_sessions (tenant_id, id, user_id, metadata, version, created_at, updated_at)"
        " VALUES ('default', 's', 'ada', '{}', 1, :moment, :moment)",
        {"moment": moment},
    )
    context = ContextStore(manager, "main")
    context.push("k", 1)
    assert context.get("k") == 1
    assert database.fetch_value("SELECT user_id FROM holdfast_sessions") == "ada"


def test_11_a_password_of_any_characters_reaches_the_server_as_it_is(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    password = "p@ss/w#rd:?&=% x"
    admin = manager.add_postgresql("admin", postgresql_config)
    role = f"context_{postgresql_config.database[-12:]}"
    admin.execute(f"CREATE ROLE \"{role}\" LOGIN SUPERUSER PASSWORD '{password}'")
    try:
        config = PostgreSQLConfig(
            **{
                **{name: getattr(postgresql_config, name) for name in ("host", "port", "database", "sslmode")},
                "username": role,
                "password": password,
            }
        )
        assert config.connection_parameters()["password"] == password
        manager.add_postgresql("main", config)
        context = ContextStore(manager, "main")
        context.push("k", 1)
        assert context.get("k") == 1
        manager.remove("main")
    finally:
        admin.execute(f'REASSIGN OWNED BY "{role}" TO CURRENT_USER')
        admin.execute(f'DROP OWNED BY "{role}"')
        admin.execute(f'DROP ROLE "{role}"')


def test_12_a_server_that_cannot_be_reached_is_our_error_with_a_way_out(manager: DatabaseManager) -> None:
    with pytest.raises(ConnectError) as caught:
        manager.add_postgresql("main", PostgreSQLConfig(host="127.0.0.1", port=1, database="x", username="x"))
    assert caught.value.hint
    assert caught.value.connection == "main"


def test_13_what_has_expired_is_not_returned_until_somebody_cleans_up(
    context: ContextStore, elsewhere: Database
) -> None:
    context.push("k", 1, ttl=0)
    assert elsewhere.fetch_value("SELECT count(*) FROM holdfast_items") == 1
    assert context.get("k") is None
    assert context.items() == []


def test_14_the_topics_of_a_key_outlive_a_restart(
    request: pytest.FixtureRequest, manager: DatabaseManager, database: Database
) -> None:
    context = ContextStore(manager, "main")
    context.push("k", 1, topics=["b", "a"])
    context.register_topics("ann", ["a"])
    manager.close()
    with DatabaseManager() as again:
        add(again, database.kind, request)
        reopened = ContextStore(again, "main")
        assert [(item.key, item.topics) for item in reopened.items_for("ann")] == [("k", ["b", "a"])]
        assert reopened.delete_topic("a") == 0
        assert [(item.key, item.topics) for item in reopened.items()] == [("k", ["b"])]


def test_15_an_agent_can_be_denied_everywhere(context: ContextStore) -> None:
    context.set_permissions("ann", [])
    assert context.can_post("ann", "t") is False


def test_16_a_corrupt_file_is_an_error_and_stays_as_it_is(manager: DatabaseManager, tmp_path: Path) -> None:
    path = tmp_path / "main.db"
    path.write_bytes(b"SQLite format 3\0" + b"broken" * 1000)
    before = path.read_bytes()
    with pytest.raises((CorruptError, ConnectError)):
        manager.add_sqlite("main", SQLiteConfig(path=str(path)))
        ContextStore(manager, "main").push("k", 1)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.endswith(("-wal", "-shm"))] == ["main.db"]


def test_17_a_reader_does_not_wait_for_a_writer(
    request: pytest.FixtureRequest, manager: DatabaseManager, database: Database, elsewhere: Database
) -> None:
    context = ContextStore(manager, "main")
    context.push("k", 1)
    with elsewhere.transaction():
        elsewhere.execute("UPDATE holdfast_items SET version = version + 1")
        item = context.get_item("k")
        assert item is not None
        assert item.version == 1
