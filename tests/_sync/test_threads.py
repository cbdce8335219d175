# Generated from ../_async/test_threads.py by tests/unasync.py: edit that one.
"""The contract of threads: where they belong, who wins, and that they end with their session."""

from __future__ import annotations

from collections.abc import Iterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import pytest

from persistence import (
    Database,
    DatabaseManager,
    PostgreSQLDatabase,
    SQLiteDatabase,
    ClosedError,
    ConflictError,
    DuplicateError,
    ForeignKeyError,
    NotFoundError,
    PersistenceError,
    ValidationError,
)
from persistence._sync.compat import Parallel
from persistence.dialect import from_json
from sessions import SessionManager, ThreadManager, Session, Thread
from tests._sync.redis_contract import teach

pytestmark = pytest.mark.tables("sessions")

HOUR = timedelta(hours=1)
ALL_ROWS = "SELECT * FROM holdfast_threads ORDER BY tenant_id, id"


@pytest.fixture
def sessions(manager: DatabaseManager, database: Database) -> SessionManager:
    return SessionManager(manager, "main")


@pytest.fixture
def threads(manager: DatabaseManager, sessions: SessionManager) -> ThreadManager:
    """Threads, beside the session ``s1`` of ``ada``."""
    sessions.create_session(Session(id="s1", user_id="ada"))
    return ThreadManager(manager, "main")


@pytest.fixture
def elsewhere(manager: DatabaseManager, database: Database) -> ThreadManager:
    """The same threads through a second connection; a database in memory has only the one."""
    if isinstance(database, PostgreSQLDatabase):
        manager.add_postgresql("elsewhere", database.config)
    elif isinstance(database, SQLiteDatabase) and database.config.path != ":memory:":
        manager.add_sqlite("elsewhere", database.config)
    else:
        return ThreadManager(manager, "main")
    return ThreadManager(manager, "elsewhere")


@pytest.fixture
def parallel() -> Iterator[Parallel]:
    made = Parallel()
    yield made
    made.close()


def outcome(call: Callable[[], Thread]) -> Thread | PersistenceError:
    try:
        return call()
    except PersistenceError as exc:
        return exc


def expire(database: Database, session_id: str) -> None:
    changed = database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment WHERE id = :id",
        {"moment": datetime.now(UTC) - timedelta(seconds=1), "id": session_id},
    )
    assert changed == 1


def test_a_new_thread_comes_back_as_it_is_stored(
    threads: ThreadManager, elsewhere: ThreadManager, database: Database
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    given = Thread(id="t1", session_id="s1", user_id="bob", title="Arches", metadata={"é": [1, None]})
    stored = threads.create_thread(given)
    assert before < stored.created_at < before + timedelta(seconds=60)
    assert stored == replace(given, created_at=stored.created_at, updated_at=stored.created_at, version=1)
    assert given.version is None
    assert threads.get_thread("t1") == stored
    assert elsewhere.get_thread("t1") == stored
    row = database.fetch_one("SELECT * FROM holdfast_threads")
    assert row is not None
    assert from_json(row.pop("metadata")) == {"é": [1, None]}
    expected = {
        "tenant_id": "default",
        "id": "t1",
        "session_id": "s1",
        "user_id": "bob",
        "title": "Arches",
        "version": 1,
        "created_at": database.dialect.time(stored.created_at),
        "updated_at": database.dialect.time(stored.created_at),
    }
    assert {name: row[name] for name in expected} == expected


def test_a_thread_may_stand_by_itself(threads: ThreadManager) -> None:
    stored = threads.create_thread(Thread(user_id="ada"))
    assert (stored.session_id, stored.user_id, stored.title, stored.metadata) == (None, "ada", None, {})
    assert UUID(stored.id).version == 7
    assert threads.get_thread(stored.id) == stored


def test_a_thread_without_a_user_gets_the_owner_of_its_session(threads: ThreadManager) -> None:
    assert (threads.create_thread(Thread(session_id="s1"))).user_id == "ada"
    with pytest.raises(ValidationError, match="user_id or a session_id"):
        threads.create_thread(Thread())


def test_an_unknown_session_is_named(threads: ThreadManager, elsewhere: ThreadManager) -> None:
    for thread in (Thread(id="t1", session_id="s2"), Thread(id="t1", session_id="s2", user_id="ada")):
        with pytest.raises(ForeignKeyError, match="no session 's2'") as caught:
            threads.create_thread(thread)
        assert (caught.value.connection, caught.value.code) == ("main", "23503")
    with pytest.raises(NotFoundError):
        elsewhere.get_thread("t1")


def test_a_session_that_has_expired_takes_no_thread_and_cannot_be_told_from_an_unknown_one(
    threads: ThreadManager, sessions: SessionManager, database: Database
) -> None:
    thread = threads.create_thread(Thread(user_id="ada"))
    messages = set()
    for _ in range(2):
        for call in (
            partial(threads.create_thread, Thread(session_id="s2", user_id="ada")),
            partial(threads.update_thread, replace(thread, session_id="s2")),
        ):
            with pytest.raises(ForeignKeyError) as caught:
                call()
            messages.add(str(caught.value))
        sessions.create_session(Session(id="s2", user_id="ada"))
        expire(database, "s2")
        sessions.create_session(Session(id="s3", user_id="ada"))
        sessions.delete_session("s3")
    assert len(messages) == 1


def test_an_id_that_is_taken_is_a_duplicate_and_nothing_changes(
    threads: ThreadManager, elsewhere: ThreadManager
) -> None:
    first = threads.create_thread(Thread(id="t1", session_id="s1", metadata={"a": 1}))
    for again in (Thread(id="t1", session_id="s1"), Thread(id="t1", user_id="bob")):
        with pytest.raises(DuplicateError, match="'t1'"):
            threads.create_thread(again)
    assert elsewhere.get_thread("t1") == first


def test_an_update_replaces_what_the_record_holds(
    threads: ThreadManager, elsewhere: ThreadManager
) -> None:
    first = threads.create_thread(Thread(id="t1", user_id="ada", title="t", metadata={"a": 1}))
    changed = replace(first, session_id="s1", user_id="bob", title=None, metadata={"b": 2})
    second = threads.update_thread(changed)
    assert second == replace(changed, version=2, updated_at=second.updated_at)
    assert second.updated_at > first.updated_at
    assert elsewhere.get_thread("t1") == second
    third = threads.update_thread(replace(second, session_id=None, user_id=None))
    assert (third.session_id, third.user_id, third.version) == (None, "bob", 3)
    assert elsewhere.get_thread("t1") == third


def test_a_thread_is_moved_to_a_known_session_only(
    threads: ThreadManager, elsewhere: ThreadManager
) -> None:
    first = threads.create_thread(Thread(id="t1", session_id="s1"))
    for version in (1, None):
        with pytest.raises(ForeignKeyError, match="no session 's2'"):
            threads.update_thread(replace(first, session_id="s2", version=version))
    assert elsewhere.get_thread("t1") == first


def test_a_record_that_was_read_cannot_overwrite_a_later_change(
    threads: ThreadManager, elsewhere: ThreadManager
) -> None:
    read = threads.create_thread(Thread(id="t1", session_id="s1"))
    theirs = elsewhere.update_thread(replace(read, title="theirs"))
    with pytest.raises(ConflictError, match=r"'t1' has version 2, not 1") as caught:
        threads.update_thread(replace(read, title="mine"))
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    with pytest.raises(ConflictError):
        threads.patch("t1", {"a": 1}, expected_version=1)
    assert elsewhere.get_thread("t1") == theirs
    assert (threads.update_thread(replace(read, title="2"), expected_version=2)).version == 3
    assert (threads.update_thread(replace(read, title="3", version=None))).version == 4


def test_of_concurrent_updates_of_one_version_one_wins(threads: ThreadManager, parallel: Parallel) -> None:
    read = threads.create_thread(Thread(id="t1", session_id="s1"))
    changes = [partial(threads.update_thread, replace(read, title=str(number))) for number in range(16)]
    results = parallel.run([partial(outcome, change) for change in changes])
    won = [result for result in results if isinstance(result, Thread)]
    lost = [result for result in results if isinstance(result, ConflictError)]
    assert (len(won), len(lost)) == (1, 15)
    assert threads.get_thread("t1") == won[0]


def test_a_patch_merges_at_the_top_level(threads: ThreadManager, elsewhere: ThreadManager) -> None:
    metadata = {"a": {"x": 1, "y": 2}, "b": 1, "c": [1]}
    created = threads.create_thread(Thread(id="t1", session_id="s1", title="t", metadata=metadata))
    patched = threads.patch("t1", {"a": {"y": None}, "b": None, "é": "}"})
    after = {"a": {"y": None}, "c": [1], "é": "}"}
    assert patched == replace(created, metadata=after, version=2, updated_at=patched.updated_at)
    assert patched.updated_at > created.updated_at
    assert elsewhere.get_thread("t1") == patched
    assert (threads.patch("t1", dict.fromkeys(after))).metadata == {}
    assert (threads.patch("t1", {"n": 1})).metadata == {"n": 1}
    assert (threads.patch("t1", {}, expected_version=4)).metadata == {"n": 1}


def test_of_sixteen_writers_of_different_keys_none_is_lost(
    threads: ThreadManager, elsewhere: ThreadManager, parallel: Parallel
) -> None:
    threads.create_thread(Thread(id="t1", session_id="s1", metadata={"kept": True}))

    def write(writer: int) -> None:
        for turn in range(5):
            threads.patch("t1", {f"writer {writer}": turn})

    parallel.run([partial(write, writer) for writer in range(16)])
    found = elsewhere.get_thread("t1")
    assert found.metadata == {"kept": True, **{f"writer {writer}": 4 for writer in range(16)}}
    assert found.version == 81


ON_ONE: list[tuple[str, Callable[[ThreadManager], Any]]] = [
    ("get", lambda threads: threads.get_thread("t1")),
    ("patch", lambda threads: threads.patch("t1", {"a": 1})),
    ("patch a version", lambda threads: threads.patch("t1", {"a": 1}, expected_version=1)),
    ("update", lambda threads: threads.update_thread(Thread(id="t1", user_id="ada"))),
    ("update a version", lambda threads: threads.update_thread(Thread(id="t1", user_id="ada", version=1))),
    ("move", lambda threads: threads.update_thread(Thread(id="t1", session_id="s2"))),
    ("touch", lambda threads: threads.touch("t1")),
]


@pytest.mark.parametrize("call", [call for _, call in ON_ONE], ids=[name for name, _ in ON_ONE])
def test_a_thread_of_an_expired_session_cannot_be_told_from_one_that_never_was(
    threads: ThreadManager,
    database: Database,
    call: Callable[[ThreadManager], Any],
) -> None:
    with pytest.raises(NotFoundError, match="'t1'") as never:
        call(threads)
    threads.create_thread(Thread(id="t1", session_id="s1"))
    expire(database, "s1")
    with pytest.raises(NotFoundError) as expired:
        call(threads)
    assert str(expired.value) == str(never.value)
    assert len(database.fetch_all(ALL_ROWS)) == 1


def test_a_thread_of_an_expired_session_is_neither_listed_nor_deleted_but_goes(
    threads: ThreadManager, database: Database
) -> None:
    threads.create_thread(Thread(id="t1", session_id="s1"))
    alone = threads.create_thread(Thread(id="t2", user_id="ada"))
    expire(database, "s1")
    assert threads.list_session_threads("s1") == []
    assert threads.list_user_threads("ada") == [alone]
    assert threads.delete_thread("t1") is False
    assert [row["id"] for row in database.fetch_all(ALL_ROWS)] == ["t2"]


def test_the_id_of_a_thread_of_an_expired_session_can_be_used_again(
    threads: ThreadManager, elsewhere: ThreadManager, database: Database
) -> None:
    threads.create_thread(Thread(id="t1", session_id="s1", metadata={"old": 1}))
    expire(database, "s1")
    new = threads.create_thread(Thread(id="t1", user_id="bob"))
    assert (new.session_id, new.user_id, new.metadata, new.version) == (None, "bob", {}, 1)
    assert elsewhere.get_thread("t1") == new


@pytest.mark.parametrize("way", ["delete", "clean up", "create again"])
def test_threads_go_with_their_session(
    threads: ThreadManager,
    sessions: SessionManager,
    elsewhere: ThreadManager,
    database: Database,
    way: str,
) -> None:
    sessions.create_session(Session(id="s2", user_id="ada"))
    for number in range(3):
        threads.create_thread(Thread(id=f"t{number}", session_id="s1"))
    others = [threads.create_thread(Thread(id="other", session_id="s2"))]
    others.insert(0, threads.create_thread(Thread(id="alone", user_id="ada")))
    if way == "delete":
        assert sessions.delete_session("s1") is True
    else:
        expire(database, "s1")
        if way == "clean up":
            assert sessions.delete_expired() == 1
        else:
            sessions.create_session(Session(id="s1", user_id="ada"))
    assert [row["id"] for row in database.fetch_all(ALL_ROWS)] == ["alone", "other"]
    assert elsewhere.list_user_threads("ada") == others
    assert elsewhere.list_session_threads("s1") == []


def test_deleting_tells_whether_it_was_there(threads: ThreadManager, elsewhere: ThreadManager) -> None:
    for name, session in (("t1", "s1"), ("t2", "s1"), ("t3", None)):
        threads.create_thread(Thread(id=name, session_id=session, user_id="ada"))
    for name in ("t1", "t3"):
        assert threads.delete_thread(name) is True
        assert threads.delete_thread(name) is False
        with pytest.raises(NotFoundError):
            elsewhere.get_thread(name)
    assert (elsewhere.get_thread("t2")).id == "t2"


def test_threads_are_listed_by_their_newest_activity(
    threads: ThreadManager, sessions: SessionManager
) -> None:
    sessions.create_session(Session(id="s2", user_id="ada"))
    for name, session, user in (
        ("a", "s1", None),
        ("b", "s1", None),
        ("c", "s1", "bob"),
        ("d", "s2", None),
        ("e", None, "ada"),
    ):
        threads.create_thread(Thread(id=name, session_id=session, user_id=user))
    threads.patch("a", {"k": 1})
    listed = threads.list_session_threads("s1")
    assert [thread.id for thread in listed] == ["a", "c", "b"]
    assert listed == [threads.get_thread(thread.id) for thread in listed]
    assert [thread.id for thread in threads.list_session_threads("s1", limit=1)] == ["a"]
    assert [thread.id for thread in threads.list_user_threads("ada")] == ["a", "e", "d", "b"]
    assert [thread.id for thread in threads.list_user_threads("ada", limit=2)] == ["a", "e"]
    assert [thread.id for thread in threads.list_user_threads("bob")] == ["c"]
    assert threads.list_session_threads("nix") == []
    assert threads.list_user_threads("nobody") == []


@pytest.mark.parametrize("owner", ["session", "user"])
def test_pages_show_each_thread_once_also_those_of_one_moment(
    threads: ThreadManager, database: Database, owner: str
) -> None:
    names = [f"t{number:02}" for number in range(20)] + ["é", "Z", "\U0001f9f6", ":1"]
    for name in names:
        threads.create_thread(Thread(id=name, session_id="s1"))
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    database.execute("UPDATE holdfast_threads SET updated_at = :moment", {"moment": moment})
    threads.patch("t07", {})
    pages = partial(threads.list_session_threads, "s1") if owner == "session" else None
    pages = pages or partial(threads.list_user_threads, "ada")
    found: list[str] = []
    after = None
    while page := pages(limit=7, after=after):
        assert len(page) <= 7
        found += [thread.id for thread in page]
        after = page[-1].cursor
    assert found == ["t07", *sorted(set(names) - {"t07"}, reverse=True)]


def test_tenants_with_equal_ids_never_meet(
    manager: DatabaseManager, threads: ThreadManager, database: Database
) -> None:
    ours = threads.create_thread(Thread(id="t1", session_id="s1", metadata={"whose": "ours"}))
    others = ThreadManager(manager, "main", tenant="others")
    with pytest.raises(NotFoundError):
        others.get_thread("t1")
    with pytest.raises(ForeignKeyError, match="'s1'"):
        others.create_thread(Thread(id="t1", session_id="s1"))
    assert others.list_user_threads("ada") == []
    assert others.list_session_threads("s1") == []
    assert others.delete_thread("t1") is False
    SessionManager(manager, "main", tenant="others").create_session(Session(id="s1", user_id="eve"))
    theirs = others.create_thread(Thread(id="t1", session_id="s1"))
    assert theirs.user_id == "eve"
    theirs = others.update_thread(replace(others.patch("t1", {"n": 1}), title="theirs"))
    assert others.list_session_threads("s1") == [theirs]
    assert threads.list_session_threads("s1") == [ours]
    assert SessionManager(manager, "main", tenant="others").delete_session("s1") is True
    assert threads.get_thread("t1") == ours


WRITERS: list[tuple[str, Callable[[ThreadManager], Any]]] = [
    ("create", lambda threads: threads.create_thread(Thread(id="new", session_id="s1"))),
    ("create by itself", lambda threads: threads.create_thread(Thread(id="new", user_id="ada"))),
    ("create over an expired one", lambda threads: threads.create_thread(Thread(id="old", user_id="eve"))),
    ("update", lambda threads: threads.update_thread(Thread(id="t1", user_id="eve"))),
    ("patch", lambda threads: threads.patch("t1", {"b": 2})),
    ("touch", lambda threads: threads.touch("t1")),
    ("delete", lambda threads: threads.delete_thread("t1")),
]


@pytest.mark.parametrize("write", [write for _, write in WRITERS], ids=[name for name, _ in WRITERS])
def test_a_write_joins_the_transaction_it_is_called_in(
    manager: DatabaseManager,
    sessions: SessionManager,
    threads: ThreadManager,
    elsewhere: ThreadManager,
    database: Database,
    write: Callable[[ThreadManager], Any],
) -> None:
    other = manager.get_database(elsewhere._name)
    threads.create_thread(Thread(id="t1", session_id="s1", metadata={"a": 1}))
    sessions.create_session(Session(id="s2", user_id="ada"))
    threads.create_thread(Thread(id="old", session_id="s2"))
    expire(database, "s2")
    before = other.fetch_all(ALL_ROWS)

    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            write(threads)
            changed = database.fetch_all(ALL_ROWS)
            if other is not database:
                assert other.fetch_all(ALL_ROWS) == before
            _ = 1 / 0
    assert changed != before
    assert other.fetch_all(ALL_ROWS) == before

    with database.transaction():
        write(threads)
        changed = database.fetch_all(ALL_ROWS)
    assert other.fetch_all(ALL_ROWS) == changed != before


def test_a_session_and_its_thread_are_made_in_one_transaction_or_not_at_all(
    sessions: SessionManager,
    threads: ThreadManager,
    elsewhere: ThreadManager,
    database: Database,
) -> None:
    for fail in (True, False):
        try:
            with database.transaction():
                sessions.create_session(Session(id="s2", user_id="bob"))
                threads.create_thread(Thread(id="t2", session_id="s2"))
                _ = 1 / (0 if fail else 1)
        except ZeroDivisionError:
            assert elsewhere.list_user_threads("bob") == []
    assert [thread.id for thread in elsewhere.list_user_threads("bob")] == ["t2"]


def test_a_refusal_does_not_fail_the_transaction_it_is_in(
    threads: ThreadManager, elsewhere: ThreadManager, database: Database
) -> None:
    thread = threads.create_thread(Thread(id="t1", session_id="s1"))
    with database.transaction():
        with pytest.raises(DuplicateError):
            threads.create_thread(Thread(id="t1", session_id="s1"))
        with pytest.raises(ForeignKeyError):
            threads.create_thread(Thread(id="t2", session_id="nix"))
        with pytest.raises(ForeignKeyError):
            threads.update_thread(replace(thread, session_id="nix"))
        with pytest.raises(NotFoundError):
            threads.get_thread("nix")
        with pytest.raises(ConflictError):
            threads.patch("t1", {"a": 1}, expected_version=7)
        threads.patch("t1", {"a": 2})
    assert (elsewhere.get_thread("t1")).metadata == {"a": 2}


def test_each_call_is_one_statement(manager: DatabaseManager, threads: ThreadManager) -> None:
    teach(manager)
    threads.create_thread(Thread(id="t1", session_id="s1"))
    calls: list[Callable[[], Any]] = [
        lambda: threads.create_thread(Thread(id="t2", session_id="s1")),
        lambda: threads.create_thread(Thread(id="t3", user_id="ada")),
        lambda: threads.get_thread("t1"),
        lambda: threads.update_thread(Thread(id="t1", session_id="s1", version=1)),
        lambda: threads.patch("t1", {"a": 1}, expected_version=2),
        lambda: threads.touch("t1"),
        lambda: threads.list_session_threads("s1"),
        lambda: threads.list_user_threads("ada"),
        lambda: threads.delete_thread("t1"),
    ]
    for call in calls:
        before = manager.stats()["main"].requests
        call()
        assert manager.stats()["main"].requests - before == 1


def test_a_closed_manager_is_a_clear_error(manager: DatabaseManager, threads: ThreadManager) -> None:
    manager.close()
    for _, call in ON_ONE + WRITERS:
        with pytest.raises(ClosedError):
            call(threads)
    for listing in (partial(threads.list_session_threads, "s1"), partial(threads.list_user_threads, "ada")):
        with pytest.raises(ClosedError):
            listing()


@pytest.mark.parametrize("text", ["'; DROP TABLE holdfast_threads; --", "%", "a:b", ":id", "é", "\U0001f9f6" * 256])
def test_any_text_is_an_id(
    manager: DatabaseManager, sessions: SessionManager, threads: ThreadManager, text: str
) -> None:
    threads.create_thread(Thread(id="t1", session_id="s1"))
    sessions.create_session(Session(id=text, user_id=text))
    stored = threads.create_thread(Thread(id=text, session_id=text, title=text))
    assert (stored.id, stored.session_id, stored.user_id, stored.title) == (text, text, text, text)
    assert threads.list_user_threads(text) == [stored]
    assert threads.list_session_threads(text) == [stored]
    assert threads.list_session_threads(text, after=stored.cursor) == []
    assert sessions.delete_session(text) is True
    assert [thread.id for thread in threads.list_user_threads("ada")] == ["t1"]


@pytest.mark.parametrize("text", ["", "a\0b", "\ud800", "x" * 1025, 7, b"x"], ids=range(6))
def test_what_cannot_be_stored_is_refused_before_anything_is_sent(
    manager: DatabaseManager, threads: ThreadManager, text: Any
) -> None:
    wrong: Any = {1: "x"}
    calls: list[Callable[[], Any]] = [
        lambda: threads.create_thread(Thread(id=text, user_id="ada")),
        lambda: threads.create_thread(Thread(user_id=text)),
        lambda: threads.create_thread(Thread(session_id=text)),
        lambda: threads.create_thread(Thread(user_id="ada", metadata=wrong)),
        lambda: threads.update_thread(Thread(id=text, user_id="ada")),
        lambda: threads.update_thread(Thread(id="t1", session_id=text)),
        lambda: threads.update_thread(Thread(id="t1", user_id=text)),
        lambda: threads.update_thread(Thread(id="t1", metadata=wrong)),
        lambda: threads.update_thread(text),
        lambda: threads.create_thread(text),
        lambda: threads.get_thread(text),
        lambda: threads.patch(text, {}),
        lambda: threads.touch(text),
        lambda: threads.patch("t1", wrong),
        lambda: threads.patch("t1", {}, expected_version=-1),
        lambda: threads.delete_thread(text),
        lambda: threads.list_session_threads(text),
        lambda: threads.list_user_threads(text),
        lambda: threads.list_user_threads("ada", limit=0),
        lambda: threads.list_session_threads("s1", limit=10_001),
        lambda: threads.list_session_threads("s1", after="x"),
    ]
    before = manager.stats()["main"].requests
    for call in calls:
        with pytest.raises(ValidationError):
            call()
    assert manager.stats()["main"].requests == before


def test_an_id_that_is_too_long_is_told_the_limit(threads: ThreadManager) -> None:
    with pytest.raises(ValidationError, match="10,000 bytes in UTF-8, more than the limit of 1,024"):
        threads.get_thread("x" * 10_000)


def test_activity_never_goes_back_when_the_clock_does(
    threads: ThreadManager, database: Database
) -> None:
    threads.create_thread(Thread(id="t1", session_id="s1"))
    ahead = datetime.now(UTC) + HOUR
    database.execute("UPDATE holdfast_threads SET updated_at = :moment", {"moment": ahead})
    assert (threads.patch("t1", {})).updated_at == ahead
    assert (threads.update_thread(Thread(id="t1", session_id="s1"))).updated_at == ahead


def test_a_listing_may_be_of_those_whose_metadata_has_some_values(
    threads: ThreadManager, sessions: SessionManager
) -> None:
    sessions.create_session(Session(id="s2", user_id="bob"))
    for name, session, metadata in (
        ("a", "s1", {"kind": "chat", "n": 1}),
        ("b", "s1", {"kind": "chat", "n": 2}),
        ("c", "s1", {"kind": "tool"}),
        ("d", "s2", {"kind": "chat", "n": 1}),
    ):
        threads.create_thread(Thread(id=name, session_id=session, metadata=metadata))
    for where, expected in (({"kind": "chat"}, ["b", "a"]), ({"kind": "chat", "n": 1.0}, ["a"]), ({"n": "1"}, [])):
        assert [thread.id for thread in threads.list_session_threads("s1", where=where)] == expected
        assert [thread.id for thread in threads.list_user_threads("ada", where=where)] == expected
    wrong: Any = {"a": []}
    with pytest.raises(ValidationError):
        threads.list_user_threads("ada", where=wrong)


def test_a_touch_puts_a_thread_first_and_keeps_its_version(
    threads: ThreadManager, elsewhere: ThreadManager
) -> None:
    first = threads.create_thread(Thread(id="a", session_id="s1"))
    threads.create_thread(Thread(id="b", session_id="s1"))
    touched = threads.touch("a")
    assert touched == replace(first, updated_at=touched.updated_at)
    assert touched.updated_at > first.updated_at
    assert elsewhere.get_thread("a") == touched
    assert [thread.id for thread in threads.list_session_threads("s1")] == ["a", "b"]
