"""The contract of a copy: all that every store keeps comes over, once, whatever ends it, and goes on being written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncKeyValueStore,
    AsyncMigrator,
    AsyncTransfer,
    CapabilityError,
    ConflictError,
    CopyProgress,
    MigrationError,
    MigrationLine,
    PgVectorConfig,
    PostgreSQLConfig,
    SQLiteConfig,
    ValidationError,
)
from sessions import AsyncEventLog, Event
from tests._async.copies import embedding, fill, go_on, read, vectors
from tests.servers import TestServers
from vectorstore import AsyncPgVectorStore, Document

FILLED = 24
"""The fewest tables that ``fill`` puts rows into, on either database."""
GROUND = MigrationLine.of_package("persistence")


@pytest_asyncio.fixture
async def source(manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncDatabase:
    """The connection ``source``: a SQLite file with key values."""
    made = await manager.add_sqlite("source", SQLiteConfig(path=str(tmp_path / "source.db")))
    await AsyncKeyValueStore(manager, "source").put_many({f"k{number:03}": number for number in range(25)})
    return made


@pytest_asyncio.fixture
async def target(manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncDatabase:
    """The connection ``target``: an empty SQLite file."""
    return await manager.add_sqlite("target", SQLiteConfig(path=str(tmp_path / "target.db")))


@pytest.fixture
def second_config(servers: TestServers) -> Iterator[PgVectorConfig]:
    config = servers.fresh_database()
    yield PgVectorConfig(**{each.name: getattr(config, each.name) for each in dataclasses.fields(config)})
    servers.drop_database(config)


async def check_copied(manager: AsyncDatabaseManager, before: dict[str, Any], source: str, target: str) -> None:
    transfer = AsyncTransfer(manager.get_database(source), manager.get_database(target))
    counted = await transfer.count()
    copied = await transfer.copy()
    assert {each.name: each.rows for each in copied} == counted
    assert sum(map(bool, counted.values())) >= FILLED, counted
    assert await transfer.verify() == ()
    after = await read(manager, target)
    assert after.keys() == before.keys()
    for name in before:
        assert after[name] == before[name], name


async def test_every_store_reads_and_goes_on_from_sqlite_to_postgresql_and_on_to_both(
    manager: AsyncDatabaseManager,
    tmp_path: Path,
    target: AsyncDatabase,
    pgvector_config: PgVectorConfig,
    second_config: PgVectorConfig,
) -> None:
    await manager.add_sqlite("source", SQLiteConfig(path=str(tmp_path / "source.db")))
    await manager.add_pgvector("first", pgvector_config)
    await manager.add_pgvector("second", second_config)
    await fill(manager, "source")
    before = await read(manager, "source")
    await check_copied(manager, before, "source", "first")
    await check_copied(manager, before, "first", "second")
    await check_copied(manager, before, "second", "target")
    events = [manager.get_database(name) for name in ("first", "second")]
    assert await events[0].fetch_value("SELECT max(CAST(CAST(xid AS text) AS bigint)) FROM holdfast_events") < (
        await events[1].fetch_value("SELECT min(CAST(CAST(xid AS text) AS bigint)) FROM holdfast_events")
    )  # a number of the other server's transactions means nothing here
    numbers = await go_on(manager, "source")
    assert await go_on(manager, "first") == numbers
    assert await go_on(manager, "second") == numbers
    assert await go_on(manager, "target") == numbers
    for line in ("checkpoint", "sessions", "vectorstore", "persistence"):
        for name in ("second", "target"):
            assert await AsyncMigrator(manager.get_database(name)).validate(MigrationLine.of_package(line)) == ()
    assert await target.fetch_value("SELECT count(*) FROM holdfast_vectors") == await target.fetch_value(
        "SELECT count(*) FROM holdfast_documents"
    )


async def test_every_store_reads_and_goes_on_from_sqlite_to_sqlite(
    manager: AsyncDatabaseManager, tmp_path: Path, target: AsyncDatabase
) -> None:
    await manager.add_sqlite("source", SQLiteConfig(path=str(tmp_path / "source.db")))
    await fill(manager, "source")
    before = await read(manager, "source")
    await check_copied(manager, before, "source", "target")
    sequences = "SELECT name, seq FROM sqlite_sequence ORDER BY name"
    assert await target.fetch_all(sequences) == await manager.get_database("source").fetch_all(sequences)
    triggers = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    assert await target.fetch_all(triggers) == await manager.get_database("source").fetch_all(triggers)
    assert await go_on(manager, "target") == await go_on(manager, "source")


async def test_a_copy_that_was_ended_goes_on_where_it_was(source: AsyncDatabase, target: AsyncDatabase) -> None:
    class Ended(Exception):
        pass

    def end(progress: CopyProgress) -> None:
        if progress.rows == 20:
            raise Ended

    transfer, seen = AsyncTransfer(source, target, batch_rows=10), list[tuple[str, int, bool]]()
    with pytest.raises(Ended):
        await transfer.copy(progress=end)
    assert await target.fetch_value("SELECT count(*) FROM holdfast_key_values") == 20
    copied = await transfer.copy(progress=lambda each: seen.append((each.table, each.rows, each.done)))
    assert seen[:2] == [("holdfast_key_values", 25, False), ("holdfast_key_values", 25, True)]
    assert {each.name: each.rows for each in copied}["holdfast_key_values"] == 25
    assert await transfer.verify() == ()
    assert {each.name: (each.rows, each.kept) for each in await transfer.copy()}["holdfast_key_values"] == (25, 0)


async def test_the_type_of_vectors_is_made_where_a_copy_needs_it(
    manager: AsyncDatabaseManager, tmp_path: Path, postgresql_config: PostgreSQLConfig
) -> None:
    origin = await manager.add_sqlite("origin", SQLiteConfig(path=str(tmp_path / "origin.db")))
    await vectors(manager, "origin").store_documents([Document("d", "text", {}, embedding(1))])
    server = await manager.add_postgresql("server", postgresql_config)
    await server.execute("DROP EXTENSION IF EXISTS vector")
    await AsyncTransfer(origin, server).copy()
    assert (await server.fetch_value("SELECT vector_dims(embedding) FROM holdfast_documents_docs")) == 3


async def test_a_batch_holds_few_bytes_whatever_came_before(
    manager: AsyncDatabaseManager, source: AsyncDatabase, target: AsyncDatabase
) -> None:
    values = AsyncKeyValueStore(manager, "source")
    for number in range(9):
        await values.put(f"z{number}", bytes(1_000_000))
    seen = [0]
    await AsyncTransfer(source, target).copy(
        progress=lambda each: seen.append(each.rows) if "values" in each.table else 0
    )
    assert [after - before for before, after in pairwise(seen)] == [29, 4, 1, 0]


async def test_a_copy_into_a_file_goes_on_and_leaves_alone_what_is_there(
    manager: AsyncDatabaseManager, target: AsyncDatabase, pgvector_config: PgVectorConfig
) -> None:
    class Ended(Exception):
        pass

    def end(progress: CopyProgress) -> None:
        if progress.rows == 20:
            raise Ended

    server = await manager.add_pgvector("server", pgvector_config)
    given = [Document(f"d{n:02}", f"the text {n}", {"n": n}, embedding(n)) for n in range(30)]
    await vectors(manager, "server").store_documents(given)
    own = vectors(manager, "target")
    await own.store_documents(
        [Document("d05", "own words", {}, embedding(99)), Document("z", "own", {}, embedding(98))]
    )
    transfer = AsyncTransfer(server, target, lines=[MigrationLine.of_package("vectorstore")], batch_rows=10)
    with pytest.raises(ConflictError, match="holdfast_collections of the target holds rows"):
        await transfer.copy()
    with pytest.raises(Ended):
        await transfer.copy(merge=True, progress=end)
    copied = {each.name: (each.rows, each.kept) for each in await transfer.copy(merge=True)}
    assert copied == {"holdfast_collections": (1, 0), "holdfast_documents_docs": (30, 0)}
    copied = {each.name: (each.rows, each.kept) for each in await transfer.copy(merge=True)}
    assert copied == {"holdfast_collections": (1, 1), "holdfast_documents_docs": (30, 30)}
    found = [(each.key[-1], each.what) for each in await transfer.verify()]
    assert found == [
        ("docs", "differs in created_at"),
        ("d05", "differs in content, metadata, created_at, updated_at, embedding"),
        ("z", "is only in the target"),
    ]
    assert [await target.fetch_value(f"SELECT count(*) FROM holdfast_{name}") for name in ("documents", "vectors")] == [
        31,
        31,
    ]
    fresh = vectors(manager, "target")
    assert [each.id for each in await fresh.search(embedding(7), k=1)] == ["d07"]
    assert [each.id for each in await fresh.search("text 21", k=1, mode="text")] == ["d21"]
    assert [each.id for each in await fresh.search("own words", k=1, mode="text")] == ["d05"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vector_type": "halfvec"}, "the collection 'odd' has vectors of the type halfvec"),
        ({"vector_type": "bit", "metric": "hamming"}, "the collection 'odd' has vectors of the type bit"),
        ({"text_search": "german"}, "the collection 'odd': there is no text search in 'german'"),
    ],
    ids=["halfvec", "bit", "german"],
)
async def test_a_collection_that_a_file_cannot_hold_is_refused_before_anything_is_written(
    manager: AsyncDatabaseManager,
    target: AsyncDatabase,
    pgvector_config: PgVectorConfig,
    options: dict[str, Any],
    said: str,
) -> None:
    server = await manager.add_pgvector("server", pgvector_config)
    await AsyncKeyValueStore(manager, "server").put("k", 1)
    await AsyncPgVectorStore(manager, "server", collection="odd", dimensions=8, **options).count()
    for call in (AsyncTransfer(server, target).count, AsyncTransfer(server, target).copy):
        with pytest.raises(CapabilityError, match=said):
            await call()
    assert await target.fetch_value("SELECT count(*) FROM sqlite_master") == 0
    ground = await AsyncTransfer(server, target, lines=[GROUND]).copy()
    assert {each.name: each.rows for each in ground}["holdfast_key_values"] == 1


async def test_a_value_that_a_file_cannot_hold_is_refused_before_anything_is_written(
    manager: AsyncDatabaseManager, target: AsyncDatabase, pgvector_config: PgVectorConfig, tmp_path: Path
) -> None:
    server = await manager.add_pgvector("server", pgvector_config)
    await AsyncKeyValueStore(manager, "server").put("k'k", 1, ttl=60)
    await AsyncEventLog(manager, "server").append_many([Event(kind="metric", name="m", value=1.0)])
    await server.execute("UPDATE holdfast_key_values SET expires_at = 'infinity'")
    with pytest.raises(CapabilityError, match=r"holdfast_key_values \(default,default,k'k\): expires_at is NaN or inf"):
        await AsyncTransfer(server, target).copy()
    await server.execute("UPDATE holdfast_key_values SET expires_at = NULL")
    await server.execute("UPDATE holdfast_events SET value = 'NaN'")
    with pytest.raises(CapabilityError, match=r"holdfast_events .*: value is NaN"):
        await AsyncTransfer(server, target).copy()
    assert await target.fetch_value("SELECT count(*) FROM sqlite_master") == 0
    line = MigrationLine("shop", tmp_path / "shop")
    (tmp_path / "shop" / "postgresql").mkdir(parents=True)
    text = "-- up\nCREATE TABLE prices (id bigint PRIMARY KEY, price numeric NOT NULL);\n"
    (tmp_path / "shop" / "postgresql" / "0001_prices.sql").write_text(text)
    await AsyncMigrator(server).up(line)
    with pytest.raises(CapabilityError, match="prices: SQLite has nothing for the type numeric of the column price"):
        await AsyncTransfer(server, target, lines=[line]).count()


async def test_what_differs_is_named(
    manager: AsyncDatabaseManager, source: AsyncDatabase, target: AsyncDatabase
) -> None:
    transfer = AsyncTransfer(source, target, batch_rows=4)
    await transfer.copy()
    values = AsyncKeyValueStore(manager, "target")
    await values.delete("k003")
    await values.put("k003x", 1)
    await target.execute("UPDATE holdfast_key_values SET number = 99, version = 7 WHERE key = 'k010'")
    found = [(each.table, each.key[-1], each.what) for each in await transfer.verify()]
    assert found == [
        ("holdfast_key_values", "k003", "is missing in the target"),
        ("holdfast_key_values", "k003x", "is only in the target"),
        ("holdfast_key_values", "k010", "differs in number, version"),
    ]


async def test_other_rows_are_refused_or_left_alone(
    manager: AsyncDatabaseManager, source: AsyncDatabase, target: AsyncDatabase
) -> None:
    values = AsyncKeyValueStore(manager, "target")
    await values.put("k001", "own")
    transfer = AsyncTransfer(source, target)
    with pytest.raises(ConflictError, match="holdfast_key_values of the target holds rows"):
        await transfer.copy()
    assert await target.fetch_value("SELECT count(*) FROM holdfast_key_values") == 1
    copied = await transfer.copy(merge=True)
    assert [(each.rows, each.kept) for each in copied if each.rows] == [(25, 1)]
    assert await values.get_many(["k000", "k001"]) == {"k000": 0, "k001": "own"}
    await values.delete("k002")
    assert [(each.rows, each.kept) for each in await transfer.copy(merge=True) if each.rows] == [(25, 24)]
    assert await values.get("k002") == 2


async def test_counting_changes_nothing(source: AsyncDatabase, target: AsyncDatabase) -> None:
    assert (await AsyncTransfer(source, target).count())["holdfast_key_values"] == 25
    assert await target.fetch_value("SELECT count(*) FROM sqlite_master") == 0


async def test_what_cannot_be_copied_is_refused(
    manager: AsyncDatabaseManager, tmp_path: Path, source: AsyncDatabase, pgvector_config: PgVectorConfig
) -> None:
    server = await manager.add_pgvector("server", pgvector_config)
    with pytest.raises(ValidationError, match="batch_rows"):
        AsyncTransfer(source, server, batch_rows=0)
    await source.execute("ALTER TABLE holdfast_key_values ADD COLUMN surplus TEXT")
    with pytest.raises(MigrationError, match="only one side has the columns surplus"):
        await AsyncTransfer(source, server).copy()
    old = await manager.add_sqlite("old", SQLiteConfig(path=str(tmp_path / "old.db")))
    await AsyncMigrator(old).up(GROUND, to=1)
    with pytest.raises(MigrationError, match="0002_outbox"):
        await AsyncTransfer(old, server).count()


async def test_rows_that_the_role_cannot_see_are_not_left_out_in_silence(
    manager: AsyncDatabaseManager, source: AsyncDatabase, pgvector_config: PgVectorConfig
) -> None:
    server = await manager.add_pgvector("server", pgvector_config)
    await AsyncMigrator(server).up(GROUND)
    role = f"blind_{pgvector_config.database[-12:]}"
    async with server.transaction() as transaction:
        await transaction.execute(f'CREATE ROLE "{role}"')
        await transaction.execute("ALTER TABLE holdfast_key_values ENABLE ROW LEVEL SECURITY")
        await transaction.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{role}"')
        await transaction.execute(f'SET LOCAL ROLE "{role}"')
        with pytest.raises(CapabilityError, match="hides rows of holdfast_key_values"):
            await AsyncTransfer(source, server).count()
        await transaction.execute("RESET ROLE")
        await transaction.execute(f'DROP OWNED BY "{role}"')
        await transaction.execute(f'DROP ROLE "{role}"')
