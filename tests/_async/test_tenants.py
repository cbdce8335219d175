"""The contract of erasing a tenant: all of it goes or nothing, and nothing of others, on every kind of connection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncKeyValueStore,
    AsyncLeaseLock,
    AsyncRedisConnection,
    AsyncTenantData,
    CapabilityError,
    ClosedError,
    DeadlineError,
    ErasedTable,
    ForeignKeyError,
    LockTimeoutError,
    MigrationError,
    PersistenceError,
    RedisConfig,
    SQLiteConfig,
    UnknownConnectionError,
    ValidationError,
)
from sessions import (
    AsyncContextStore,
    AsyncMessageStore,
    AsyncSessionManager,
    AsyncTaskStore,
    AsyncThreadManager,
    Message,
    Session,
    Task,
    Thread,
)
from tests._async.copies import embedding, fill, vectors
from tests._async.side import Started, sleep, together
from vectorstore import AdoptedTable, AsyncPgVectorStore, AsyncSQLiteVectorStore, Document

pytestmark = pytest.mark.tables("persistence", "checkpoint", "vectorstore", "sessions")
GONE, STAYS = "it's 100 % gone", "it's 100 % gone too"


@pytest_asyncio.fixture(params=["postgresql", "sqlite"])
async def database(request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncDatabase:
    """The connection ``main``; ``second`` is another one to the same database."""
    if request.param == "postgresql":
        config = request.getfixturevalue("pgvector_config")
        await manager.add_pgvector("second", config, lazy=True)
        return await manager.add_pgvector("main", config)
    path = SQLiteConfig(path=str(tmp_path / "main.db"))
    await manager.add_sqlite("second", path, lazy=True)
    return await manager.add_sqlite("main", path)


TABLES = {
    "postgresql": """
SELECT c.relname AS name FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE a.attname = 'tenant_id' AND c.relkind = 'r' AND c.relnamespace = CAST('public' AS regnamespace) ORDER BY c.relname
""",
    "sqlite": """
SELECT m.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c
WHERE m.type = 'table' AND c.name = 'tenant_id' ORDER BY m.name
""",
}


async def rows_of(manager: AsyncDatabaseManager, tenant: str) -> dict[str, list[str]]:
    """Return the rows of a tenant in every table, partitions by themselves, as another connection reads them."""
    second, found = manager.get_database("second"), {}
    for row in await second.fetch_all(TABLES[second.kind]):
        whole = "CAST(t AS text) AS whole" if second.kind == "postgresql" else "*"
        text = f'SELECT {whole} FROM "{row["name"]}" AS t WHERE tenant_id = :tenant'
        if rows := await second.fetch_all(text, {"tenant": tenant}):
            found[row["name"]] = sorted(map(repr, rows))
    return found


def counts(found: tuple[ErasedTable, ...]) -> dict[str, int]:
    return {each.name: each.rows for each in found}


async def test_all_of_a_tenant_goes_and_nothing_of_another(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await fill(manager, "main", GONE)
    await fill(manager, "main", STAYS)
    before, stays = await rows_of(manager, GONE), await rows_of(manager, STAYS)
    record = await database.fetch_all("SELECT * FROM holdfast_migrations ORDER BY line, number")
    tenant = AsyncTenantData(manager, "main", tenant=GONE)
    dry = await tenant.erase_tenant(dry_run=True)
    assert await rows_of(manager, GONE) == before
    erased = await tenant.erase_tenant()
    assert erased == dry
    assert [each.name for each in erased] == sorted(each.name for each in erased)
    assert sum(counts(erased).values()) == sum(map(len, before.values()))
    assert counts(erased).items() >= {
        ("holdfast_messages", len(before["holdfast_messages"])),
        ("holdfast_checkpoint_blocks", len(before["holdfast_checkpoint_blocks"])),
        ("holdfast_events", 12),
        ("holdfast_secrets", 1),
        ("holdfast_documents" if database.kind == "sqlite" else "holdfast_documents_docs", 70),
    }
    assert await rows_of(manager, GONE) == {}
    assert await rows_of(manager, STAYS) == stays
    assert await database.fetch_all("SELECT * FROM holdfast_migrations ORDER BY line, number") == record
    assert await tenant.erase_tenant() == ()
    assert await vectors(manager, "main", tenant=STAYS).search(embedding(3), k=1)
    # Who comes back begins from nothing.
    await fill(manager, "main", GONE)
    again = await rows_of(manager, GONE)
    assert {name: len(rows) for name, rows in again.items()} == {name: len(rows) for name, rows in before.items()}


async def converse(manager: AsyncDatabaseManager, tenant: str) -> AsyncMessageStore:
    """Let a tenant have a session and a thread with two messages, and a value."""
    await AsyncSessionManager(manager, "main", tenant=tenant).create_session(Session(id="s", user_id="ada"))
    await AsyncThreadManager(manager, "main", tenant=tenant).create_thread(Thread(id="t", session_id="s"))
    messages = AsyncMessageStore(manager, "main", tenant=tenant)
    await messages.append_many("t", [Message(role="user", content="one"), Message(role="user", content="two")])
    await AsyncKeyValueStore(manager, "main", tenant=tenant).put("k", 1)
    return messages


CONVERSED = {"holdfast_key_values": 1, "holdfast_messages": 2, "holdfast_sessions": 1, "holdfast_threads": 1}


async def test_it_goes_with_the_transaction_that_it_is_called_in_or_not_at_all(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await converse(manager, GONE)
    tenant, second = AsyncTenantData(manager, "main", tenant=GONE), manager.get_database("second")
    before = await rows_of(manager, GONE)
    with pytest.raises(LookupError):
        async with database.transaction():
            assert counts(await tenant.erase_tenant()) == CONVERSED
            raise LookupError
    assert await rows_of(manager, GONE) == before
    # Another writes meanwhile, for longer than it may take.
    async with second.transaction():
        await second.execute("UPDATE holdfast_threads SET version = version WHERE id = 't'")
        with pytest.raises((DeadlineError, LockTimeoutError)):
            await tenant.erase_tenant(timeout=0.2)
    assert await rows_of(manager, GONE) == before
    # A row of one's own refers to one that would go.
    await database.execute(
        "CREATE TABLE invoices (tenant text, session text,"
        " FOREIGN KEY (tenant, session) REFERENCES holdfast_sessions (tenant_id, id))"
    )
    await database.execute("INSERT INTO invoices VALUES (:tenant, 's')", {"tenant": GONE})
    with pytest.raises(ForeignKeyError):
        await tenant.erase_tenant()
    assert await rows_of(manager, GONE) == before
    async with database.transaction():
        await database.execute("DELETE FROM invoices")
        assert counts(await tenant.erase_tenant()) == CONVERSED
        assert await rows_of(manager, GONE) == before
    assert await rows_of(manager, GONE) == {}


async def test_nobody_ends_in_a_deadlock_with_it(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    messages = (await converse(manager, GONE)).for_user("ada")
    checkpointer = AsyncDatabaseCheckpointer(manager, "main", tenant=GONE)
    tasks = AsyncTaskStore(manager, "main", tenant=GONE)
    tenant = AsyncTenantData(manager, "main", tenant=GONE)
    await checkpointer.save_checkpoint(Checkpoint("t0", {}))

    async def write() -> None:
        for number in range(10):
            await messages.append_many(f"t{number % 3}", [Message(role="user", content="x")] * 3)
            await checkpointer.save_checkpoint(Checkpoint(f"t{number % 3}", {"n": number}))
            await tasks.add_many([Task(kind="k"), Task(kind="k")])

    async def erase() -> None:
        for _ in range(5):
            await tenant.erase_tenant()

    assert await together(write, write, erase) == [None, None, None]
    await tenant.erase_tenant()
    assert await rows_of(manager, GONE) == {}


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_it_waits_for_who_writes_before_anything_goes_and_counts_what_they_wrote(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    messages = await converse(manager, GONE)
    async with database.transaction():
        await messages.append("t", Message(role="user", content="three"))
        erasing = Started(AsyncTenantData(manager, "second", tenant=GONE).erase_tenant)
        for _ in range(2000):
            if await manager.get_database("second").fetch_value(WAITING):
                break
            await sleep(0.005)
        await messages.append("t", Message(role="user", content="four"))
    assert counts(await erasing.result()) == {**CONVERSED, "holdfast_messages": 4}
    assert await rows_of(manager, GONE) == {}


@pytest.mark.tables
async def test_tables_that_were_never_made_are_not_there(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    tenant = AsyncTenantData(manager, "main", tenant=GONE)
    assert await tenant.erase_tenant(dry_run=True) == await tenant.erase_tenant() == ()
    await AsyncKeyValueStore(manager, "main", tenant=GONE).put("k", 1)
    assert await tenant.erase_tenant() == (ErasedTable("holdfast_key_values", 1),)
    tables = [row["name"] for row in await database.fetch_all(TABLES[database.kind])]
    assert not [name for name in tables if "thread" in name or "document" in name]


async def test_a_file_of_vectors_goes_too_and_who_has_them_in_memory_finds_none(
    manager: AsyncDatabaseManager,
    tmp_path: Path,
) -> None:
    await manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    made = {"collection": "docs", "dimensions": 1000, "metric": "cosine"}
    stores = [AsyncSQLiteVectorStore(manager, "main", tenant=each, **made) for each in (GONE, STAYS)]  # type: ignore[arg-type]
    drawn = np.random.default_rng(0).standard_normal((2001, 1000)).astype(np.float32)
    for store in stores:
        await store.store_documents([Document(f"d{n}", "text", {}, drawn[n]) for n in range(2001)])
        assert len(await store.search(drawn[7], k=3)) == 3
    files = set((tmp_path / "main.db-vectors").iterdir())
    assert len(files) == 2
    await AsyncTenantData(manager, "main", tenant=GONE).erase_tenant()
    assert len(files & set((tmp_path / "main.db-vectors").iterdir())) == 1
    assert await stores[0].search(drawn[7], k=3) == []
    assert [each.id for each in await stores[1].search(drawn[7], k=1)] == ["d7"]
    await stores[0].store_documents([Document("new", "text", {}, drawn[3])])
    assert [each.id for each in await stores[0].search(drawn[7], k=3)] == ["new"]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_row_level_security_wants_the_owner(manager: AsyncDatabaseManager, database: Any) -> None:
    context = AsyncContextStore(manager, "main", tenant=GONE)
    await context.for_user("ada").push("k", 1)
    await context.enable_row_security()
    name = f"eraser_{database.config.database[-12:]}"
    await database.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'eraser'")
    await database.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{name}"')
    role = replace(manager.get_postgresql("main").config, username=name, password="eraser")
    await manager.add_pgvector("role", role)
    with pytest.raises(CapabilityError, match=r"hides rows of holdfast_context_agents, holdfast_items \(erase as the"):
        await AsyncTenantData(manager, "role", tenant=GONE).erase_tenant()
    await manager.remove("role")
    assert counts(await AsyncTenantData(manager, "main", tenant=GONE).erase_tenant()) == {"holdfast_items": 1}
    await database.execute(f'DROP OWNED BY "{name}"')
    await database.execute(f'DROP ROLE "{name}"')


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_documents_in_a_table_of_ones_own_are_named(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await converse(manager, GONE)
    await database.execute("CREATE TABLE mine (id text PRIMARY KEY, content text, metadata jsonb, embedding vector(3))")
    store = AsyncPgVectorStore(
        manager, "main", collection="mine", dimensions=3, metric="cosine", tenant=GONE, table=AdoptedTable(name="mine")
    )
    await store.store_documents([Document("d", "text", {}, embedding(1))])
    tenant = AsyncTenantData(manager, "main", tenant=GONE)
    with pytest.raises(CapabilityError, match="collection 'mine' is a table of your own"):
        await tenant.erase_tenant()
    assert len(await rows_of(manager, GONE)) == 4
    assert await AsyncTenantData(manager, "main", tenant=STAYS).erase_tenant() == ()
    await database.execute("DELETE FROM mine")
    assert counts(await tenant.erase_tenant()) == CONVERSED


async def test_what_is_no_tenant_is_refused(manager: AsyncDatabaseManager) -> None:
    database = await manager.add_sqlite("main", "sqlite://")
    for tenant in ("", "a\0b", "x" * 10_000, "\ud800", 7, None):
        with pytest.raises(ValidationError):
            AsyncTenantData(manager, "main", tenant=tenant)  # type: ignore[arg-type]
    with pytest.raises(UnknownConnectionError, match="no connection is named 'other'"):
        AsyncTenantData(manager, "other", tenant=GONE)
    await converse(manager, GONE)
    found = AsyncTenantData(manager, "main", tenant=GONE)
    for timeout in (-1, float("nan"), "soon", None):
        with pytest.raises(ValidationError):
            await found.erase_tenant(timeout=timeout)  # type: ignore[arg-type]
    assert await AsyncTenantData(manager, "main", tenant="' OR '' = '").erase_tenant() == ()
    # Tables that a newer program made are not left behind in silence.
    await database.execute(
        "INSERT INTO holdfast_migrations (line, number, name, checksum) VALUES ('checkpoint', 999, 'newer', 'x')"
    )
    for dry_run in (True, False):
        with pytest.raises(MigrationError, match="checkpoint/0999_newer"):
            await found.erase_tenant(dry_run=dry_run)
    await database.execute("DELETE FROM holdfast_migrations WHERE line = 'checkpoint'")
    assert counts(await found.erase_tenant(dry_run=True)) == CONVERSED
    await manager.aclose()
    with pytest.raises(ClosedError):
        await found.erase_tenant()


async def keys_of(main: AsyncRedisConnection) -> set[bytes]:
    return {key async for key in main.client.scan_iter(count=1000)}


async def fill_redis(manager: AsyncDatabaseManager, tenant: str) -> None:
    """Put something of a tenant into every store that Redis has."""
    await converse(manager, tenant)
    for user in ("ada", "a:b}"):
        await AsyncContextStore(manager, "main", tenant=tenant).for_user(user).push("k", 1)
    await AsyncTaskStore(manager, "main", tenant=tenant).add_many([Task(kind="k", id="1"), Task(kind="k", id="2")])
    await AsyncDatabaseCheckpointer(manager, "main", tenant=tenant).save_checkpoint(Checkpoint("t", {"a": 1}))
    async with AsyncLeaseLock(manager, "main", "job", tenant=tenant):
        pass


ODD = ("acme", "acme2", "acm", "vectors", "*", "a:b", "{acme}", "holdfast")


async def test_the_keys_of_a_tenant_go_from_redis_and_no_others(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    main = await manager.add_redis("main", redis_config)
    await main.client.set("not ours: {acme}", "x")
    found: dict[str, set[bytes]] = {}
    for tenant in ODD:
        before = await keys_of(main)
        await fill_redis(manager, tenant)
        name = tenant.replace("%", "%25").replace("*", "%2A").replace(":", "%3A")
        name = name.replace("{", "%7B").replace("}", "%7D")
        # What a vector store has, on whatever server.
        await main.client.sadd(f"holdfast:{{vectors:{name}:docs}}::namespaces", "default")
        await main.client.set(f"holdfast:{{vectors:{name}:docs}}:default:ids", "x")
        found[tenant] = await keys_of(main) - before
    for tenant in ODD:
        erasing, everything = AsyncTenantData(manager, "main", tenant=tenant), await keys_of(main)
        dry = await erasing.erase_tenant(dry_run=True)
        assert await keys_of(main) == everything
        assert await erasing.erase_tenant() == dry
        assert await keys_of(main) == everything - found[tenant]
        assert sum(counts(dry).values()) == len(found[tenant])
        assert counts(dry).items() >= {("vectors", 2), ("kv", 2), ("lease", 1), ("context", 4)}
        assert await erasing.erase_tenant() == ()
    assert await keys_of(main) == {b"not ours: {acme}"}


async def test_many_keys_go_page_by_page(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    main = await manager.add_redis("main", redis_config)
    values = AsyncKeyValueStore(manager, "main", tenant=GONE)
    await values.put_many({f"k{number}": number for number in range(2500)})
    kept = AsyncKeyValueStore(manager, "main", tenant=STAYS)
    await kept.put("k", 1)
    assert await AsyncTenantData(manager, "main", tenant=GONE).erase_tenant() == (ErasedTable("kv", 2501),)
    assert await values.get("k7") is None
    assert await kept.get("k") == 1
    assert len(await keys_of(main)) == 2


async def test_a_dead_server_is_told(manager: AsyncDatabaseManager) -> None:
    await manager.add_redis("main", "redis://localhost:1/0", lazy=True)
    with pytest.raises(PersistenceError, match="main: "):
        await AsyncTenantData(manager, "main", tenant=GONE).erase_tenant()
