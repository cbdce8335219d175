# Generated from ../_async/test_tenants.py by tests/unasync.py: edit that one.
"""The contract of erasing a tenant: all of it goes or nothing, and nothing of others, on every kind of connection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import (
    Database,
    DatabaseManager,
    KeyValueStore,
    LeaseLock,
    RedisConnection,
    TenantData,
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
    ContextStore,
    MessageStore,
    SessionManager,
    TaskStore,
    ThreadManager,
    Message,
    Session,
    Task,
    Thread,
)
from tests._sync.copies import embedding, fill, vectors
from tests._sync.side import Started, sleep, together
from vectorstore import AdoptedTable, PgVectorStore, SQLiteVectorStore, Document

pytestmark = pytest.mark.tables("persistence", "checkpoint", "vectorstore", "sessions")
GONE, STAYS = "it's 100 % gone", "it's 100 % gone too"


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path) -> Database:
    """The connection ``main``; ``second`` is another one to the same database."""
    if request.param == "postgresql":
        config = request.getfixturevalue("pgvector_config")
        manager.add_pgvector("second", config, lazy=True)
        return manager.add_pgvector("main", config)
    path = SQLiteConfig(path=str(tmp_path / "main.db"))
    manager.add_sqlite("second", path, lazy=True)
    return manager.add_sqlite("main", path)


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


def rows_of(manager: DatabaseManager, tenant: str) -> dict[str, list[str]]:
    """Return the rows of a tenant in every table, partitions by themselves, as another connection reads them."""
    second, found = manager.get_database("second"), {}
    for row in second.fetch_all(TABLES[second.kind]):
        whole = "CAST(t AS text) AS whole" if second.kind == "postgresql" else "*"
        text = f'SELECT {whole} FROM "{row["name"]}" AS t WHERE tenant_id = :tenant'
        if rows := second.fetch_all(text, {"tenant": tenant}):
            found[row["name"]] = sorted(map(repr, rows))
    return found


def counts(found: tuple[ErasedTable, ...]) -> dict[str, int]:
    return {each.name: each.rows for each in found}


def test_all_of_a_tenant_goes_and_nothing_of_another(
    manager: DatabaseManager, database: Database
) -> None:
    fill(manager, "main", GONE)
    fill(manager, "main", STAYS)
    before, stays = rows_of(manager, GONE), rows_of(manager, STAYS)
    record = database.fetch_all("SELECT * FROM holdfast_migrations ORDER BY line, number")
    tenant = TenantData(manager, "main", tenant=GONE)
    dry = tenant.erase_tenant(dry_run=True)
    assert rows_of(manager, GONE) == before
    erased = tenant.erase_tenant()
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
    assert rows_of(manager, GONE) == {}
    assert rows_of(manager, STAYS) == stays
    assert database.fetch_all("SELECT * FROM holdfast_migrations ORDER BY line, number") == record
    assert tenant.erase_tenant() == ()
    assert vectors(manager, "main", tenant=STAYS).search(embedding(3), k=1)
    # Who comes back begins from nothing.
    fill(manager, "main", GONE)
    again = rows_of(manager, GONE)
    assert {name: len(rows) for name, rows in again.items()} == {name: len(rows) for name, rows in before.items()}


def converse(manager: DatabaseManager, tenant: str) -> MessageStore:
    """Let a tenant have a session and a thread with two messages, and a value."""
    SessionManager(manager, "main", tenant=tenant).create_session(Session(id="s", user_id="ada"))
    ThreadManager(manager, "main", tenant=tenant).create_thread(Thread(id="t", session_id="s"))
    messages = MessageStore(manager, "main", tenant=tenant)
    messages.append_many("t", [Message(role="user", content="one"), Message(role="user", content="two")])
    KeyValueStore(manager, "main", tenant=tenant).put("k", 1)
    return messages


CONVERSED = {"holdfast_key_values": 1, "holdfast_messages": 2, "holdfast_sessions": 1, "holdfast_threads": 1}


def test_it_goes_with_the_transaction_that_it_is_called_in_or_not_at_all(
    manager: DatabaseManager, database: Database
) -> None:
    converse(manager, GONE)
    tenant, second = TenantData(manager, "main", tenant=GONE), manager.get_database("second")
    before = rows_of(manager, GONE)
    with pytest.raises(LookupError):
        with database.transaction():
            assert counts(tenant.erase_tenant()) == CONVERSED
            raise LookupError
    assert rows_of(manager, GONE) == before
    # Another writes meanwhile, for longer than it may take.
    with second.transaction():
        second.execute("UPDATE holdfast_threads SET version = version WHERE id = 't'")
        with pytest.raises((DeadlineError, LockTimeoutError)):
            tenant.erase_tenant(timeout=0.2)
    assert rows_of(manager, GONE) == before
    # A row of one's own refers to one that would go.
    database.execute(
        "CREATE TABLE invoices (tenant text, session text,"
        " FOREIGN KEY (tenant, session) REFERENCES holdfast_sessions (tenant_id, id))"
    )
    database.execute("INSERT INTO invoices VALUES (:tenant, 's')", {"tenant": GONE})
    with pytest.raises(ForeignKeyError):
        tenant.erase_tenant()
    assert rows_of(manager, GONE) == before
    with database.transaction():
        database.execute("DELETE FROM invoices")
        assert counts(tenant.erase_tenant()) == CONVERSED
        assert rows_of(manager, GONE) == before
    assert rows_of(manager, GONE) == {}


def test_nobody_ends_in_a_deadlock_with_it(manager: DatabaseManager, database: Database) -> None:
    messages = (converse(manager, GONE)).for_user("ada")
    checkpointer = DatabaseCheckpointer(manager, "main", tenant=GONE)
    tasks = TaskStore(manager, "main", tenant=GONE)
    tenant = TenantData(manager, "main", tenant=GONE)
    checkpointer.save_checkpoint(Checkpoint("t0", {}))

    def write() -> None:
        for number in range(10):
            messages.append_many(f"t{number % 3}", [Message(role="user", content="x")] * 3)
            checkpointer.save_checkpoint(Checkpoint(f"t{number % 3}", {"n": number}))
            tasks.add_many([Task(kind="k"), Task(kind="k")])

    def erase() -> None:
        for _ in range(5):
            tenant.erase_tenant()

    assert together(write, write, erase) == [None, None, None]
    tenant.erase_tenant()
    assert rows_of(manager, GONE) == {}


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_it_waits_for_who_writes_before_anything_goes_and_counts_what_they_wrote(
    manager: DatabaseManager, database: Database
) -> None:
    messages = converse(manager, GONE)
    with database.transaction():
        messages.append("t", Message(role="user", content="three"))
        erasing = Started(TenantData(manager, "second", tenant=GONE).erase_tenant)
        for _ in range(2000):
            if manager.get_database("second").fetch_value(WAITING):
                break
            sleep(0.005)
        messages.append("t", Message(role="user", content="four"))
    assert counts(erasing.result()) == {**CONVERSED, "holdfast_messages": 4}
    assert rows_of(manager, GONE) == {}


@pytest.mark.tables
def test_tables_that_were_never_made_are_not_there(
    manager: DatabaseManager, database: Database
) -> None:
    tenant = TenantData(manager, "main", tenant=GONE)
    assert tenant.erase_tenant(dry_run=True) == tenant.erase_tenant() == ()
    KeyValueStore(manager, "main", tenant=GONE).put("k", 1)
    assert tenant.erase_tenant() == (ErasedTable("holdfast_key_values", 1),)
    tables = [row["name"] for row in database.fetch_all(TABLES[database.kind])]
    assert not [name for name in tables if "thread" in name or "document" in name]


def test_a_file_of_vectors_goes_too_and_who_has_them_in_memory_finds_none(
    manager: DatabaseManager,
    tmp_path: Path,
) -> None:
    manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    made = {"collection": "docs", "dimensions": 1000, "metric": "cosine"}
    stores = [SQLiteVectorStore(manager, "main", tenant=each, **made) for each in (GONE, STAYS)]  # type: ignore[arg-type]
    drawn = np.random.default_rng(0).standard_normal((2001, 1000)).astype(np.float32)
    for store in stores:
        store.store_documents([Document(f"d{n}", "text", {}, drawn[n]) for n in range(2001)])
        assert len(store.search(drawn[7], k=3)) == 3
    files = set((tmp_path / "main.db-vectors").iterdir())
    assert len(files) == 2
    TenantData(manager, "main", tenant=GONE).erase_tenant()
    assert len(files & set((tmp_path / "main.db-vectors").iterdir())) == 1
    assert stores[0].search(drawn[7], k=3) == []
    assert [each.id for each in stores[1].search(drawn[7], k=1)] == ["d7"]
    stores[0].store_documents([Document("new", "text", {}, drawn[3])])
    assert [each.id for each in stores[0].search(drawn[7], k=3)] == ["new"]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_row_level_security_wants_the_owner(manager: DatabaseManager, database: Any) -> None:
    context = ContextStore(manager, "main", tenant=GONE)
    context.for_user("ada").push("k", 1)
    context.enable_row_security()
    name = f"eraser_{database.config.database[-12:]}"
    database.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'eraser'")
    database.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{name}"')
    role = replace(manager.get_postgresql("main").config, username=name, password="eraser")
    manager.add_pgvector("role", role)
    with pytest.raises(CapabilityError, match=r"hides rows of holdfast_context_agents, holdfast_items \(erase as the"):
        TenantData(manager, "role", tenant=GONE).erase_tenant()
    manager.remove("role")
    assert counts(TenantData(manager, "main", tenant=GONE).erase_tenant()) == {"holdfast_items": 1}
    database.execute(f'DROP OWNED BY "{name}"')
    database.execute(f'DROP ROLE "{name}"')


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_documents_in_a_table_of_ones_own_are_named(
    manager: DatabaseManager, database: Database
) -> None:
    converse(manager, GONE)
    database.execute("CREATE TABLE mine (id text PRIMARY KEY, content text, metadata jsonb, embedding vector(3))")
    store = PgVectorStore(
        manager, "main", collection="mine", dimensions=3, metric="cosine", tenant=GONE, table=AdoptedTable(name="mine")
    )
    store.store_documents([Document("d", "text", {}, embedding(1))])
    tenant = TenantData(manager, "main", tenant=GONE)
    with pytest.raises(CapabilityError, match="collection 'mine' is a table of your own"):
        tenant.erase_tenant()
    assert len(rows_of(manager, GONE)) == 4
    assert TenantData(manager, "main", tenant=STAYS).erase_tenant() == ()
    database.execute("DELETE FROM mine")
    assert counts(tenant.erase_tenant()) == CONVERSED


def test_what_is_no_tenant_is_refused(manager: DatabaseManager) -> None:
    database = manager.add_sqlite("main", "sqlite://")
    for tenant in ("", "a\0b", "x" * 10_000, "\ud800", 7, None):
        with pytest.raises(ValidationError):
            TenantData(manager, "main", tenant=tenant)  # type: ignore[arg-type]
    with pytest.raises(UnknownConnectionError, match="no connection is named 'other'"):
        TenantData(manager, "other", tenant=GONE)
    converse(manager, GONE)
    found = TenantData(manager, "main", tenant=GONE)
    for timeout in (-1, float("nan"), "soon", None):
        with pytest.raises(ValidationError):
            found.erase_tenant(timeout=timeout)  # type: ignore[arg-type]
    assert TenantData(manager, "main", tenant="' OR '' = '").erase_tenant() == ()
    # Tables that a newer program made are not left behind in silence.
    database.execute(
        "INSERT INTO holdfast_migrations (line, number, name, checksum) VALUES ('checkpoint', 999, 'newer', 'x')"
    )
    for dry_run in (True, False):
        with pytest.raises(MigrationError, match="checkpoint/0999_newer"):
            found.erase_tenant(dry_run=dry_run)
    database.execute("DELETE FROM holdfast_migrations WHERE line = 'checkpoint'")
    assert counts(found.erase_tenant(dry_run=True)) == CONVERSED
    manager.close()
    with pytest.raises(ClosedError):
        found.erase_tenant()


def keys_of(main: RedisConnection) -> set[bytes]:
    return {key for key in main.client.scan_iter(count=1000)}


def fill_redis(manager: DatabaseManager, tenant: str) -> None:
    """Put something of a tenant into every store that Redis has."""
    converse(manager, tenant)
    for user in ("ada", "a:b}"):
        ContextStore(manager, "main", tenant=tenant).for_user(user).push("k", 1)
    TaskStore(manager, "main", tenant=tenant).add_many([Task(kind="k", id="1"), Task(kind="k", id="2")])
    DatabaseCheckpointer(manager, "main", tenant=tenant).save_checkpoint(Checkpoint("t", {"a": 1}))
    with LeaseLock(manager, "main", "job", tenant=tenant):
        pass


ODD = ("acme", "acme2", "acm", "vectors", "*", "a:b", "{acme}", "holdfast")


def test_the_keys_of_a_tenant_go_from_redis_and_no_others(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    main = manager.add_redis("main", redis_config)
    main.client.set("not ours: {acme}", "x")
    found: dict[str, set[bytes]] = {}
    for tenant in ODD:
        before = keys_of(main)
        fill_redis(manager, tenant)
        name = tenant.replace("%", "%25").replace("*", "%2A").replace(":", "%3A")
        name = name.replace("{", "%7B").replace("}", "%7D")
        # What a vector store has, on whatever server.
        main.client.sadd(f"holdfast:{{vectors:{name}:docs}}::namespaces", "default")
        main.client.set(f"holdfast:{{vectors:{name}:docs}}:default:ids", "x")
        found[tenant] = keys_of(main) - before
    for tenant in ODD:
        erasing, everything = TenantData(manager, "main", tenant=tenant), keys_of(main)
        dry = erasing.erase_tenant(dry_run=True)
        assert keys_of(main) == everything
        assert erasing.erase_tenant() == dry
        assert keys_of(main) == everything - found[tenant]
        assert sum(counts(dry).values()) == len(found[tenant])
        assert counts(dry).items() >= {("vectors", 2), ("kv", 2), ("lease", 1), ("context", 4)}
        assert erasing.erase_tenant() == ()
    assert keys_of(main) == {b"not ours: {acme}"}


def test_many_keys_go_page_by_page(manager: DatabaseManager, redis_config: RedisConfig) -> None:
    main = manager.add_redis("main", redis_config)
    values = KeyValueStore(manager, "main", tenant=GONE)
    values.put_many({f"k{number}": number for number in range(2500)})
    kept = KeyValueStore(manager, "main", tenant=STAYS)
    kept.put("k", 1)
    assert TenantData(manager, "main", tenant=GONE).erase_tenant() == (ErasedTable("kv", 2501),)
    assert values.get("k7") is None
    assert kept.get("k") == 1
    assert len(keys_of(main)) == 2


def test_a_dead_server_is_told(manager: DatabaseManager) -> None:
    manager.add_redis("main", "redis://localhost:1/0", lazy=True)
    with pytest.raises(PersistenceError, match="main: "):
        TenantData(manager, "main", tenant=GONE).erase_tenant()
