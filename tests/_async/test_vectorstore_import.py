"""Taking over what langchain-postgres wrote: from tables of its own making, within a database and from another."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import psycopg
import pytest

from persistence import (
    AsyncDatabaseManager,
    NotFoundError,
    PgVectorConfig,
    PostgreSQLConfig,
    SQLiteConfig,
    ValidationError,
)
from tests.servers import TestServers
from vectorstore import (
    AdoptedTable,
    AsyncMemoryVectorStore,
    AsyncPgVectorStore,
    AsyncSQLiteVectorStore,
    AsyncVectorStore,
    Document,
)
from vectorstore._async.langchain_import import import_langchain

WRITTEN = Path(__file__).parent.parent / "golden" / "langchain_postgres.sql"
NOTES = [
    Document("a", "alpha", {"year": 2024, "tags": ["x", "y"], "author": {"name": "Ann"}}),
    Document("b", "beta", {"year": 2019, "score": 0.5, "none": None, "é": "ü"}),
    Document("c", "gamma", {}),
]
ITEMS = [
    Document(
        "00000000-0000-0000-0000-000000000001",
        "alpha",
        {"year": 2024, "section": "games", "more": {"deep": [1, 2.5]}},
    ),
    Document("00000000-0000-0000-0000-000000000002", "beta", {"year": 2019, "section": None}),
    Document("00000000-0000-0000-0000-000000000003", "gamma", {"year": None, "section": None}),
]
VECTORS = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.5], [0.25, 0.5, 1.0]]


@pytest.fixture
def old(pgvector_config: PgVectorConfig) -> PgVectorConfig:
    """A database with the tables of langchain-postgres."""
    run(pgvector_config, WRITTEN.read_text())
    return pgvector_config


def run(config: PgVectorConfig, statements: str) -> None:
    with psycopg.connect(**config.connection_parameters(), autocommit=True) as connection:
        connection.execute(statements.encode())


async def stored(store: AsyncVectorStore) -> list[Document]:
    return [document async for document in store.iterate(with_embeddings=True)]


async def target_of(kind: str, manager: AsyncDatabaseManager, old: PgVectorConfig, folder: Path, **options: Any) -> Any:
    """Make an empty store: in the old database, or elsewhere."""
    await manager.add_pgvector("old", old)
    if kind == "postgresql":
        return AsyncPgVectorStore(manager, "old", dimensions=3, **options)
    if kind == "memory":
        return AsyncMemoryVectorStore(dimensions=3, **options)
    await manager.add_sqlite("new", SQLiteConfig(path=str(folder / "new.db")))
    return AsyncSQLiteVectorStore(manager, "new", dimensions=3, **options)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite", "memory"])
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [({"collection": "notes"}, NOTES), ({"table": "items"}, ITEMS), ({"table": "public.items"}, ITEMS)],
    ids=["collection", "table", "with a schema"],
)
async def test_documents_come_over_as_they_were(
    manager: AsyncDatabaseManager,
    old: PgVectorConfig,
    tmp_path: Path,
    kind: str,
    wanted: dict[str, Any],
    expected: list[Document],
) -> None:
    target = await target_of(kind, manager, old, tmp_path)
    source = None if kind == "postgresql" else manager.get_pgvector("old")
    for _ in range(2):  # again is the same
        assert await import_langchain(target, source=source, batch_size=2, **wanted) == 3
        found = await stored(target)
        assert found == expected
        assert [[float(number) for number in document.embedding] for document in found] == VECTORS  # type: ignore[union-attr]
    assert [result.id for result in await target.search(VECTORS[0], 1)] == [expected[0].id]
    assert [result.id for result in await target.search(VECTORS[0], 3, filter={"year": 2019})] == [expected[1].id]


@pytest.mark.parametrize("vector_type", ["vector", "halfvec", "sparsevec", "bit"])
async def test_vectors_become_those_of_the_target(
    manager: AsyncDatabaseManager, old: PgVectorConfig, tmp_path: Path, vector_type: str
) -> None:
    metric = "hamming" if vector_type == "bit" else "cosine"
    target = await target_of("postgresql", manager, old, tmp_path, vector_type=vector_type, metric=metric)
    assert await import_langchain(target, collection="notes") == 3
    assert [result.id for result in await target.search(VECTORS[0], 1)] == ["a"]


async def test_within_one_database_the_rows_never_leave_the_server(
    manager: AsyncDatabaseManager, old: PgVectorConfig, tmp_path: Path
) -> None:
    target = await target_of("postgresql", manager, old, tmp_path)
    await target.count()
    rows = "INSERT INTO langchain_pg_embedding SELECT 'n' || n, uuid, '[1,2,3]', 'text', '{}'"
    run(old, f"{rows} FROM langchain_pg_collection, generate_series(1, 5000) AS n WHERE name = 'notes'")
    before = manager.stats()["old"].requests
    assert await import_langchain(target, collection="notes", batch_size=10) == 5003
    assert manager.stats()["old"].requests - before < 10
    assert await target.count() == 5003


async def test_an_import_joins_a_transaction_and_keeps_to_its_tenant_and_namespace(
    manager: AsyncDatabaseManager, old: PgVectorConfig, tmp_path: Path
) -> None:
    target = await target_of("postgresql", manager, old, tmp_path, tenant="ada", namespace="first")
    await target.count()
    with pytest.raises(RuntimeError, match="undo"):
        async with manager.get_database("old").transaction():
            assert await import_langchain(target, collection="notes") == 3
            raise RuntimeError("undo")
    assert await stored(target) == []
    assert await import_langchain(target, collection="notes") == 3
    assert await stored(target) == NOTES
    assert await stored(target.in_namespace("default")) == []
    assert await stored(AsyncPgVectorStore(manager, "old", dimensions=3)) == []


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("UPDATE langchain_pg_embedding SET embedding = NULL WHERE id = 'b'", "'b' has no embedding"),
        ("UPDATE langchain_pg_embedding SET embedding = '[1,2]' WHERE id = 'b'", "'b' has .* dimensions"),
        ("UPDATE langchain_pg_embedding SET embedding = '[0,0,0]' WHERE id = 'b'", "'b' has (.* )?length"),
        ("UPDATE langchain_pg_embedding SET cmetadata = '[1]' WHERE id = 'b'", "'b' has (.* )?metadata"),
        ("UPDATE langchain_pg_embedding SET id = '' WHERE id = 'b'", "id .*is empty|has an id that is empty"),
        ("ALTER TABLE langchain_pg_embedding RENAME COLUMN id TO uuid", "no column 'id'"),
    ],
    ids=["no embedding", "dimensions", "length 0", "metadata", "no id", "an older table"],
)
async def test_what_cannot_be_stored_is_refused_before_anything_is_written(
    manager: AsyncDatabaseManager, old: PgVectorConfig, tmp_path: Path, kind: str, change: str, error: str
) -> None:
    target = await target_of(kind, manager, old, tmp_path)
    run(old, change)
    with pytest.raises(ValidationError, match=error):
        await import_langchain(target, collection="notes", source=manager.get_pgvector("old"))
    assert await target.count() == 0


async def test_what_langchain_leaves_null_is_empty(
    manager: AsyncDatabaseManager, old: PgVectorConfig, tmp_path: Path
) -> None:
    run(old, "UPDATE langchain_pg_embedding SET document = NULL, cmetadata = 'null' WHERE id = 'a'")
    run(old, "UPDATE langchain_pg_embedding SET cmetadata = NULL WHERE id = 'b'")
    target = await target_of("postgresql", manager, old, tmp_path)
    await import_langchain(target, collection="notes")
    assert (await stored(target))[:2] == [Document("a", "", {}), Document("b", "beta", {})]


async def test_a_table_may_have_any_names_and_no_metadata_column(
    manager: AsyncDatabaseManager, old: PgVectorConfig, tmp_path: Path
) -> None:
    target = await target_of("postgresql", manager, old, tmp_path)
    run(
        old,
        'CREATE SCHEMA "my app"; CREATE TABLE "my app"."it""s" ("the id" bigint PRIMARY KEY, body text,'
        ' "v\'v" halfvec(3), "a\'; :b" timestamptz, words tsvector);'
        " INSERT INTO \"my app\".\"it\"\"s\" VALUES (10, 'ten', '[1,2,3]', '2024-01-02T03:04:05Z', 'x'),"
        " (9, 'nine', '[3,2,1]', NULL, 'x')",
    )
    table = AdoptedTable(name='my app.it"s', id="the id", content="body", embedding="v'v", metadata="none")
    assert await import_langchain(target, table=table) == 2
    nine, ten = (await target.get("9"), await target.get("10"))
    assert nine == Document("9", "nine", {"a'; :b": None})
    assert ten is not None
    assert str(ten.metadata["a'; :b"]).startswith("2024-01-02T")
    elsewhere = AsyncMemoryVectorStore(dimensions=3)
    await import_langchain(elsewhere, table=table, source=manager.get_pgvector("old"), batch_size=1)
    assert await elsewhere.get("9") == nine
    assert await elsewhere.get("10") == ten


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"collection": "missing"}, "no collection 'missing'"),
        ({"collection": "notes' OR 'a' = 'a"}, "no collection"),
        ({"table": "missing"}, "no table 'missing'"),
        ({"table": "items; DROP TABLE items"}, "no table"),
        ({"table": AdoptedTable(name="items")}, "no column 'id'"),
        ({"table": "langchain_pg_collection"}, "no column 'langchain_id', 'content', 'embedding'"),
    ],
)
async def test_what_is_not_there_is_not_found(
    manager: AsyncDatabaseManager, old: PgVectorConfig, tmp_path: Path, wanted: dict[str, Any], error: str
) -> None:
    target = await target_of("postgresql", manager, old, tmp_path)
    with pytest.raises(NotFoundError, match=error):
        await import_langchain(target, **wanted)


async def test_a_database_without_langchain_has_no_collection(
    manager: AsyncDatabaseManager, pgvector_config: PgVectorConfig, tmp_path: Path
) -> None:
    target = await target_of("postgresql", manager, pgvector_config, tmp_path)
    with pytest.raises(NotFoundError, match="langchain_pg_embedding"):
        await import_langchain(target, collection="notes")


@pytest.mark.parametrize(
    "wanted",
    [{}, {"collection": "a", "table": "b"}, {"collection": 3}, {"table": ""}, {"collection": "a", "batch_size": 0}],
)
async def test_a_wrong_call_is_refused(
    manager: AsyncDatabaseManager, old: PgVectorConfig, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    target = await target_of("postgresql", manager, old, tmp_path)
    with pytest.raises(ValidationError):
        await import_langchain(target, **wanted)
    no_store: Any = "store"
    with pytest.raises(ValidationError, match="a str is no store"):
        await import_langchain(no_store, collection="notes")


async def test_a_source_that_is_no_postgresql_is_refused(
    manager: AsyncDatabaseManager, old: PgVectorConfig, tmp_path: Path
) -> None:
    target = await target_of("sqlite", manager, old, tmp_path)
    with pytest.raises(ValidationError, match=r"a \w+ is no PostgreSQL"):
        await import_langchain(target, collection="notes")
    with pytest.raises(ValidationError, match="'new' is no PostgreSQL"):
        await import_langchain(target, collection="notes", source=manager.get_sqlite("new"))


async def test_a_source_may_be_another_server_whose_connection_knows_nothing_of_vectors(
    manager: AsyncDatabaseManager, old: PgVectorConfig, postgresql_config: PostgreSQLConfig, servers: TestServers
) -> None:
    source = await manager.add_postgresql("old", postgresql_config)  # the database of `old`
    config = servers.fresh_database()
    new = PgVectorConfig(**{each.name: getattr(config, each.name) for each in fields(config)}, dimensions=3)
    try:
        await manager.add_pgvector("new", new)
        target = AsyncPgVectorStore(manager, "new")
        assert await import_langchain(target, collection="notes", source=source) == 3
        assert await import_langchain(target, table="items", source=source, batch_size=1) == 3
        assert await stored(target) == ITEMS + NOTES
        await manager.remove("new")
    finally:
        servers.drop_database(config)
