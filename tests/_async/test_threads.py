"""The contract of threads: where they belong, who wins, and that they end with their session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    AsyncSQLiteDatabase,
    ClosedError,
    ConflictError,
    DuplicateError,
    ForeignKeyError,
    NotFoundError,
    PersistenceError,
    ValidationError,
)
from persistence._async.compat import Parallel
from persistence.dialect import from_json
from sessions import AsyncSessionManager, AsyncThreadManager, Session, Thread
from tests._async.redis_contract import teach

pytestmark = pytest.mark.tables("sessions")

HOUR = timedelta(hours=1)
ALL_ROWS = "SELECT * FROM holdfast_threads ORDER BY tenant_id, id"


@pytest_asyncio.fixture
async def sessions(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncSessionManager:
    return AsyncSessionManager(manager, "main")


@pytest_asyncio.fixture
async def threads(manager: AsyncDatabaseManager, sessions: AsyncSessionManager) -> AsyncThreadManager:
    """Threads, beside the session ``s1`` of ``ada``."""
    await sessions.create_session(Session(id="s1", user_id="ada"))
    return AsyncThreadManager(manager, "main")


@pytest_asyncio.fixture
async def elsewhere(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncThreadManager:
    """The same threads through a second connection; a database in memory has only the one."""
    if isinstance(database, AsyncPostgreSQLDatabase):
        await manager.add_postgresql("elsewhere", database.config)
    elif isinstance(database, AsyncSQLiteDatabase) and database.config.path != ":memory:":
        await manager.add_sqlite("elsewhere", database.config)
    else:
        return AsyncThreadManager(manager, "main")
    return AsyncThreadManager(manager, "elsewhere")


@pytest_asyncio.fixture
async def parallel() -> AsyncIterator[Parallel]:
    made = Parallel()
    yield made
    made.close()


async def outcome(call: Callable[[], Awaitable[Thread]]) -> Thread | PersistenceError:
    try:
        return await call()
    except PersistenceError as exc:
        return exc


async def expire(database: AsyncDatabase, session_id: str) -> None:
    changed = await database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment WHERE id = :id",
        {"moment": datetime.now(UTC) - timedelta(seconds=1), "id": session_id},
    )
    assert changed == 1


async def test_a_new_thread_comes_back_as_it_is_stored(
    threads: AsyncThreadManager, elsewhere: AsyncThreadManager, database: AsyncDatabase
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    given = Thread(id="t1", session_id="s1", user_id="bob", title="Arches", metadata={"é": [1, None]})
    stored = await threads.create_thread(given)
    assert before < stored.created_at < before + timedelta(seconds=60)
    assert stored == replace(given, created_at=stored.created_at, updated_at=stored.created_at, version=1)
    assert given.version is None
    assert await threads.get_thread("t1") == stored
    assert await elsewhere.get_thread("t1") == stored
    row = await database.fetch_one("SELECT * FROM holdfast_threads")
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


async def test_a_thread_may_stand_by_itself(threads: AsyncThreadManager) -> None:
    stored = await threads.create_thread(Thread(user_id="ada"))
    assert (stored.session_id, stored.user_id, stored.title, stored.metadata) == (None, "ada", None, {})
    assert UUID(stored.id).version == 7
    assert await threads.get_thread(stored.id) == stored


async def test_a_thread_without_a_user_gets_the_owner_of_its_session(threads: AsyncThreadManager) -> None:
    assert (await threads.create_thread(Thread(session_id="s1"))).user_id == "ada"
    with pytest.raises(ValidationError, match="user_id or a session_id"):
        await threads.create_thread(Thread())


async def test_an_unknown_session_is_named(threads: AsyncThreadManager, elsewhere: AsyncThreadManager) -> None:
    for thread in (Thread(id="t1", session_id="s2"), Thread(id="t1", session_id="s2", user_id="ada")):
        with pytest.raises(ForeignKeyError, match="no session 's2'") as caught:
            await threads.create_thread(thread)
        assert (caught.value.connection, caught.value.code) == ("main", "23503")
    with pytest.raises(NotFoundError):
        await elsewhere.get_thread("t1")


async def test_a_session_that_has_expired_takes_no_thread_and_cannot_be_told_from_an_unknown_one(
    threads: AsyncThreadManager, sessions: AsyncSessionManager, database: AsyncDatabase
) -> None:
    thread = await threads.create_thread(Thread(user_id="ada"))
    messages = set()
    for _ in range(2):
        for call in (
            partial(threads.create_thread, Thread(session_id="s2", user_id="ada")),
            partial(threads.update_thread, replace(thread, session_id="s2")),
        ):
            with pytest.raises(ForeignKeyError) as caught:
                await call()
            messages.add(str(caught.value))
        await sessions.create_session(Session(id="s2", user_id="ada"))
        await expire(database, "s2")
        await sessions.create_session(Session(id="s3", user_id="ada"))
        await sessions.delete_session("s3")
    assert len(messages) == 1


async def test_an_id_that_is_taken_is_a_duplicate_and_nothing_changes(
    threads: AsyncThreadManager, elsewhere: AsyncThreadManager
) -> None:
    first = await threads.create_thread(Thread(id="t1", session_id="s1", metadata={"a": 1}))
    for again in (Thread(id="t1", session_id="s1"), Thread(id="t1", user_id="bob")):
        with pytest.raises(DuplicateError, match="'t1'"):
            await threads.create_thread(again)
    assert await elsewhere.get_thread("t1") == first


async def test_an_update_replaces_what_the_record_holds(
    threads: AsyncThreadManager, elsewhere: AsyncThreadManager
) -> None:
    first = await threads.create_thread(Thread(id="t1", user_id="ada", title="t", metadata={"a": 1}))
    changed = replace(first, session_id="s1", user_id="bob", title=None, metadata={"b": 2})
    second = await threads.update_thread(changed)
    assert second == replace(changed, version=2, updated_at=second.updated_at)
    assert second.updated_at > first.updated_at
    assert await elsewhere.get_thread("t1") == second
    third = await threads.update_thread(replace(second, session_id=None, user_id=None))
    assert (third.session_id, third.user_id, third.version) == (None, "bob", 3)
    assert await elsewhere.get_thread("t1") == third


async def test_a_thread_is_moved_to_a_known_session_only(
    threads: AsyncThreadManager, elsewhere: AsyncThreadManager
) -> None:
    first = await threads.create_thread(Thread(id="t1", session_id="s1"))
    for version in (1, None):
        with pytest.raises(ForeignKeyError, match="no session 's2'"):
            await threads.update_thread(replace(first, session_id="s2", version=version))
    assert await elsewhere.get_thread("t1") == first


async def test_a_record_that_was_read_cannot_overwrite_a_later_change(
    threads: AsyncThreadManager, elsewhere: AsyncThreadManager
) -> None:
    read = await threads.create_thread(Thread(id="t1", session_id="s1"))
    theirs = await elsewhere.update_thread(replace(read, title="theirs"))
    with pytest.raises(ConflictError, match=r"'t1' has version 2, not 1") as caught:
        await threads.update_thread(replace(read, title="mine"))
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    with pytest.raises(ConflictError):
        await threads.patch("t1", {"a": 1}, expected_version=1)
    assert await elsewhere.get_thread("t1") == theirs
    assert (await threads.update_thread(replace(read, title="2"), expected_version=2)).version == 3
    assert (await threads.update_thread(replace(read, title="3", version=None))).version == 4


async def test_of_concurrent_updates_of_one_version_one_wins(threads: AsyncThreadManager, parallel: Parallel) -> None:
    read = await threads.create_thread(Thread(id="t1", session_id="s1"))
    changes = [partial(threads.update_thread, replace(read, title=str(number))) for number in range(16)]
    results = await parallel.run([partial(outcome, change) for change in changes])
    won = [result for result in results if isinstance(result, Thread)]
    lost = [result for result in results if isinstance(result, ConflictError)]
    assert (len(won), len(lost)) == (1, 15)
    assert await threads.get_thread("t1") == won[0]


async def test_a_patch_merges_at_the_top_level(threads: AsyncThreadManager, elsewhere: AsyncThreadManager) -> None:
    metadata = {"a": {"x": 1, "y": 2}, "b": 1, "c": [1]}
    created = await threads.create_thread(Thread(id="t1", session_id="s1", title="t", metadata=metadata))
    patched = await threads.patch("t1", {"a": {"y": None}, "b": None, "é": "}"})
    after = {"a": {"y": None}, "c": [1], "é": "}"}
    assert patched == replace(created, metadata=after, version=2, updated_at=patched.updated_at)
    assert patched.updated_at > created.updated_at
    assert await elsewhere.get_thread("t1") == patched
    assert (await threads.patch("t1", dict.fromkeys(after))).metadata == {}
    assert (await threads.patch("t1", {"n": 1})).metadata == {"n": 1}
    assert (await threads.patch("t1", {}, expected_version=4)).metadata == {"n": 1}


async def test_of_sixteen_writers_of_different_keys_none_is_lost(
    threads: AsyncThreadManager, elsewhere: AsyncThreadManager, parallel: Parallel
) -> None:
    await threads.create_thread(Thread(id="t1", session_id="s1", metadata={"kept": True}))

    async def write(writer: int) -> None:
        for turn in range(5):
            await threads.patch("t1", {f"writer {writer}": turn})

    await parallel.run([partial(write, writer) for writer in range(16)])
    found = await elsewhere.get_thread("t1")
    assert found.metadata == {"kept": True, **{f"writer {writer}": 4 for writer in range(16)}}
    assert found.version == 81


ON_ONE: list[tuple[str, Callable[[AsyncThreadManager], Awaitable[Any]]]] = [
    ("get", lambda threads: threads.get_thread("t1")),
    ("patch", lambda threads: threads.patch("t1", {"a": 1})),
    ("patch a version", lambda threads: threads.patch("t1", {"a": 1}, expected_version=1)),
    ("update", lambda threads: threads.update_thread(Thread(id="t1", user_id="ada"))),
    ("update a version", lambda threads: threads.update_thread(Thread(id="t1", user_id="ada", version=1))),
    ("move", lambda threads: threads.update_thread(Thread(id="t1", session_id="s2"))),
    ("touch", lambda threads: threads.touch("t1")),
]


@pytest.mark.parametrize("call", [call for _, call in ON_ONE], ids=[name for name, _ in ON_ONE])
async def test_a_thread_of_an_expired_session_cannot_be_told_from_one_that_never_was(
    threads: AsyncThreadManager,
    database: AsyncDatabase,
    call: Callable[[AsyncThreadManager], Awaitable[Any]],
) -> None:
    with pytest.raises(NotFoundError, match="'t1'") as never:
        await call(threads)
    await threads.create_thread(Thread(id="t1", session_id="s1"))
    await expire(database, "s1")
    with pytest.raises(NotFoundError) as expired:
        await call(threads)
    assert str(expired.value) == str(never.value)
    assert len(await database.fetch_all(ALL_ROWS)) == 1


async def test_a_thread_of_an_expired_session_is_neither_listed_nor_deleted_but_goes(
    threads: AsyncThreadManager, database: AsyncDatabase
) -> None:
    await threads.create_thread(Thread(id="t1", session_id="s1"))
    alone = await threads.create_thread(Thread(id="t2", user_id="ada"))
    await expire(database, "s1")
    assert await threads.list_session_threads("s1") == []
    assert await threads.list_user_threads("ada") == [alone]
    assert await threads.delete_thread("t1") is False
    assert [row["id"] for row in await database.fetch_all(ALL_ROWS)] == ["t2"]


async def test_the_id_of_a_thread_of_an_expired_session_can_be_used_again(
    threads: AsyncThreadManager, elsewhere: AsyncThreadManager, database: AsyncDatabase
) -> None:
    await threads.create_thread(Thread(id="t1", session_id="s1", metadata={"old": 1}))
    await expire(database, "s1")
    new = await threads.create_thread(Thread(id="t1", user_id="bob"))
    assert (new.session_id, new.user_id, new.metadata, new.version) == (None, "bob", {}, 1)
    assert await elsewhere.get_thread("t1") == new


@pytest.mark.parametrize("way", ["delete", "clean up", "create again"])
async def test_threads_go_with_their_session(
    threads: AsyncThreadManager,
    sessions: AsyncSessionManager,
    elsewhere: AsyncThreadManager,
    database: AsyncDatabase,
    way: str,
) -> None:
    await sessions.create_session(Session(id="s2", user_id="ada"))
    for number in range(3):
        await threads.create_thread(Thread(id=f"t{number}", session_id="s1"))
    others = [await threads.create_thread(Thread(id="other", session_id="s2"))]
    others.insert(0, await threads.create_thread(Thread(id="alone", user_id="ada")))
    if way == "delete":
        assert await sessions.delete_session("s1") is True
    else:
        await expire(database, "s1")
        if way == "clean up":
            assert await sessions.delete_expired() == 1
        else:
            await sessions.create_session(Session(id="s1", user_id="ada"))
    assert [row["id"] for row in await database.fetch_all(ALL_ROWS)] == ["alone", "other"]
    assert await elsewhere.list_user_threads("ada") == others
    assert await elsewhere.list_session_threads("s1") == []


async def test_deleting_tells_whether_it_was_there(threads: AsyncThreadManager, elsewhere: AsyncThreadManager) -> None:
    for name, session in (("t1", "s1"), ("t2", "s1"), ("t3", None)):
        await threads.create_thread(Thread(id=name, session_id=session, user_id="ada"))
    for name in ("t1", "t3"):
        assert await threads.delete_thread(name) is True
        assert await threads.delete_thread(name) is False
        with pytest.raises(NotFoundError):
            await elsewhere.get_thread(name)
    assert (await elsewhere.get_thread("t2")).id == "t2"


async def test_threads_are_listed_by_their_newest_activity(
    threads: AsyncThreadManager, sessions: AsyncSessionManager
) -> None:
    await sessions.create_session(Session(id="s2", user_id="ada"))
    for name, session, user in (
        ("a", "s1", None),
        ("b", "s1", None),
        ("c", "s1", "bob"),
        ("d", "s2", None),
        ("e", None, "ada"),
    ):
        await threads.create_thread(Thread(id=name, session_id=session, user_id=user))
    await threads.patch("a", {"k": 1})
    listed = await threads.list_session_threads("s1")
    assert [thread.id for thread in listed] == ["a", "c", "b"]
    assert listed == [await threads.get_thread(thread.id) for thread in listed]
    assert [thread.id for thread in await threads.list_session_threads("s1", limit=1)] == ["a"]
    assert [thread.id for thread in await threads.list_user_threads("ada")] == ["a", "e", "d", "b"]
    assert [thread.id for thread in await threads.list_user_threads("ada", limit=2)] == ["a", "e"]
    assert [thread.id for thread in await threads.list_user_threads("bob")] == ["c"]
    assert await threads.list_session_threads("nix") == []
    assert await threads.list_user_threads("nobody") == []


@pytest.mark.parametrize("owner", ["session", "user"])
async def test_pages_show_each_thread_once_also_those_of_one_moment(
    threads: AsyncThreadManager, database: AsyncDatabase, owner: str
) -> None:
    names = [f"t{number:02}" for number in range(20)] + ["é", "Z", "\U0001f9f6", ":1"]
    for name in names:
        await threads.create_thread(Thread(id=name, session_id="s1"))
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    await database.execute("UPDATE holdfast_threads SET updated_at = :moment", {"moment": moment})
    await threads.patch("t07", {})
    pages = partial(threads.list_session_threads, "s1") if owner == "session" else None
    pages = pages or partial(threads.list_user_threads, "ada")
    found: list[str] = []
    after = None
    while page := await pages(limit=7, after=after):
        assert len(page) <= 7
        found += [thread.id for thread in page]
        after = page[-1].cursor
    assert found == ["t07", *sorted(set(names) - {"t07"}, reverse=True)]


async def test_tenants_with_equal_ids_never_meet(
    manager: AsyncDatabaseManager, threads: AsyncThreadManager, database: AsyncDatabase
) -> None:
    ours = await threads.create_thread(Thread(id="t1", session_id="s1", metadata={"whose": "ours"}))
    others = AsyncThreadManager(manager, "main", tenant="others")
    with pytest.raises(NotFoundError):
        await others.get_thread("t1")
    with pytest.raises(ForeignKeyError, match="'s1'"):
        await others.create_thread(Thread(id="t1", session_id="s1"))
    assert await others.list_user_threads("ada") == []
    assert await others.list_session_threads("s1") == []
    assert await others.delete_thread("t1") is False
    await AsyncSessionManager(manager, "main", tenant="others").create_session(Session(id="s1", user_id="eve"))
    theirs = await others.create_thread(Thread(id="t1", session_id="s1"))
    assert theirs.user_id == "eve"
    theirs = await others.update_thread(replace(await others.patch("t1", {"n": 1}), title="theirs"))
    assert await others.list_session_threads("s1") == [theirs]
    assert await threads.list_session_threads("s1") == [ours]
    assert await AsyncSessionManager(manager, "main", tenant="others").delete_session("s1") is True
    assert await threads.get_thread("t1") == ours


WRITERS: list[tuple[str, Callable[[AsyncThreadManager], Awaitable[Any]]]] = [
    ("create", lambda threads: threads.create_thread(Thread(id="new", session_id="s1"))),
    ("create by itself", lambda threads: threads.create_thread(Thread(id="new", user_id="ada"))),
    ("create over an expired one", lambda threads: threads.create_thread(Thread(id="old", user_id="eve"))),
    ("update", lambda threads: threads.update_thread(Thread(id="t1", user_id="eve"))),
    ("patch", lambda threads: threads.patch("t1", {"b": 2})),
    ("touch", lambda threads: threads.touch("t1")),
    ("delete", lambda threads: threads.delete_thread("t1")),
]


@pytest.mark.parametrize("write", [write for _, write in WRITERS], ids=[name for name, _ in WRITERS])
async def test_a_write_joins_the_transaction_it_is_called_in(
    manager: AsyncDatabaseManager,
    sessions: AsyncSessionManager,
    threads: AsyncThreadManager,
    elsewhere: AsyncThreadManager,
    database: AsyncDatabase,
    write: Callable[[AsyncThreadManager], Awaitable[Any]],
) -> None:
    other = manager.get_database(elsewhere._name)
    await threads.create_thread(Thread(id="t1", session_id="s1", metadata={"a": 1}))
    await sessions.create_session(Session(id="s2", user_id="ada"))
    await threads.create_thread(Thread(id="old", session_id="s2"))
    await expire(database, "s2")
    before = await other.fetch_all(ALL_ROWS)

    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            await write(threads)
            changed = await database.fetch_all(ALL_ROWS)
            if other is not database:
                assert await other.fetch_all(ALL_ROWS) == before
            _ = 1 / 0
    assert changed != before
    assert await other.fetch_all(ALL_ROWS) == before

    async with database.transaction():
        await write(threads)
        changed = await database.fetch_all(ALL_ROWS)
    assert await other.fetch_all(ALL_ROWS) == changed != before


async def test_a_session_and_its_thread_are_made_in_one_transaction_or_not_at_all(
    sessions: AsyncSessionManager,
    threads: AsyncThreadManager,
    elsewhere: AsyncThreadManager,
    database: AsyncDatabase,
) -> None:
    for fail in (True, False):
        try:
            async with database.transaction():
                await sessions.create_session(Session(id="s2", user_id="bob"))
                await threads.create_thread(Thread(id="t2", session_id="s2"))
                _ = 1 / (0 if fail else 1)
        except ZeroDivisionError:
            assert await elsewhere.list_user_threads("bob") == []
    assert [thread.id for thread in await elsewhere.list_user_threads("bob")] == ["t2"]


async def test_a_refusal_does_not_fail_the_transaction_it_is_in(
    threads: AsyncThreadManager, elsewhere: AsyncThreadManager, database: AsyncDatabase
) -> None:
    thread = await threads.create_thread(Thread(id="t1", session_id="s1"))
    async with database.transaction():
        with pytest.raises(DuplicateError):
            await threads.create_thread(Thread(id="t1", session_id="s1"))
        with pytest.raises(ForeignKeyError):
            await threads.create_thread(Thread(id="t2", session_id="nix"))
        with pytest.raises(ForeignKeyError):
            await threads.update_thread(replace(thread, session_id="nix"))
        with pytest.raises(NotFoundError):
            await threads.get_thread("nix")
        with pytest.raises(ConflictError):
            await threads.patch("t1", {"a": 1}, expected_version=7)
        await threads.patch("t1", {"a": 2})
    assert (await elsewhere.get_thread("t1")).metadata == {"a": 2}


async def test_each_call_is_one_statement(manager: AsyncDatabaseManager, threads: AsyncThreadManager) -> None:
    await teach(manager)
    await threads.create_thread(Thread(id="t1", session_id="s1"))
    calls: list[Callable[[], Awaitable[Any]]] = [
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
        await call()
        assert manager.stats()["main"].requests - before == 1


async def test_a_closed_manager_is_a_clear_error(manager: AsyncDatabaseManager, threads: AsyncThreadManager) -> None:
    await manager.aclose()
    for _, call in ON_ONE + WRITERS:
        with pytest.raises(ClosedError):
            await call(threads)
    for listing in (partial(threads.list_session_threads, "s1"), partial(threads.list_user_threads, "ada")):
        with pytest.raises(ClosedError):
            await listing()


@pytest.mark.parametrize("text", ["'; DROP TABLE holdfast_threads; --", "%", "a:b", ":id", "é", "\U0001f9f6" * 256])
async def test_any_text_is_an_id(
    manager: AsyncDatabaseManager, sessions: AsyncSessionManager, threads: AsyncThreadManager, text: str
) -> None:
    await threads.create_thread(Thread(id="t1", session_id="s1"))
    await sessions.create_session(Session(id=text, user_id=text))
    stored = await threads.create_thread(Thread(id=text, session_id=text, title=text))
    assert (stored.id, stored.session_id, stored.user_id, stored.title) == (text, text, text, text)
    assert await threads.list_user_threads(text) == [stored]
    assert await threads.list_session_threads(text) == [stored]
    assert await threads.list_session_threads(text, after=stored.cursor) == []
    assert await sessions.delete_session(text) is True
    assert [thread.id for thread in await threads.list_user_threads("ada")] == ["t1"]


@pytest.mark.parametrize("text", ["", "a\0b", "\ud800", "x" * 1025, 7, b"x"], ids=range(6))
async def test_what_cannot_be_stored_is_refused_before_anything_is_sent(
    manager: AsyncDatabaseManager, threads: AsyncThreadManager, text: Any
) -> None:
    wrong: Any = {1: "x"}
    calls: list[Callable[[], Awaitable[Any]]] = [
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
            await call()
    assert manager.stats()["main"].requests == before


async def test_an_id_that_is_too_long_is_told_the_limit(threads: AsyncThreadManager) -> None:
    with pytest.raises(ValidationError, match="10,000 bytes in UTF-8, more than the limit of 1,024"):
        await threads.get_thread("x" * 10_000)


async def test_activity_never_goes_back_when_the_clock_does(
    threads: AsyncThreadManager, database: AsyncDatabase
) -> None:
    await threads.create_thread(Thread(id="t1", session_id="s1"))
    ahead = datetime.now(UTC) + HOUR
    await database.execute("UPDATE holdfast_threads SET updated_at = :moment", {"moment": ahead})
    assert (await threads.patch("t1", {})).updated_at == ahead
    assert (await threads.update_thread(Thread(id="t1", session_id="s1"))).updated_at == ahead


async def test_a_listing_may_be_of_those_whose_metadata_has_some_values(
    threads: AsyncThreadManager, sessions: AsyncSessionManager
) -> None:
    await sessions.create_session(Session(id="s2", user_id="bob"))
    for name, session, metadata in (
        ("a", "s1", {"kind": "chat", "n": 1}),
        ("b", "s1", {"kind": "chat", "n": 2}),
        ("c", "s1", {"kind": "tool"}),
        ("d", "s2", {"kind": "chat", "n": 1}),
    ):
        await threads.create_thread(Thread(id=name, session_id=session, metadata=metadata))
    for where, expected in (({"kind": "chat"}, ["b", "a"]), ({"kind": "chat", "n": 1.0}, ["a"]), ({"n": "1"}, [])):
        assert [thread.id for thread in await threads.list_session_threads("s1", where=where)] == expected
        assert [thread.id for thread in await threads.list_user_threads("ada", where=where)] == expected
    wrong: Any = {"a": []}
    with pytest.raises(ValidationError):
        await threads.list_user_threads("ada", where=wrong)


async def test_a_touch_puts_a_thread_first_and_keeps_its_version(
    threads: AsyncThreadManager, elsewhere: AsyncThreadManager
) -> None:
    first = await threads.create_thread(Thread(id="a", session_id="s1"))
    await threads.create_thread(Thread(id="b", session_id="s1"))
    touched = await threads.touch("a")
    assert touched == replace(first, updated_at=touched.updated_at)
    assert touched.updated_at > first.updated_at
    assert await elsewhere.get_thread("a") == touched
    assert [thread.id for thread in await threads.list_session_threads("s1")] == ["a", "b"]
