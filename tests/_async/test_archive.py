"""The contract of archives: all of a tenant, or of a user, into one file and out of it, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import zstandard

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncKeyValueStore,
    AsyncTenantArchive,
    Cipher,
    ConflictError,
    CopyProgress,
    CorruptError,
    MigrationError,
    PersistenceError,
    PgVectorConfig,
    SQLiteConfig,
    StorageFullError,
    ValidationError,
)
from sessions import (
    AsyncContextStore,
    AsyncEventLog,
    AsyncMemoryGraph,
    AsyncMessageStore,
    AsyncSessionManager,
    AsyncTaskStore,
    AsyncThreadManager,
    AsyncUserData,
    Edge,
    Event,
    Message,
    Node,
    Session,
    Task,
    Thread,
)
from tests._async.copies import embedding, fill, go_on, read, vectors
from vectorstore import Document


async def test_every_store_of_a_tenant_goes_through_files_from_and_to_either_database(
    manager: AsyncDatabaseManager, tmp_path: Path, pgvector_config: PgVectorConfig
) -> None:
    for name in ("source", "again"):
        await manager.add_sqlite(name, SQLiteConfig(path=str(tmp_path / f"{name}.db")))
    await manager.add_pgvector("server", pgvector_config)
    await fill(manager, "source")
    before = await read(manager, "source")
    before = {name: value for name, value in before.items() if "other" not in name and name != "empty"}
    for origin, goal, file in (("source", "server", "a.jsonl"), ("server", "again", "b.jsonl.zst")):
        written = await AsyncTenantArchive(manager.get_database(origin)).export(tmp_path / file)
        assert len(written) >= 21
        archive = AsyncTenantArchive(manager.get_database(goal))
        assert await archive.import_(tmp_path / file) == written
        assert await archive.verify(tmp_path / file) == ()
        after = await read(manager, goal)
        for name in before:
            assert after[name] == before[name], (goal, name)
        assert not await AsyncDatabaseCheckpointer(manager, goal, tenant="other").list_threads()
    numbers = await go_on(manager, "source")
    assert await go_on(manager, "server") == numbers
    assert await go_on(manager, "again") == numbers


async def populate(manager: AsyncDatabaseManager, name: str, user: str) -> None:
    """Give a user something in every store that knows of users."""
    sessions, threads = AsyncSessionManager(manager, name), AsyncThreadManager(manager, name)
    await sessions.create_session(Session(id=f"s-{user}", user_id=user), ttl=3600)
    await threads.create_thread(Thread(id=f"t-{user}", session_id=f"s-{user}"))
    messages = AsyncMessageStore(manager, name, searchable=True)
    await messages.append_many(f"t-{user}", [Message(role="user", content=f"{user} {n}") for n in range(3)])
    await AsyncContextStore(manager, name).for_user(user).push("note", [user])
    graph = AsyncMemoryGraph(manager, name)
    await graph.add_nodes([Node(f"{kind}-{user}", "thing", {"user_id": user}) for kind in "ab"])
    await graph.add_edge(Edge(f"a-{user}", "knows", f"b-{user}"))
    await graph.set_embeddings({f"a-{user}": [0.5, 0.25]})
    events, tasks = AsyncEventLog(manager, name), AsyncTaskStore(manager, name)
    await events.append_many([Event(kind="log", message=user, tags={"user_id": user})])
    await events.audit("login", "in", tags={"user_id": user})
    await tasks.add_many([Task(kind="work", id=f"w-{user}", metadata={"user_id": user})])
    checkpoints = AsyncDatabaseCheckpointer(manager, name)
    await checkpoints.save_checkpoint(Checkpoint(f"c-{user}", {"who": user}, metadata={"user_id": user}))
    await checkpoints.save_checkpoint(Checkpoint(f"c-{user}", {"who": user}, namespace="sub"))
    await vectors(manager, name).store_documents([Document(f"d-{user}", user, {"user_id": user}, embedding(1))])


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def source(manager: AsyncDatabaseManager, kind: str, tmp_path: Path, request: Any) -> AsyncDatabase:
    """The connection ``source`` with what two users have, one of them also beside the other."""
    if kind == "sqlite":
        made: AsyncDatabase = await manager.add_sqlite("source", SQLiteConfig(path=str(tmp_path / "source.db")))
    else:
        made = await manager.add_pgvector("source", request.getfixturevalue("pgvector_config"))
    for user in ("ada", "bob"):
        await populate(manager, "source", user)
    await AsyncThreadManager(manager, "source").create_thread(Thread(id="guest", session_id="s-bob", user_id="ada"))
    await AsyncTaskStore(manager, "source").add_many(
        [Task(kind="part", id="below", parent_id="w-bob", metadata={"user_id": "ada"})]
    )
    return made


@pytest_asyncio.fixture
async def target(manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncDatabase:
    return await manager.add_sqlite("target", SQLiteConfig(path=str(tmp_path / "target.db")))


def stores(manager: AsyncDatabaseManager, name: str, tenant: str = "default") -> AsyncUserData:
    """Return what is stored of users, in all stores of a connection."""
    further = [
        AsyncMemoryGraph(manager, name, tenant=tenant),
        AsyncEventLog(manager, name, tenant=tenant),
        AsyncTaskStore(manager, name, tenant=tenant),
        AsyncDatabaseCheckpointer(manager, name, tenant=tenant),
        vectors(manager, name, tenant=tenant),
    ]
    return AsyncUserData(manager, name, tenant=tenant, stores=further)


async def lines(users: AsyncUserData, user: str) -> list[Any]:
    """Return what a user has, as a person reads it, but for what ties it to others."""
    found = [json.loads(line) async for line in users.export_user(user)]
    for each in found:
        for name in ("chain", "chain_seq", "hash"):
            each.pop(name, None)
        if each.get("id") in ("guest", "below"):
            each |= {"session_id": None} if each["id"] == "guest" else {}
            each.pop("parent_id", None)
    return sorted(found, key=repr)


async def test_a_user_comes_alone_into_another_tenant_and_once(
    manager: AsyncDatabaseManager, source: AsyncDatabase, target: AsyncDatabase, tmp_path: Path
) -> None:
    file = tmp_path / "ada.jsonl"
    await AsyncTenantArchive(source).export(file, user="ada")
    assert "bob" not in "".join(line for line in file.read_text().splitlines() if line.startswith("["))
    archive = AsyncTenantArchive(target, tenant="new")
    with pytest.raises(MigrationError, match="there are no tables of checkpoint"):
        await archive.verify(file)
    assert await target.fetch_value("SELECT count(*) FROM sqlite_master") == 0
    stored = await archive.import_(file)
    assert {each.kept for each in stored} == {0}
    assert {each.name for each in stored} >= {"holdfast_messages", "holdfast_documents", "holdfast_graph_vectors"}
    assert await archive.verify(file) == ()
    wanted = await lines(stores(manager, "source"), "ada")
    assert await lines(stores(manager, "target", "new"), "ada") == wanted
    again = await archive.import_(file)
    assert [(each.name, each.rows) for each in again] == [(each.name, each.rows) for each in stored]
    assert all(each.kept == each.rows for each in again)
    assert await lines(stores(manager, "target", "new"), "ada") == wanted
    assert await lines(stores(manager, "target", "new"), "bob") == []


async def test_a_user_who_was_erased_comes_back(
    manager: AsyncDatabaseManager, source: AsyncDatabase, tmp_path: Path
) -> None:
    users, archive = stores(manager, "source"), AsyncTenantArchive(source)
    before = {user: await lines(users, user) for user in ("ada", "bob")}
    await archive.export(tmp_path / "ada.jsonl.zst", user="ada")
    await users.erase_user("ada")
    assert [each["kind"] for each in await lines(users, "ada")] == ["event"]  # the audit entry stays in its chain
    stored = await archive.import_(tmp_path / "ada.jsonl.zst")
    assert {each.name: each.kept for each in stored if each.kept} == {"holdfast_events": 1}
    # What ties a user to others is in no file of one user, so that the task is below bob's no more.
    before["bob"] = [each for each in before["bob"] if each.get("id") != "below"]
    assert {user: await lines(users, user) for user in before} == before
    assert await AsyncEventLog(manager, "source").verify()
    assert [each.thread_id for each in await AsyncMessageStore(manager, "source", searchable=True).search("ada")]


async def test_merging_leaves_alone_what_is_there_as_a_whole(
    manager: AsyncDatabaseManager, source: AsyncDatabase, target: AsyncDatabase, tmp_path: Path
) -> None:
    await AsyncTenantArchive(source).export(tmp_path / "all.jsonl")
    await AsyncThreadManager(manager, "target").create_thread(Thread(id="t-ada", user_id="eve"))
    messages = AsyncMessageStore(manager, "target")
    await messages.append("t-ada", Message(role="user", content="own"))
    checkpoints = AsyncDatabaseCheckpointer(manager, "target")
    await checkpoints.save_checkpoint(Checkpoint("c-ada", {"own": 1}))
    archive = AsyncTenantArchive(target)
    with pytest.raises(ConflictError, match="the tenant 'default' has rows in holdfast_checkpoint_threads already"):
        await archive.import_(tmp_path / "all.jsonl")
    stored = {each.name: (each.rows, each.kept) for each in await archive.import_(tmp_path / "all.jsonl", merge=True)}
    assert stored["holdfast_messages"] == (6, 3)
    assert stored["holdfast_checkpoint_threads"] == (4, 1)
    assert stored["holdfast_checkpoints"] == (4, 1)
    assert [each.content for each in await messages.list_messages("t-ada")] == ["own"]
    assert (await messages.append("t-ada", Message(role="user", content="next"))).seq == 2
    assert (await checkpoints.load_checkpoint("c-ada")).state == {"own": 1}
    assert (await checkpoints.load_checkpoint("c-bob")).state == {"who": "bob"}
    assert await AsyncEventLog(manager, "target").verify()


async def test_what_is_true_of_its_tenant_alone_does_not_become_anothers(
    manager: AsyncDatabaseManager, target: AsyncDatabase, tmp_path: Path
) -> None:
    origin = await manager.add_sqlite("origin", SQLiteConfig(path=str(tmp_path / "origin.db")))
    for tenant, message in (("audited", "hashes of audit chains"), ("sealing", "sealed checkpoints")):
        if tenant == "audited":
            log = AsyncEventLog(manager, "origin", tenant=tenant)
            await log.audit("login", "in")
            await log.append_many([Event(kind="log", message="free")])
        else:
            cipher = Cipher({"k": bytes(32)}, "k")
            checkpoints = AsyncDatabaseCheckpointer(manager, "origin", tenant=tenant, cipher=cipher)
            await checkpoints.save_checkpoint(Checkpoint("t", {"a": 1}))
        await AsyncTenantArchive(origin, tenant=tenant).export(tmp_path / tenant)
        with pytest.raises(ConflictError, match=message):
            await AsyncTenantArchive(target, tenant="new").import_(tmp_path / tenant)
        assert await target.fetch_value("SELECT count(*) FROM sqlite_master WHERE name LIKE '%events'") == 0
    with pytest.raises(ConflictError, match="sealed checkpoints"):
        await AsyncTenantArchive(target, tenant="new").import_(tmp_path / "sealing", without_bound=True)
    await AsyncTenantArchive(target, tenant="audited").import_(tmp_path / "audited")
    archive = AsyncTenantArchive(target, tenant="new")
    stored = await archive.import_(tmp_path / "audited", without_bound=True)
    assert {each.name: (each.rows, each.left_out) for each in stored} == {
        "holdfast_event_chains": (0, 1),
        "holdfast_events": (1, 1),
    }
    assert await archive.verify(tmp_path / "audited", without_bound=True) == ()
    assert [each.message for each in await AsyncEventLog(manager, "target", tenant="new").query(limit=9)] == ["free"]
    assert await AsyncEventLog(manager, "target", tenant="audited").verify()


@pytest_asyncio.fixture
async def file(manager: AsyncDatabaseManager, tmp_path: Path) -> Path:
    """An archive of 2,500 key values."""
    origin = await manager.add_sqlite("origin", SQLiteConfig(path=str(tmp_path / "origin.db")))
    await AsyncKeyValueStore(manager, "origin").put_many({f"k{number:04}": number for number in range(2500)})
    await AsyncTenantArchive(origin).export(tmp_path / "file.jsonl")
    return tmp_path / "file.jsonl"


def whole(lines: list[str]) -> str:
    """Return a file with these lines, and a last one that is true of them."""
    text = "".join(f"{line}\n" for line in lines)
    rows = sum(line.startswith("[") for line in lines)
    name = json.loads(lines[1])["table"]
    end = {
        "holdfast": "end",
        "lines": len(lines),
        "rows": {name: rows},
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    return text + json.dumps(end) + "\n"


async def test_a_file_that_is_not_whole_changes_nothing(file: Path, target: AsyncDatabase) -> None:
    text = file.read_text()
    found = text.splitlines()
    assert whole(found[:-1]) == text.replace(found[-1], json.dumps(json.loads(found[-1])))
    zipped = zstandard.compress(text.encode())

    def edited(old: str, new: str) -> str:
        assert sum(old in line for line in found[:2]) == 1
        return whole([*(line.replace(old, new) for line in found[:2]), *found[2:-1]])

    cases: list[tuple[str | bytes, type[PersistenceError], str]] = [
        ("", CorruptError, "is no archive"),
        ("x" * 100_000, CorruptError, "is no archive"),
        (text[:40], CorruptError, "is no archive"),
        (b"\0\xff" * 500, CorruptError, "is no archive"),
        ('{"holdfast": "end"}\n', CorruptError, "is no archive"),
        (text[: len(text) // 2], CorruptError, "torn or was edited"),
        ("\n".join(found[:-1]) + "\n", CorruptError, "torn or was edited"),
        (text + "[1]\n", CorruptError, "torn or was edited"),
        (text.replace('"k0007"', '"k000x"'), CorruptError, "torn or was edited"),
        (text.replace('["default","k0007"', '["default"'), CorruptError, "torn or was edited"),
        ("\n".join([found[0], *found[2:]]), CorruptError, "torn or was edited"),
        (zipped[: len(zipped) // 2], CorruptError, "is no archive"),
        (zipped[:100] + b"\0\0\0\0" + zipped[104:], CorruptError, "torn or was edited"),
        (text.replace('"version":1', '"version":2', 1), ValidationError, "is an archive of version 2"),
        (edited("holdfast_key_values", "sqlite_master"), MigrationError, "a table 'sqlite_master'"),
        (edited("holdfast_key_values", "holdfast_migrations"), MigrationError, "a table 'holdfast_migrations'"),
        (edited('"namespace"', '"nam\\";--"'), MigrationError, "only one side has the columns"),
        (edited('"package":"persistence"', '"package":"os"'), MigrationError, "rows of 'os'"),
        (edited('"persistence":3', '"persistence":99'), MigrationError, "as its migration 99"),
    ]
    archive = AsyncTenantArchive(target)
    for content, kind, said in cases:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(kind, match=said):
            await archive.import_(file)
    with pytest.raises(ValidationError, match="can't be read"):
        await archive.import_(file.with_name("none"))
    if await target.fetch_value("SELECT count(*) FROM sqlite_master WHERE name = 'holdfast_key_values'"):
        assert await target.fetch_value("SELECT count(*) FROM holdfast_key_values") == 0


async def test_an_import_that_ends_half_way_leaves_nothing(
    manager: AsyncDatabaseManager, file: Path, target: AsyncDatabase
) -> None:
    def end(progress: CopyProgress) -> None:
        if progress.rows >= 2000:
            raise ZeroDivisionError

    archive = AsyncTenantArchive(target)
    with pytest.raises(ZeroDivisionError):
        await archive.import_(file, progress=end)
    assert await target.fetch_value("SELECT count(*) FROM holdfast_key_values") == 0
    await archive.import_(file)
    assert await AsyncKeyValueStore(manager, "target").get("k2499") == 2499
    await AsyncKeyValueStore(manager, "target").put("k0001", "changed")
    await AsyncKeyValueStore(manager, "target").delete("k2499")
    found = [(each.key[-1], each.what) for each in await archive.verify(file)]
    assert found == [("k0001", "differs in value, number, version"), ("k2499", "is missing in the target")]


async def test_an_export_that_fails_leaves_no_file(manager: AsyncDatabaseManager, file: Path, tmp_path: Path) -> None:
    archive = AsyncTenantArchive(manager.get_database("origin"))
    before = sorted(tmp_path.iterdir())

    def end(progress: CopyProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await archive.export(tmp_path / "new.jsonl", progress=end)
    for path, said in ((file, "is there already"), (tmp_path / "no" / "folder", "can't be written")):
        with pytest.raises(ValidationError, match=said):
            await archive.export(path)
    for user in ("", "a" * 10_000, 5):
        with pytest.raises(ValidationError):
            await archive.export(tmp_path / "new.jsonl", user=user)  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before
    assert file.stat().st_mode & 0o777 == 0o600


async def test_where_there_is_no_room_the_file_is_named_and_none_is_left(
    manager: AsyncDatabaseManager, file: Path, tmp_path: Path
) -> None:
    origin, before = manager.get_database("origin"), sorted(tmp_path.iterdir())
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, most[1]))
    try:
        for name in ("new.jsonl", "new.jsonl.zst"):
            with pytest.raises(ValidationError, match=f"/{name} can't be written: File too large"):
                await AsyncTenantArchive(origin).export(tmp_path / name)
        with pytest.raises(StorageFullError, match=f"the copy can't be written: .*make room in {tmp_path}"):
            await origin.back_up(tmp_path / "new.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert sorted(tmp_path.iterdir()) == before
