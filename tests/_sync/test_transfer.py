# Generated from ../_async/test_transfer.py by tests/unasync.py: edit that one.
"""The contract of a copy: all that every store keeps comes over, once, whatever ends it, and goes on being written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest

from persistence import (
    Database,
    DatabaseManager,
    KeyValueStore,
    Migrator,
    Transfer,
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
from sessions import EventLog, Event
from tests._sync.copies import embedding, fill, go_on, read, vectors
from tests.servers import TestServers
from vectorstore import PgVectorStore, Document

FILLED = 24
"""The fewest tables that ``fill`` puts rows into, on either database."""
GROUND = MigrationLine.of_package("persistence")


@pytest.fixture
def source(manager: DatabaseManager, tmp_path: Path) -> Database:
    """The connection ``source``: a SQLite file with key values."""
    made = manager.add_sqlite("source", SQLiteConfig(path=str(tmp_path / "source.db")))
    KeyValueStore(manager, "source").put_many({f"k{number:03}": number for number in range(25)})
    return made


@pytest.fixture
def target(manager: DatabaseManager, tmp_path: Path) -> Database:
    """The connection ``target``: an empty SQLite file."""
    return manager.add_sqlite("target", SQLiteConfig(path=str(tmp_path / "target.db")))


@pytest.fixture
def second_config(servers: TestServers) -> Iterator[PgVectorConfig]:
    config = servers.fresh_database()
    yield PgVectorConfig(**{each.name: getattr(config, each.name) for each in dataclasses.fields(config)})
    servers.drop_database(config)


def check_copied(manager: DatabaseManager, before: dict[str, Any], source: str, target: str) -> None:
    transfer = Transfer(manager.get_database(source), manager.get_database(target))
    counted = transfer.count()
    copied = transfer.copy()
    assert {each.name: each.rows for each in copied} == counted
    assert sum(map(bool, counted.values())) >= FILLED, counted
    assert transfer.verify() == ()
    after = read(manager, target)
    assert after.keys() == before.keys()
    for name in before:
        assert after[name] == before[name], name


def test_every_store_reads_and_goes_on_from_sqlite_to_postgresql_and_on_to_both(
    manager: DatabaseManager,
    tmp_path: Path,
    target: Database,
    pgvector_config: PgVectorConfig,
    second_config: PgVectorConfig,
) -> None:
    manager.add_sqlite("source", SQLiteConfig(path=str(tmp_path / "source.db")))
    manager.add_pgvector("first", pgvector_config)
    manager.add_pgvector("second", second_config)
    fill(manager, "source")
    before = read(manager, "source")
    check_copied(manager, before, "source", "first")
    check_copied(manager, before, "first", "second")
    check_copied(manager, before, "second", "target")
    events = [manager.get_database(name) for name in ("first", "second")]
    assert events[0].fetch_value("SELECT max(CAST(CAST(xid AS text) AS bigint)) FROM holdfast_events") < (
        events[1].fetch_value("SELECT min(CAST(CAST(xid AS text) AS bigint)) FROM holdfast_events")
    )  # a number of the other server's transactions means nothing here
    numbers = go_on(manager, "source")
    assert go_on(manager, "first") == numbers
    assert go_on(manager, "second") == numbers
    assert go_on(manager, "target") == numbers
    for line in ("checkpoint", "sessions", "vectorstore", "persistence"):
        for name in ("second", "target"):
            assert Migrator(manager.get_database(name)).validate(MigrationLine.of_package(line)) == ()
    assert target.fetch_value("SELECT count(*) FROM holdfast_vectors") == target.fetch_value(
        "SELECT count(*) FROM holdfast_documents"
    )


def test_every_store_reads_and_goes_on_from_sqlite_to_sqlite(
    manager: DatabaseManager, tmp_path: Path, target: Database
) -> None:
    manager.add_sqlite("source", SQLiteConfig(path=str(tmp_path / "source.db")))
    fill(manager, "source")
    before = read(manager, "source")
    check_copied(manager, before, "source", "target")
    sequences = "SELECT name, seq FROM sqlite_sequence ORDER BY name"
    assert target.fetch_all(sequences) == manager.get_database("source").fetch_all(sequences)
    triggers = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    assert target.fetch_all(triggers) == manager.get_database("source").fetch_all(triggers)
    assert go_on(manager, "target") == go_on(manager, "source")


def test_a_copy_that_was_ended_goes_on_where_it_was(source: Database, target: Database) -> None:
    class Ended(Exception):
        pass

    def end(progress: CopyProgress) -> None:
        if progress.rows == 20:
            raise Ended

    transfer, seen = Transfer(source, target, batch_rows=10), list[tuple[str, int, bool]]()
    with pytest.raises(Ended):
        transfer.copy(progress=end)
    assert target.fetch_value("SELECT count(*) FROM holdfast_key_values") == 20
    copied = transfer.copy(progress=lambda each: seen.append((each.table, each.rows, each.done)))
    assert seen[:2] == [("holdfast_key_values", 25, False), ("holdfast_key_values", 25, True)]
    assert {each.name: each.rows for each in copied}["holdfast_key_values"] == 25
    assert transfer.verify() == ()
    assert {each.name: (each.rows, each.kept) for each in transfer.copy()}["holdfast_key_values"] == (25, 0)


def test_the_type_of_vectors_is_made_where_a_copy_needs_it(
    manager: DatabaseManager, tmp_path: Path, postgresql_config: PostgreSQLConfig
) -> None:
    origin = manager.add_sqlite("origin", SQLiteConfig(path=str(tmp_path / "origin.db")))
    vectors(manager, "origin").store_documents([Document("d", "text", {}, embedding(1))])
    server = manager.add_postgresql("server", postgresql_config)
    server.execute("DROP EXTENSION IF EXISTS vector")
    Transfer(origin, server).copy()
    assert (server.fetch_value("SELECT vector_dims(embedding) FROM holdfast_documents_docs")) == 3


def test_a_batch_holds_few_bytes_whatever_came_before(
    manager: DatabaseManager, source: Database, target: Database
) -> None:
    values = KeyValueStore(manager, "source")
    for number in range(9):
        values.put(f"z{number}", bytes(1_000_000))
    seen = [0]
    Transfer(source, target).copy(
        progress=lambda each: seen.append(each.rows) if "values" in each.table else 0
    )
    assert [after - before for before, after in pairwise(seen)] == [29, 4, 1, 0]


def test_a_copy_into_a_file_goes_on_and_leaves_alone_what_is_there(
    manager: DatabaseManager, target: Database, pgvector_config: PgVectorConfig
) -> None:
    class Ended(Exception):
        pass

    def end(progress: CopyProgress) -> None:
        if progress.rows == 20:
            raise Ended

    server = manager.add_pgvector("server", pgvector_config)
    given = [Document(f"d{n:02}", f"the text {n}", {"n": n}, embedding(n)) for n in range(30)]
    vectors(manager, "server").store_documents(given)
    own = vectors(manager, "target")
    own.store_documents(
        [Document("d05", "own words", {}, embedding(99)), Document("z", "own", {}, embedding(98))]
    )
    transfer = Transfer(server, target, lines=[MigrationLine.of_package("vectorstore")], batch_rows=10)
    with pytest.raises(ConflictError, match="holdfast_collections of the target holds rows"):
        transfer.copy()
    with pytest.raises(Ended):
        transfer.copy(merge=True, progress=end)
    copied = {each.name: (each.rows, each.kept) for each in transfer.copy(merge=True)}
    assert copied == {"holdfast_collections": (1, 0), "holdfast_documents_docs": (30, 0)}
    copied = {each.name: (each.rows, each.kept) for each in transfer.copy(merge=True)}
    assert copied == {"holdfast_collections": (1, 1), "holdfast_documents_docs": (30, 30)}
    found = [(each.key[-1], each.what) for each in transfer.verify()]
    assert found == [
        ("docs", "differs in created_at"),
        ("d05", "differs in content, metadata, created_at, updated_at, embedding"),
        ("z", "is only in the target"),
    ]
    assert [target.fetch_value(f"SELECT count(*) FROM holdfast_{name}") for name in ("documents", "vectors")] == [
        31,
        31,
    ]
    fresh = vectors(manager, "target")
    assert [each.id for each in fresh.search(embedding(7), k=1)] == ["d07"]
    assert [each.id for each in fresh.search("text 21", k=1, mode="text")] == ["d21"]
    assert [each.id for each in fresh.search("own words", k=1, mode="text")] == ["d05"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vector_type": "halfvec"}, "the collection 'odd' has vectors of the type halfvec"),
        ({"vector_type": "bit", "metric": "hamming"}, "the collection 'odd' has vectors of the type bit"),
        ({"text_search": "german"}, "the collection 'odd': there is no text search in 'german'"),
    ],
    ids=["halfvec", "bit", "german"],
)
def test_a_collection_that_a_file_cannot_hold_is_refused_before_anything_is_written(
    manager: DatabaseManager,
    target: Database,
    pgvector_config: PgVectorConfig,
    options: dict[str, Any],
    said: str,
) -> None:
    server = manager.add_pgvector("server", pgvector_config)
    KeyValueStore(manager, "server").put("k", 1)
    PgVectorStore(manager, "server", collection="odd", dimensions=8, **options).count()
    for call in (Transfer(server, target).count, Transfer(server, target).copy):
        with pytest.raises(CapabilityError, match=said):
            call()
    assert target.fetch_value("SELECT count(*) FROM sqlite_master") == 0
    ground = Transfer(server, target, lines=[GROUND]).copy()
    assert {each.name: each.rows for each in ground}["holdfast_key_values"] == 1


def test_a_value_that_a_file_cannot_hold_is_refused_before_anything_is_written(
    manager: DatabaseManager, target: Database, pgvector_config: PgVectorConfig, tmp_path: Path
) -> None:
    server = manager.add_pgvector("server", pgvector_config)
    KeyValueStore(manager, "server").put("k'k", 1, ttl=60)
    EventLog(manager, "server").append_many([Event(kind="metric", name="m", value=1.0)])
    server.execute("UPDATE holdfast_key_values SET expires_at = 'infinity'")
    with pytest.raises(CapabilityError, match=r"holdfast_key_values \(default,default,k'k\): expires_at is NaN or inf"):
        Transfer(server, target).copy()
    server.execute("UPDATE holdfast_key_values SET expires_at = NULL")
    server.execute("UPDATE holdfast_events SET value = 'NaN'")
    with pytest.raises(CapabilityError, match=r"holdfast_events .*: value is NaN"):
        Transfer(server, target).copy()
    assert target.fetch_value("SELECT count(*) FROM sqlite_master") == 0
    line = MigrationLine("shop", tmp_path / "shop")
    (tmp_path / "shop" / "postgresql").mkdir(parents=True)
    text = "-- up\nCREATE TABLE prices (id bigint PRIMARY KEY, price numeric NOT NULL);\n"
    (tmp_path / "shop" / "postgresql" / "0001_prices.sql").write_text(text)
    Migrator(server).up(line)
    with pytest.raises(CapabilityError, match="prices: SQLite has nothing for the type numeric of the column price"):
        Transfer(server, target, lines=[line]).count()


def test_what_differs_is_named(
    manager: DatabaseManager, source: Database, target: Database
) -> None:
    transfer = Transfer(source, target, batch_rows=4)
    transfer.copy()
    values = KeyValueStore(manager, "target")
    values.delete("k003")
    values.put("k003x", 1)
    target.execute("UPDATE holdfast_key_values SET number = 99, version = 7 WHERE key = 'k010'")
    found = [(each.table, each.key[-1], each.what) for each in transfer.verify()]
    assert found == [
        ("holdfast_key_values", "k003", "is missing in the target"),
        ("holdfast_key_values", "k003x", "is only in the target"),
        ("holdfast_key_values", "k010", "differs in number, version"),
    ]


def test_other_rows_are_refused_or_left_alone(
    manager: DatabaseManager, source: Database, target: Database
) -> None:
    values = KeyValueStore(manager, "target")
    values.put("k001", "own")
    transfer = Transfer(source, target)
    with pytest.raises(ConflictError, match="holdfast_key_values of the target holds rows"):
        transfer.copy()
    assert target.fetch_value("SELECT count(*) FROM holdfast_key_values") == 1
    copied = transfer.copy(merge=True)
    assert [(each.rows, each.kept) for each in copied if each.rows] == [(25, 1)]
    assert values.get_many(["k000", "k001"]) == {"k000": 0, "k001": "own"}
    values.delete("k002")
    assert [(each.rows, each.kept) for each in transfer.copy(merge=True) if each.rows] == [(25, 24)]
    assert values.get("k002") == 2


def test_counting_changes_nothing(source: Database, target: Database) -> None:
    assert (Transfer(source, target).count())["holdfast_key_values"] == 25
    assert target.fetch_value("SELECT count(*) FROM sqlite_master") == 0


def test_what_cannot_be_copied_is_refused(
    manager: DatabaseManager, tmp_path: Path, source: Database, pgvector_config: PgVectorConfig
) -> None:
    server = manager.add_pgvector("server", pgvector_config)
    with pytest.raises(ValidationError, match="batch_rows"):
        Transfer(source, server, batch_rows=0)
    source.execute("ALTER TABLE holdfast_key_values ADD COLUMN surplus TEXT")
    with pytest.raises(MigrationError, match="only one side has the columns surplus"):
        Transfer(source, server).copy()
    old = manager.add_sqlite("old", SQLiteConfig(path=str(tmp_path / "old.db")))
    Migrator(old).up(GROUND, to=1)
    with pytest.raises(MigrationError, match="0002_outbox"):
        Transfer(old, server).count()


def test_rows_that_the_role_cannot_see_are_not_left_out_in_silence(
    manager: DatabaseManager, source: Database, pgvector_config: PgVectorConfig
) -> None:
    server = manager.add_pgvector("server", pgvector_config)
    Migrator(server).up(GROUND)
    role = f"blind_{pgvector_config.database[-12:]}"
    with server.transaction() as transaction:
        transaction.execute(f'CREATE ROLE "{role}"')
        transaction.execute("ALTER TABLE holdfast_key_values ENABLE ROW LEVEL SECURITY")
        transaction.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{role}"')
        transaction.execute(f'SET LOCAL ROLE "{role}"')
        with pytest.raises(CapabilityError, match="hides rows of holdfast_key_values"):
            Transfer(source, server).count()
        transaction.execute("RESET ROLE")
        transaction.execute(f'DROP OWNED BY "{role}"')
        transaction.execute(f'DROP ROLE "{role}"')
