"""What was wrong in Syntha's persistence, and must not be here: each test names the defect that it would show."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncMigrator,
    ClosedError,
    ConnectError,
    CorruptError,
    MigrationLine,
    PostgreSQLConfig,
    SQLiteConfig,
    ValidationError,
)
from sessions import AsyncContextStore, AsyncMemoryContextStore, ContextAgent
from tests._async.side import together

pytestmark = pytest.mark.tables("sessions")

SQL = ("postgresql", "sqlite")


async def add(manager: AsyncDatabaseManager, kind: str, request: pytest.FixtureRequest) -> AsyncDatabase:
    """Add the connection ``main``; twice, it is the same database."""
    if kind == "postgresql":
        return await manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    return await manager.add_sqlite("main", SQLiteConfig(path=str(request.getfixturevalue("tmp_path") / "main.db")))


@pytest_asyncio.fixture(params=SQL)
async def database(request: pytest.FixtureRequest, manager: AsyncDatabaseManager) -> AsyncDatabase:
    return await add(manager, request.param, request)


@pytest_asyncio.fixture
async def context(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncContextStore:
    return AsyncContextStore(manager, "main")


@pytest_asyncio.fixture
async def elsewhere(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> AsyncIterator[AsyncDatabase]:
    """The same database through another connection."""
    async with AsyncDatabaseManager() as other:
        yield await add(other, database.kind, request)


async def test_1_an_update_is_not_lost_behind_a_second_row(
    context: AsyncContextStore, elsewhere: AsyncDatabase
) -> None:
    for value in ("v1", "v2"):
        await context.push("k", value)
        await context.register_topics("ann", [value])
        await context.set_permissions("ann", [value])
    assert await context.get("k") == "v2"
    assert await context.agents() == [ContextAgent(agent="ann", topics=["v2"], permissions=["v2"])]
    rows = await elsewhere.fetch_all("SELECT CAST(value AS text) AS value FROM holdfast_items")
    assert rows == [{"value": '"v2"'}]
    assert await elsewhere.fetch_value("SELECT count(*) FROM holdfast_context_agents") == 1


async def test_2_the_stored_clock_has_microseconds_not_steps_of_128_seconds(
    context: AsyncContextStore, elsewhere: AsyncDatabase
) -> None:
    before = datetime.now(UTC)
    await context.push("k", 1, ttl=10)
    row = await elsewhere.fetch_one("SELECT created_at, expires_at FROM holdfast_items")
    assert row is not None
    made, ends = elsewhere.dialect.moment(row["created_at"]), elsewhere.dialect.moment(row["expires_at"])
    assert made is not None
    assert ends is not None
    assert ends - made == timedelta(seconds=10)
    assert abs(made - before) < timedelta(seconds=5)
    assert await context.get("k") == 1


async def test_3_a_push_after_close_fails_at_once_and_a_reopened_store_goes_on(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    context = AsyncContextStore(manager, "main")
    await context.push("k", 1)
    await manager.aclose()
    with pytest.raises(ClosedError):
        await context.push("k", 2)
    async with AsyncDatabaseManager() as again:
        await add(again, database.kind, request)
        store = AsyncContextStore(again, "main")
        await store.push("k", 3)
        assert await store.get("k") == 3


async def test_4_a_store_without_a_user_neither_reads_nor_removes_what_is_a_users(context: AsyncContextStore) -> None:
    ada = context.for_user("ada")
    await ada.push("secret", 1)
    await ada.push("ended", 1, ttl=0)
    await ada.register_topics("ann", ["t"])
    assert await context.get("secret") is None
    assert await context.items() == []
    assert await context.topics_of("ann") == []
    assert await context.delete("secret") is False
    assert await context.cleanup_expired() == 0
    assert await context.clear() == 0
    assert await ada.get("secret") == 1
    for empty in ("", None):
        with pytest.raises(ValidationError):
            context.for_user(empty)  # type: ignore[arg-type]


async def test_5_two_writers_of_a_new_key_do_not_collide(context: AsyncContextStore) -> None:
    await context.push("warm", 0)
    for n in range(10):
        done = await together(*[partial(context.push, f"k{n}", writer) for writer in range(4)])
        assert sorted(getattr(one, "version", one) for one in done) == [1, 2, 3, 4]


async def test_6_a_bad_value_does_not_abort_the_connection_for_others(
    context: AsyncContextStore, elsewhere: AsyncDatabase
) -> None:
    with pytest.raises(ValidationError):
        await context.push("k", float("nan"))
    await context.push("k", "a\0b")
    assert await context.get("k") == "a\0b"
    stored = await elsewhere.fetch_value("SELECT CAST(value AS text) FROM holdfast_items")
    assert stored == '"a\\u0000b"'


async def test_7_a_read_leaves_no_transaction_open(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    await manager.add_postgresql("main", postgresql_config)
    context = AsyncContextStore(manager, "main")
    await context.push("k", 1)
    await context.get("k", "ann")
    await context.items()
    async with AsyncDatabaseManager() as other:
        watcher = await other.add_postgresql("main", postgresql_config)
        states = await watcher.fetch_all(
            "SELECT DISTINCT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert states == [{"state": "idle"}]


async def test_8_nan_is_refused_on_every_backend_alike(context: AsyncContextStore) -> None:
    messages = set()
    for store in (context, AsyncMemoryContextStore()):
        with pytest.raises(ValidationError) as caught:
            await store.push("k", {"a": [float("nan")]})
        messages.add(str(caught.value))
        assert await store.items() == []
    assert len(messages) == 1


async def test_9_the_last_topic_of_an_agent_and_of_an_item_can_be_deleted(context: AsyncContextStore) -> None:
    await context.register_topics("ann", ["t"])
    await context.set_permissions("ann", ["t"])
    await context.push("k", 1, topics=["t"])
    assert await context.delete_topic("t") == 1
    assert await context.agents() == [ContextAgent(agent="ann", permissions=[])]
    assert await context.items() == []


@pytest.mark.tables
async def test_10_an_older_schema_is_brought_up_to_date_and_keeps_its_rows(
    manager: AsyncDatabaseManager, database: AsyncDatabase, tmp_path: Path
) -> None:
    shipped = Path(str(MigrationLine.of_package("sessions").folder))
    (tmp_path / "older" / database.kind).mkdir(parents=True)
    for path in (shipped / database.kind).glob("0001_*.sql"):
        shutil.copy(path, tmp_path / "older" / database.kind)
    await AsyncMigrator(database).up(MigrationLine("sessions", tmp_path / "older"))
    moment: Any = database.dialect.time(datetime.now(UTC))
    await database.execute(
        "INSERT INTO holdfast_sessions (tenant_id, id, user_id, metadata, version, created_at, updated_at)"
        " VALUES ('default', 's', 'ada', '{}', 1, :moment, :moment)",
        {"moment": moment},
    )
    context = AsyncContextStore(manager, "main")
    await context.push("k", 1)
    assert await context.get("k") == 1
    assert await database.fetch_value("SELECT user_id FROM holdfast_sessions") == "ada"


async def test_11_a_password_of_any_characters_reaches_the_server_as_it_is(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    password = "p@ss/w#rd:?&=% x"
    admin = await manager.add_postgresql("admin", postgresql_config)
    role = f"context_{postgresql_config.database[-12:]}"
    await admin.execute(f"CREATE ROLE \"{role}\" LOGIN SUPERUSER PASSWORD '{password}'")
    try:
        config = PostgreSQLConfig(
            **{
                **{name: getattr(postgresql_config, name) for name in ("host", "port", "database", "sslmode")},
                "username": role,
                "password": password,
            }
        )
        assert config.connection_parameters()["password"] == password
        await manager.add_postgresql("main", config)
        context = AsyncContextStore(manager, "main")
        await context.push("k", 1)
        assert await context.get("k") == 1
        await manager.remove("main")
    finally:
        await admin.execute(f'REASSIGN OWNED BY "{role}" TO CURRENT_USER')
        await admin.execute(f'DROP OWNED BY "{role}"')
        await admin.execute(f'DROP ROLE "{role}"')


async def test_12_a_server_that_cannot_be_reached_is_our_error_with_a_way_out(manager: AsyncDatabaseManager) -> None:
    with pytest.raises(ConnectError) as caught:
        await manager.add_postgresql("main", PostgreSQLConfig(host="127.0.0.1", port=1, database="x", username="x"))
    assert caught.value.hint
    assert caught.value.connection == "main"


async def test_13_what_has_expired_is_not_returned_until_somebody_cleans_up(
    context: AsyncContextStore, elsewhere: AsyncDatabase
) -> None:
    await context.push("k", 1, ttl=0)
    assert await elsewhere.fetch_value("SELECT count(*) FROM holdfast_items") == 1
    assert await context.get("k") is None
    assert await context.items() == []


async def test_14_the_topics_of_a_key_outlive_a_restart(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    context = AsyncContextStore(manager, "main")
    await context.push("k", 1, topics=["b", "a"])
    await context.register_topics("ann", ["a"])
    await manager.aclose()
    async with AsyncDatabaseManager() as again:
        await add(again, database.kind, request)
        reopened = AsyncContextStore(again, "main")
        assert [(item.key, item.topics) for item in await reopened.items_for("ann")] == [("k", ["b", "a"])]
        assert await reopened.delete_topic("a") == 0
        assert [(item.key, item.topics) for item in await reopened.items()] == [("k", ["b"])]


async def test_15_an_agent_can_be_denied_everywhere(context: AsyncContextStore) -> None:
    await context.set_permissions("ann", [])
    assert await context.can_post("ann", "t") is False


async def test_16_a_corrupt_file_is_an_error_and_stays_as_it_is(manager: AsyncDatabaseManager, tmp_path: Path) -> None:
    path = tmp_path / "main.db"
    path.write_bytes(b"SQLite format 3\0" + b"broken" * 1000)
    before = path.read_bytes()
    with pytest.raises((CorruptError, ConnectError)):
        await manager.add_sqlite("main", SQLiteConfig(path=str(path)))
        await AsyncContextStore(manager, "main").push("k", 1)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.endswith(("-wal", "-shm"))] == ["main.db"]


async def test_17_a_reader_does_not_wait_for_a_writer(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, database: AsyncDatabase, elsewhere: AsyncDatabase
) -> None:
    context = AsyncContextStore(manager, "main")
    await context.push("k", 1)
    async with elsewhere.transaction():
        await elsewhere.execute("UPDATE holdfast_items SET version = version + 1")
        item = await context.get_item("k")
        assert item is not None
        assert item.version == 1
