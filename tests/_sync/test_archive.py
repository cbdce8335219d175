# Generated from ../_async/test_archive.py by tests/unasync.py: edit that one.
"""The contract of archives: all of a tenant, or of a user, into one file and out of it, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import pytest
import zstandard

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import (
    Database,
    DatabaseManager,
    KeyValueStore,
    TenantArchive,
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
    ContextStore,
    EventLog,
    MemoryGraph,
    MessageStore,
    SessionManager,
    TaskStore,
    ThreadManager,
    UserData,
    Edge,
    Event,
    Message,
    Node,
    Session,
    Task,
    Thread,
)
from tests._sync.copies import embedding, fill, go_on, read, vectors
from vectorstore import Document


def test_every_store_of_a_tenant_goes_through_files_from_and_to_either_database(
    manager: DatabaseManager, tmp_path: Path, pgvector_config: PgVectorConfig
) -> None:
    for name in ("source", "again"):
        manager.add_sqlite(name, SQLiteConfig(path=str(tmp_path / f"{name}.db")))
    manager.add_pgvector("server", pgvector_config)
    fill(manager, "source")
    before = read(manager, "source")
    before = {name: value for name, value in before.items() if "other" not in name and name != "empty"}
    for origin, goal, file in (("source", "server", "a.jsonl"), ("server", "again", "b.jsonl.zst")):
        written = TenantArchive(manager.get_database(origin)).export(tmp_path / file)
        assert len(written) >= 21
        archive = TenantArchive(manager.get_database(goal))
        assert archive.import_(tmp_path / file) == written
        assert archive.verify(tmp_path / file) == ()
        after = read(manager, goal)
        for name in before:
            assert after[name] == before[name], (goal, name)
        assert not DatabaseCheckpointer(manager, goal, tenant="other").list_threads()
    numbers = go_on(manager, "source")
    assert go_on(manager, "server") == numbers
    assert go_on(manager, "again") == numbers


def populate(manager: DatabaseManager, name: str, user: str) -> None:
    """Give a user something in every store that knows of users."""
    sessions, threads = SessionManager(manager, name), ThreadManager(manager, name)
    sessions.create_session(Session(id=f"s-{user}", user_id=user), ttl=3600)
    threads.create_thread(Thread(id=f"t-{user}", session_id=f"s-{user}"))
    messages = MessageStore(manager, name, searchable=True)
    messages.append_many(f"t-{user}", [Message(role="user", content=f"{user} {n}") for n in range(3)])
    ContextStore(manager, name).for_user(user).push("note", [user])
    graph = MemoryGraph(manager, name)
    graph.add_nodes([Node(f"{kind}-{user}", "thing", {"user_id": user}) for kind in "ab"])
    graph.add_edge(Edge(f"a-{user}", "knows", f"b-{user}"))
    graph.set_embeddings({f"a-{user}": [0.5, 0.25]})
    events, tasks = EventLog(manager, name), TaskStore(manager, name)
    events.append_many([Event(kind="log", message=user, tags={"user_id": user})])
    events.audit("login", "in", tags={"user_id": user})
    tasks.add_many([Task(kind="work", id=f"w-{user}", metadata={"user_id": user})])
    checkpoints = DatabaseCheckpointer(manager, name)
    checkpoints.save_checkpoint(Checkpoint(f"c-{user}", {"who": user}, metadata={"user_id": user}))
    checkpoints.save_checkpoint(Checkpoint(f"c-{user}", {"who": user}, namespace="sub"))
    vectors(manager, name).store_documents([Document(f"d-{user}", user, {"user_id": user}, embedding(1))])


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(manager: DatabaseManager, kind: str, tmp_path: Path, request: Any) -> Database:
    """The connection ``source`` with what two users have, one of them also beside the other."""
    if kind == "sqlite":
        made: Database = manager.add_sqlite("source", SQLiteConfig(path=str(tmp_path / "source.db")))
    else:
        made = manager.add_pgvector("source", request.getfixturevalue("pgvector_config"))
    for user in ("ada", "bob"):
        populate(manager, "source", user)
    ThreadManager(manager, "source").create_thread(Thread(id="guest", session_id="s-bob", user_id="ada"))
    TaskStore(manager, "source").add_many(
        [Task(kind="part", id="below", parent_id="w-bob", metadata={"user_id": "ada"})]
    )
    return made


@pytest.fixture
def target(manager: DatabaseManager, tmp_path: Path) -> Database:
    return manager.add_sqlite("target", SQLiteConfig(path=str(tmp_path / "target.db")))


def stores(manager: DatabaseManager, name: str, tenant: str = "default") -> UserData:
    """Return what is stored of users, in all stores of a connection."""
    further = [
        MemoryGraph(manager, name, tenant=tenant),
        EventLog(manager, name, tenant=tenant),
        TaskStore(manager, name, tenant=tenant),
        DatabaseCheckpointer(manager, name, tenant=tenant),
        vectors(manager, name, tenant=tenant),
    ]
    return UserData(manager, name, tenant=tenant, stores=further)


def lines(users: UserData, user: str) -> list[Any]:
    """Return what a user has, as a person reads it, but for what ties it to others."""
    found = [json.loads(line) for line in users.export_user(user)]
    for each in found:
        for name in ("chain", "chain_seq", "hash"):
            each.pop(name, None)
        if each.get("id") in ("guest", "below"):
            each |= {"session_id": None} if each["id"] == "guest" else {}
            each.pop("parent_id", None)
    return sorted(found, key=repr)


def test_a_user_comes_alone_into_another_tenant_and_once(
    manager: DatabaseManager, source: Database, target: Database, tmp_path: Path
) -> None:
    file = tmp_path / "ada.jsonl"
    TenantArchive(source).export(file, user="ada")
    assert "bob" not in "".join(line for line in file.read_text().splitlines() if line.startswith("["))
    archive = TenantArchive(target, tenant="new")
    with pytest.raises(MigrationError, match="there are no tables of checkpoint"):
        archive.verify(file)
    assert target.fetch_value("SELECT count(*) FROM sqlite_master") == 0
    stored = archive.import_(file)
    assert {each.kept for each in stored} == {0}
    assert {each.name for each in stored} >= {"holdfast_messages", "holdfast_documents", "holdfast_graph_vectors"}
    assert archive.verify(file) == ()
    wanted = lines(stores(manager, "source"), "ada")
    assert lines(stores(manager, "target", "new"), "ada") == wanted
    again = archive.import_(file)
    assert [(each.name, each.rows) for each in again] == [(each.name, each.rows) for each in stored]
    assert all(each.kept == each.rows for each in again)
    assert lines(stores(manager, "target", "new"), "ada") == wanted
    assert lines(stores(manager, "target", "new"), "bob") == []


def test_a_user_who_was_erased_comes_back(
    manager: DatabaseManager, source: Database, tmp_path: Path
) -> None:
    users, archive = stores(manager, "source"), TenantArchive(source)
    before = {user: lines(users, user) for user in ("ada", "bob")}
    archive.export(tmp_path / "ada.jsonl.zst", user="ada")
    users.erase_user("ada")
    assert [each["kind"] for each in lines(users, "ada")] == ["event"]  # the audit entry stays in its chain
    stored = archive.import_(tmp_path / "ada.jsonl.zst")
    assert {each.name: each.kept for each in stored if each.kept} == {"holdfast_events": 1}
    # What ties a user to others is in no file of one user, so that the task is below bob's no more.
    before["bob"] = [each for each in before["bob"] if each.get("id") != "below"]
    assert {user: lines(users, user) for user in before} == before
    assert EventLog(manager, "source").verify()
    assert [each.thread_id for each in MessageStore(manager, "source", searchable=True).search("ada")]


def test_merging_leaves_alone_what_is_there_as_a_whole(
    manager: DatabaseManager, source: Database, target: Database, tmp_path: Path
) -> None:
    TenantArchive(source).export(tmp_path / "all.jsonl")
    ThreadManager(manager, "target").create_thread(Thread(id="t-ada", user_id="eve"))
    messages = MessageStore(manager, "target")
    messages.append("t-ada", Message(role="user", content="own"))
    checkpoints = DatabaseCheckpointer(manager, "target")
    checkpoints.save_checkpoint(Checkpoint("c-ada", {"own": 1}))
    archive = TenantArchive(target)
    with pytest.raises(ConflictError, match="the tenant 'default' has rows in holdfast_checkpoint_threads already"):
        archive.import_(tmp_path / "all.jsonl")
    stored = {each.name: (each.rows, each.kept) for each in archive.import_(tmp_path / "all.jsonl", merge=True)}
    assert stored["holdfast_messages"] == (6, 3)
    assert stored["holdfast_checkpoint_threads"] == (4, 1)
    assert stored["holdfast_checkpoints"] == (4, 1)
    assert [each.content for each in messages.list_messages("t-ada")] == ["own"]
    assert (messages.append("t-ada", Message(role="user", content="next"))).seq == 2
    assert (checkpoints.load_checkpoint("c-ada")).state == {"own": 1}
    assert (checkpoints.load_checkpoint("c-bob")).state == {"who": "bob"}
    assert EventLog(manager, "target").verify()


def test_what_is_true_of_its_tenant_alone_does_not_become_anothers(
    manager: DatabaseManager, target: Database, tmp_path: Path
) -> None:
    origin = manager.add_sqlite("origin", SQLiteConfig(path=str(tmp_path / "origin.db")))
    for tenant, message in (("audited", "hashes of audit chains"), ("sealing", "sealed checkpoints")):
        if tenant == "audited":
            log = EventLog(manager, "origin", tenant=tenant)
            log.audit("login", "in")
            log.append_many([Event(kind="log", message="free")])
        else:
            cipher = Cipher({"k": bytes(32)}, "k")
            checkpoints = DatabaseCheckpointer(manager, "origin", tenant=tenant, cipher=cipher)
            checkpoints.save_checkpoint(Checkpoint("t", {"a": 1}))
        TenantArchive(origin, tenant=tenant).export(tmp_path / tenant)
        with pytest.raises(ConflictError, match=message):
            TenantArchive(target, tenant="new").import_(tmp_path / tenant)
        assert target.fetch_value("SELECT count(*) FROM sqlite_master WHERE name LIKE '%events'") == 0
    with pytest.raises(ConflictError, match="sealed checkpoints"):
        TenantArchive(target, tenant="new").import_(tmp_path / "sealing", without_bound=True)
    TenantArchive(target, tenant="audited").import_(tmp_path / "audited")
    archive = TenantArchive(target, tenant="new")
    stored = archive.import_(tmp_path / "audited", without_bound=True)
    assert {each.name: (each.rows, each.left_out) for each in stored} == {
        "holdfast_event_chains": (0, 1),
        "holdfast_events": (1, 1),
    }
    assert archive.verify(tmp_path / "audited", without_bound=True) == ()
    assert [each.message for each in EventLog(manager, "target", tenant="new").query(limit=9)] == ["free"]
    assert EventLog(manager, "target", tenant="audited").verify()


@pytest.fixture
def file(manager: DatabaseManager, tmp_path: Path) -> Path:
    """An archive of 2,500 key values."""
    origin = manager.add_sqlite("origin", SQLiteConfig(path=str(tmp_path / "origin.db")))
    KeyValueStore(manager, "origin").put_many({f"k{number:04}": number for number in range(2500)})
    TenantArchive(origin).export(tmp_path / "file.jsonl")
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


def test_a_file_that_is_not_whole_changes_nothing(file: Path, target: Database) -> None:
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
    archive = TenantArchive(target)
    for content, kind, said in cases:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(kind, match=said):
            archive.import_(file)
    with pytest.raises(ValidationError, match="can't be read"):
        archive.import_(file.with_name("none"))
    if target.fetch_value("SELECT count(*) FROM sqlite_master WHERE name = 'holdfast_key_values'"):
        assert target.fetch_value("SELECT count(*) FROM holdfast_key_values") == 0


def test_an_import_that_ends_half_way_leaves_nothing(
    manager: DatabaseManager, file: Path, target: Database
) -> None:
    def end(progress: CopyProgress) -> None:
        if progress.rows >= 2000:
            raise ZeroDivisionError

    archive = TenantArchive(target)
    with pytest.raises(ZeroDivisionError):
        archive.import_(file, progress=end)
    assert target.fetch_value("SELECT count(*) FROM holdfast_key_values") == 0
    archive.import_(file)
    assert KeyValueStore(manager, "target").get("k2499") == 2499
    KeyValueStore(manager, "target").put("k0001", "changed")
    KeyValueStore(manager, "target").delete("k2499")
    found = [(each.key[-1], each.what) for each in archive.verify(file)]
    assert found == [("k0001", "differs in value, number, version"), ("k2499", "is missing in the target")]


def test_an_export_that_fails_leaves_no_file(manager: DatabaseManager, file: Path, tmp_path: Path) -> None:
    archive = TenantArchive(manager.get_database("origin"))
    before = sorted(tmp_path.iterdir())

    def end(progress: CopyProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        archive.export(tmp_path / "new.jsonl", progress=end)
    for path, said in ((file, "is there already"), (tmp_path / "no" / "folder", "can't be written")):
        with pytest.raises(ValidationError, match=said):
            archive.export(path)
    for user in ("", "a" * 10_000, 5):
        with pytest.raises(ValidationError):
            archive.export(tmp_path / "new.jsonl", user=user)  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before
    assert file.stat().st_mode & 0o777 == 0o600


def test_where_there_is_no_room_the_file_is_named_and_none_is_left(
    manager: DatabaseManager, file: Path, tmp_path: Path
) -> None:
    origin, before = manager.get_database("origin"), sorted(tmp_path.iterdir())
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, most[1]))
    try:
        for name in ("new.jsonl", "new.jsonl.zst"):
            with pytest.raises(ValidationError, match=f"/{name} can't be written: File too large"):
                TenantArchive(origin).export(tmp_path / name)
        with pytest.raises(StorageFullError, match=f"the copy can't be written: .*make room in {tmp_path}"):
            origin.back_up(tmp_path / "new.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert sorted(tmp_path.iterdir()) == before
