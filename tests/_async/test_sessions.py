"""The contract of sessions: what is stored, who wins, what has expired, what is refused."""

from __future__ import annotations

import random
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
    MigrationError,
    NotFoundError,
    PersistenceError,
    PostgreSQLConfig,
    ValidationError,
)
from persistence._async.compat import Parallel
from persistence.dialect import from_json
from persistence.queries import load_queries
from sessions import AsyncSessionManager, Session
from tests._async.redis_contract import teach

pytestmark = pytest.mark.tables("sessions")

HOUR = timedelta(hours=1)
HOSTILE_TEXTS = [
    "'; DROP TABLE holdfast_sessions; --",
    "%",
    "_",
    "*",
    "a:b:c",
    ":id",
    "$1",
    "{tenant}",
    '"quoted"',
    "back\\slash",
    " ",
    "\x01\x7f",
    "é",
    "e\u0301",
    "\U0001f9f6" * 256,
    "x" * 1024,
]
BAD_TEXTS = ["", "a\0b", "\ud800", "x" * 1025, "é" * 513, 7, b"x", ["x"]]
BAD_METADATA: list[Any] = [
    None,
    [],
    "{}",
    {1: "a"},
    {"a": {None: 1}},
    {"a": [{2.5: 1}]},
    {"a": float("nan")},
    {"a": [float("inf")]},
    {"a": "\0"},
    {"a\0": 1},
    {"a": "\ud800"},
    {"a": object()},
    {"a": {1, 2}},
    {"a": b"x"},
    {"a": datetime(2024, 1, 1, tzinfo=UTC)},
]


@pytest_asyncio.fixture
async def sessions(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncSessionManager:
    return AsyncSessionManager(manager, "main")


@pytest_asyncio.fixture
async def elsewhere(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncSessionManager:
    """The same sessions through a second connection; a database in memory has only the one."""
    if isinstance(database, AsyncPostgreSQLDatabase):
        await manager.add_postgresql("elsewhere", database.config)
    elif isinstance(database, AsyncSQLiteDatabase) and database.config.path != ":memory:":
        await manager.add_sqlite("elsewhere", database.config)
    else:
        return AsyncSessionManager(manager, "main")
    return AsyncSessionManager(manager, "elsewhere")


@pytest_asyncio.fixture
async def parallel() -> AsyncIterator[Parallel]:
    made = Parallel()
    yield made
    made.close()


async def outcome(call: Callable[[], Awaitable[Session]]) -> Session | PersistenceError:
    try:
        return await call()
    except PersistenceError as exc:
        return exc


async def expire(database: AsyncDatabase, session_id: str, *, ago: timedelta = timedelta(seconds=1)) -> None:
    changed = await database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment WHERE id = :id",
        {"moment": datetime.now(UTC) - ago, "id": session_id},
    )
    assert changed == 1


async def ids_stored(database: AsyncDatabase) -> list[str]:
    return [row["id"] for row in await database.fetch_all("SELECT id FROM holdfast_sessions ORDER BY id")]


async def test_a_new_session_comes_back_as_it_is_stored(
    sessions: AsyncSessionManager, elsewhere: AsyncSessionManager
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    given = Session(id="s1", user_id="ada", title="Bridges", metadata={"lang": "en", "tags": ["a", 1, None]})
    stored = await sessions.create_session(given)
    assert before < stored.created_at < before + timedelta(seconds=60)
    assert stored == Session(
        id="s1",
        user_id="ada",
        title="Bridges",
        metadata={"lang": "en", "tags": ["a", 1, None]},
        expires_at=None,
        sliding=None,
        created_at=stored.created_at,
        updated_at=stored.created_at,
        version=1,
    )
    assert stored.created_at.tzinfo is UTC
    assert given.version is None
    assert await sessions.get_session("s1") == stored
    assert await elsewhere.get_session("s1") == stored


async def test_the_columns_hold_what_was_given(sessions: AsyncSessionManager, database: AsyncDatabase) -> None:
    metadata = {"é": {"n": [1, 2.5, -3]}, "t": True, "z": None}
    stored = await sessions.create_session(Session(id="s1", user_id="ada", metadata=metadata), ttl=90.5, sliding=True)
    row = await database.fetch_one("SELECT * FROM holdfast_sessions")
    assert row is not None
    row.pop("expires_slot", None)
    assert from_json(row.pop("metadata")) == metadata
    assert row == {
        "tenant_id": "default",
        "id": "s1",
        "user_id": "ada",
        "title": None,
        "version": 1,
        "sliding_micros": 90_500_000,
        "expires_at": database.dialect.time(stored.expires_at),
        "created_at": database.dialect.time(stored.created_at),
        "updated_at": database.dialect.time(stored.created_at),
    }


async def test_an_id_left_out_is_a_new_uuid_of_version_7(sessions: AsyncSessionManager) -> None:
    made = [await sessions.create_session(Session(user_id="ada")) for _ in range(20)]
    untyped: Any = None
    made.append(await sessions.create_session(Session(id=untyped, user_id="ada")))
    assert len({session.id for session in made}) == 21
    assert {UUID(session.id).version for session in made} == {7}
    stamps = [UUID(session.id).int >> 80 for session in made]
    assert stamps == sorted(stamps)
    assert abs(stamps[0] / 1000 - made[0].created_at.timestamp()) < 60


async def test_an_id_that_is_taken_is_a_duplicate_and_nothing_changes(
    sessions: AsyncSessionManager, elsewhere: AsyncSessionManager
) -> None:
    first = await sessions.create_session(Session(id="s1", user_id="ada", metadata={"a": 1}))
    with pytest.raises(DuplicateError, match="'s1'") as caught:
        await sessions.create_session(Session(id="s1", user_id="bob"))
    assert caught.value.connection == "main"
    assert caught.value.hint
    assert await elsewhere.get_session("s1") == first


async def test_an_update_replaces_what_the_record_holds(
    sessions: AsyncSessionManager, elsewhere: AsyncSessionManager
) -> None:
    first = await sessions.create_session(Session(id="s1", user_id="ada", title="t", metadata={"a": 1, "b": 2}))
    end = datetime.now(UTC).replace(microsecond=123456) + HOUR
    changed = replace(first, user_id="bob", title=None, metadata={"c": [3]}, expires_at=end)
    stored = await sessions.update_session(changed)
    assert stored == replace(changed, version=2, updated_at=stored.updated_at)
    assert stored.updated_at > first.updated_at
    assert await elsewhere.get_session("s1") == stored


async def test_the_times_of_a_record_are_not_stored(sessions: AsyncSessionManager) -> None:
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    first = await sessions.create_session(Session(id="s1", user_id="ada", created_at=long_ago, updated_at=long_ago))
    assert first.created_at == first.updated_at > long_ago
    second = await sessions.update_session(replace(first, created_at=long_ago, updated_at=long_ago))
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


async def test_a_record_that_was_read_cannot_overwrite_a_later_change(
    sessions: AsyncSessionManager, elsewhere: AsyncSessionManager
) -> None:
    read = await sessions.create_session(Session(id="s1", user_id="ada"))
    theirs = await elsewhere.update_session(replace(read, title="theirs"))
    with pytest.raises(ConflictError, match=r"'s1' has version 2, not 1") as caught:
        await sessions.update_session(replace(read, title="mine"))
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert await elsewhere.get_session("s1") == theirs


async def test_the_expected_version_given_wins_over_the_records_own(sessions: AsyncSessionManager) -> None:
    read = await sessions.create_session(Session(id="s1", user_id="ada"))
    await sessions.update_session(read)
    assert (await sessions.update_session(replace(read, title="2"), expected_version=2)).version == 3
    with pytest.raises(ConflictError):
        await sessions.update_session(replace(read, version=3), expected_version=2)
    overwritten = await sessions.update_session(replace(read, title="anyway", version=None))
    assert (overwritten.title, overwritten.version) == ("anyway", 4)


async def test_of_concurrent_updates_of_one_version_one_wins(sessions: AsyncSessionManager, parallel: Parallel) -> None:
    read = await sessions.create_session(Session(id="s1", user_id="ada"))
    changes = [partial(sessions.update_session, replace(read, title=str(number))) for number in range(16)]
    results = await parallel.run([partial(outcome, change) for change in changes])
    won = [result for result in results if isinstance(result, Session)]
    lost = [result for result in results if isinstance(result, ConflictError)]
    assert (len(won), len(lost)) == (1, 15)
    assert {(error.expected, error.actual) for error in lost} == {(1, 2)}
    assert await sessions.get_session("s1") == won[0]


PATCHES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({}, {}, {}),
    ({"a": 1}, {}, {"a": 1}),
    ({}, {"a": 1}, {"a": 1}),
    ({"a": 1}, {"a": None}, {}),
    ({"a": 1}, {"b": None}, {"a": 1}),
    ({"a": 1, "b": 2}, {"a": None, "c": 3}, {"b": 2, "c": 3}),
    ({"a": {"x": 1, "y": 2}}, {"a": {"x": 9}}, {"a": {"x": 9}}),
    ({"a": {"x": None}}, {"b": {"y": None, "z": [None]}}, {"a": {"x": None}, "b": {"y": None, "z": [None]}}),
    ({"a": None}, {"b": 1}, {"a": None, "b": 1}),
    ({"": 1, '"': 2, "\\": 3, "a.b": 4}, {'"': None, "a.b": "}", "": {}}, {"": {}, "\\": 3, "a.b": "}"}),
    ({"é": "\x01", "n": 0.1 + 0.2}, {"m": 2**62, "f": 1e300}, {"é": "\x01", "n": 0.1 + 0.2, "m": 2**62, "f": 1e300}),
]


@pytest.mark.parametrize(("before", "patch", "after"), PATCHES)
async def test_a_patch_merges_at_the_top_level(
    sessions: AsyncSessionManager,
    elsewhere: AsyncSessionManager,
    before: dict[str, Any],
    patch: dict[str, Any],
    after: dict[str, Any],
) -> None:
    created = await sessions.create_session(Session(id="s1", user_id="ada", title="t", metadata=before))
    patched = await sessions.patch("s1", patch)
    assert patched == replace(created, metadata=after, version=2, updated_at=patched.updated_at)
    assert await elsewhere.get_session("s1") == patched


async def test_any_sequence_of_patches_gives_what_the_standard_says(sessions: AsyncSessionManager) -> None:
    chance = random.Random(20)
    values = [None, True, 0, -1.5, 2**60, "", "}", ',"', "\U0001f9f6", [], [None, {"a": None}], {}, {"a": {"b": None}}]
    expected: dict[str, Any] = {}
    await sessions.create_session(Session(id="s1", user_id="ada"))
    for _ in range(200):
        keys = chance.sample(["", "a", "b", "c", '"', "\\u0061", "é", "$.a", "0", "\n"], chance.randint(0, 4))
        patch = {key: chance.choice(values) for key in keys}
        expected = {key: value for key, value in {**expected, **patch}.items() if value is not None}
        assert (await sessions.patch("s1", patch)).metadata == expected
    assert (await sessions.get_session("s1")).metadata == expected


async def test_of_sixteen_writers_of_different_keys_none_is_lost(
    sessions: AsyncSessionManager, elsewhere: AsyncSessionManager, parallel: Parallel
) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada", metadata={"kept": True}))

    async def write(writer: int) -> None:
        for turn in range(5):
            await sessions.patch("s1", {f"writer {writer}": turn})

    await parallel.run([partial(write, writer) for writer in range(16)])
    found = await elsewhere.get_session("s1")
    assert found.metadata == {"kept": True, **{f"writer {writer}": 4 for writer in range(16)}}
    assert found.version == 81


async def test_a_patch_of_another_version_than_expected_changes_nothing(sessions: AsyncSessionManager) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada"))
    second = await sessions.patch("s1", {"a": 1}, expected_version=1)
    with pytest.raises(ConflictError) as caught:
        await sessions.patch("s1", {"a": 2}, expected_version=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert await sessions.get_session("s1") == second


async def test_touching_records_activity_and_leaves_the_version(sessions: AsyncSessionManager) -> None:
    created = await sessions.create_session(Session(id="s1", user_id="ada", metadata={"a": 1}))
    touched = await sessions.touch("s1")
    assert touched == replace(created, updated_at=touched.updated_at)
    assert touched.updated_at > created.updated_at
    assert await sessions.get_session("s1") == touched
    assert (await sessions.update_session(replace(created, title="still version 1"))).version == 2


@pytest.mark.parametrize("ttl", [3600, 3600.0, HOUR], ids=["int", "float", "timedelta"])
async def test_a_ttl_ends_a_session_that_long_after_its_creation(sessions: AsyncSessionManager, ttl: Any) -> None:
    session = await sessions.create_session(Session(id="s1", user_id="ada"), ttl=ttl)
    assert session.expires_at == session.created_at + HOUR
    assert session.sliding is None
    assert (await sessions.touch("s1")).expires_at == session.expires_at
    assert (await sessions.patch("s1", {"a": 1})).expires_at == session.expires_at


@pytest.mark.parametrize("own", [True, False], ids=["in the record", "by arguments"])
async def test_a_sliding_end_moves_with_each_touch_patch_and_update(
    sessions: AsyncSessionManager, database: AsyncDatabase, own: bool
) -> None:
    if own:
        session = await sessions.create_session(Session(id="s1", user_id="ada", sliding=HOUR))
    else:
        session = await sessions.create_session(Session(id="s1", user_id="ada"), ttl=HOUR, sliding=True)
    assert session.expires_at == session.created_at + HOUR
    assert session.sliding == HOUR
    renewals: list[Callable[[], Awaitable[Session]]] = [
        partial(sessions.touch, "s1"),
        partial(sessions.patch, "s1", {"a": 1}),
        partial(sessions.update_session, replace(session, version=None)),
    ]
    for renew in renewals:
        await expire(database, "s1", ago=-timedelta(minutes=1))
        renewed = await renew()
        assert renewed.expires_at is not None
        assert abs(renewed.expires_at - renewed.updated_at - HOUR) < timedelta(seconds=1)
        assert await sessions.get_session("s1") == renewed


async def test_an_update_can_end_an_expiry_or_set_one(sessions: AsyncSessionManager) -> None:
    session = await sessions.create_session(Session(id="s1", user_id="ada"), ttl=60, sliding=True)
    kept = await sessions.update_session(replace(session, sliding=None, expires_at=None))
    assert (kept.expires_at, kept.sliding) == (None, None)
    assert (await sessions.touch("s1")).expires_at is None
    await sessions.update_session(replace(kept, expires_at=datetime.now(UTC) - HOUR))
    with pytest.raises(NotFoundError):
        await sessions.get_session("s1")


ON_ONE: list[tuple[str, Callable[[AsyncSessionManager], Awaitable[Any]]]] = [
    ("get", lambda sessions: sessions.get_session("s1")),
    ("touch", lambda sessions: sessions.touch("s1")),
    ("patch", lambda sessions: sessions.patch("s1", {"a": 1})),
    ("patch a version", lambda sessions: sessions.patch("s1", {"a": 1}, expected_version=1)),
    ("update", lambda sessions: sessions.update_session(Session(id="s1", user_id="ada"))),
    ("update a version", lambda sessions: sessions.update_session(Session(id="s1", user_id="ada", version=1))),
]


@pytest.mark.parametrize("call", [call for _, call in ON_ONE], ids=[name for name, _ in ON_ONE])
async def test_a_session_that_has_expired_cannot_be_told_from_one_that_never_was(
    sessions: AsyncSessionManager,
    database: AsyncDatabase,
    call: Callable[[AsyncSessionManager], Awaitable[Any]],
) -> None:
    with pytest.raises(NotFoundError, match="'s1'") as never:
        await call(sessions)
    await sessions.create_session(Session(id="s1", user_id="ada", sliding=HOUR))
    await expire(database, "s1")
    with pytest.raises(NotFoundError) as expired:
        await call(sessions)
    assert str(expired.value) == str(never.value)
    assert await ids_stored(database) == ["s1"]


async def test_a_session_that_has_expired_is_neither_listed_nor_deleted_but_goes(
    sessions: AsyncSessionManager, database: AsyncDatabase
) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada"))
    await expire(database, "s1")
    assert await sessions.list_user_sessions("ada") == []
    assert await sessions.delete_session("s1") is False
    assert await ids_stored(database) == []


async def test_a_session_is_expired_from_the_very_moment_on(
    sessions: AsyncSessionManager, database: AsyncDatabase
) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada"))
    # Statements that are sent together have the same statement_timestamp().
    now, later = "statement_timestamp()", "statement_timestamp() + INTERVAL '1 microsecond'"
    if database.kind == "sqlite":
        now, later = "1000", "1001"
    query = load_queries("sessions", database.kind).get_session
    query = query.replace(":tenant", "'default'").replace(":id", "'s1'").replace(":now", now)
    found = {}
    for end in (now, later):
        async with database.transaction() as transaction:
            await transaction.script(
                f"UPDATE holdfast_sessions SET expires_at = {end}; CREATE TABLE seen AS {query}; SELECT 1"
            )
            found[end] = await transaction.fetch_value("SELECT count(*) FROM seen")
            await transaction.script("DROP TABLE seen")
    assert found == {now: 0, later: 1}


async def test_the_id_of_an_expired_session_can_be_used_again(
    sessions: AsyncSessionManager, elsewhere: AsyncSessionManager, database: AsyncDatabase
) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada", metadata={"old": 1}), ttl=60)
    await expire(database, "s1")
    new = await sessions.create_session(Session(id="s1", user_id="bob"))
    assert (new.user_id, new.metadata, new.version, new.expires_at) == ("bob", {}, 1, None)
    assert await elsewhere.get_session("s1") == new
    assert await sessions.list_user_sessions("ada") == []


async def test_of_concurrent_creations_over_an_expired_session_one_wins(
    sessions: AsyncSessionManager, database: AsyncDatabase, parallel: Parallel
) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada"))
    await expire(database, "s1")
    attempts = [partial(sessions.create_session, Session(id="s1", user_id=str(number))) for number in range(16)]
    results = await parallel.run([partial(outcome, attempt) for attempt in attempts])
    won = [result for result in results if isinstance(result, Session)]
    assert len(won) == 1
    assert [result.code for result in results if isinstance(result, DuplicateError)] == ["23505"] * 15
    assert await sessions.get_session("s1") == won[0]


async def test_cleaning_up_deletes_the_longest_expired_first_and_nothing_else(
    sessions: AsyncSessionManager, database: AsyncDatabase
) -> None:
    for number in range(5):
        await sessions.create_session(Session(id=f"s{number}", user_id="ada"))
        await expire(database, f"s{number}", ago=(number + 1) * HOUR)
    await sessions.create_session(Session(id="later", user_id="ada"), ttl=3600)
    await sessions.create_session(Session(id="never", user_id="ada"))
    assert await sessions.delete_expired(limit=2) == 2
    assert await ids_stored(database) == ["later", "never", "s0", "s1", "s2"]
    assert await sessions.delete_expired() == 3
    assert await sessions.delete_expired() == 0
    assert await ids_stored(database) == ["later", "never"]


async def test_deleting_tells_whether_it_was_there(
    sessions: AsyncSessionManager, elsewhere: AsyncSessionManager
) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada"))
    await sessions.create_session(Session(id="s2", user_id="ada"))
    assert await sessions.delete_session("s1") is True
    assert await sessions.delete_session("s1") is False
    with pytest.raises(NotFoundError):
        await elsewhere.get_session("s1")
    assert (await elsewhere.get_session("s2")).id == "s2"


async def test_a_users_sessions_are_listed_by_their_newest_activity(sessions: AsyncSessionManager) -> None:
    for name in ("a", "b", "c", "d"):
        await sessions.create_session(Session(id=name, user_id="ada"))
    await sessions.create_session(Session(id="x", user_id="bob"))
    await sessions.touch("b")
    await sessions.patch("a", {"k": 1})
    listed = await sessions.list_user_sessions("ada")
    assert [session.id for session in listed] == ["a", "b", "d", "c"]
    assert listed == [await sessions.get_session(session.id) for session in listed]
    assert [session.id for session in await sessions.list_user_sessions("ada", limit=2)] == ["a", "b"]
    assert await sessions.list_user_sessions("nobody") == []


async def test_pages_show_each_session_once_also_those_of_one_moment(
    sessions: AsyncSessionManager, database: AsyncDatabase
) -> None:
    names = [f"s{number:02}" for number in range(20)] + ["é", "Z", "\U0001f9f6", ":1"]
    for name in names:
        await sessions.create_session(Session(id=name, user_id="ada"))
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    await database.execute("UPDATE holdfast_sessions SET updated_at = :moment", {"moment": moment})
    await sessions.touch("s07")
    found: list[str] = []
    after = None
    while page := await sessions.list_user_sessions("ada", limit=7, after=after):
        assert len(page) <= 7
        found += [session.id for session in page]
        after = page[-1].cursor
    assert found == ["s07", *sorted(set(names) - {"s07"}, reverse=True)]


@pytest.mark.parametrize("after", ["", "x", "====", "a b", "é", "MTIz", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OjE", 7, b"x"])
async def test_a_cursor_that_no_listing_gave_is_refused(sessions: AsyncSessionManager, after: Any) -> None:
    with pytest.raises(ValidationError, match="cursor"):
        await sessions.list_user_sessions("ada", after=after)


async def test_tenants_with_equal_ids_never_meet(
    manager: AsyncDatabaseManager, sessions: AsyncSessionManager, database: AsyncDatabase
) -> None:
    ours = await sessions.create_session(Session(id="s1", user_id="ada", metadata={"whose": "ours"}))
    others = AsyncSessionManager(manager, "main", tenant="others")
    with pytest.raises(NotFoundError):
        await others.get_session("s1")
    assert await others.list_user_sessions("ada") == []
    assert await others.delete_session("s1") is False
    theirs = await others.create_session(Session(id="s1", user_id="ada", metadata={"whose": "theirs"}))
    theirs = await others.patch("s1", {"n": 1})
    theirs = await others.touch("s1")
    theirs = await others.update_session(replace(theirs, title="theirs"))
    assert await sessions.get_session("s1") == ours
    assert await sessions.list_user_sessions("ada") == [ours]
    await database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment WHERE tenant_id = 'others'",
        {"moment": datetime.now(UTC) - HOUR},
    )
    assert await sessions.delete_expired() == 0
    assert await others.delete_expired() == 1
    assert await sessions.get_session("s1") == ours


WRITERS: list[tuple[str, Callable[[AsyncSessionManager], Awaitable[Any]]]] = [
    ("create", lambda sessions: sessions.create_session(Session(id="new", user_id="ada"))),
    ("create over an expired one", lambda sessions: sessions.create_session(Session(id="old", user_id="eve"))),
    ("update", lambda sessions: sessions.update_session(Session(id="s1", user_id="eve"))),
    ("touch", lambda sessions: sessions.touch("s1")),
    ("patch", lambda sessions: sessions.patch("s1", {"b": 2})),
    ("delete", lambda sessions: sessions.delete_session("s1")),
    ("clean up", lambda sessions: sessions.delete_expired()),
]
ALL_ROWS = "SELECT * FROM holdfast_sessions ORDER BY tenant_id, id"


@pytest.mark.parametrize("write", [write for _, write in WRITERS], ids=[name for name, _ in WRITERS])
async def test_a_write_joins_the_transaction_it_is_called_in(
    manager: AsyncDatabaseManager,
    sessions: AsyncSessionManager,
    elsewhere: AsyncSessionManager,
    database: AsyncDatabase,
    write: Callable[[AsyncSessionManager], Awaitable[Any]],
) -> None:
    other = manager.get_database(elsewhere._name)
    await sessions.create_session(Session(id="s1", user_id="ada", metadata={"a": 1}))
    await sessions.create_session(Session(id="old", user_id="ada"))
    await expire(database, "old")
    before = await other.fetch_all(ALL_ROWS)

    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            await write(sessions)
            changed = await database.fetch_all(ALL_ROWS)
            if other is not database:
                assert await other.fetch_all(ALL_ROWS) == before
            _ = 1 / 0
    assert changed != before
    assert await other.fetch_all(ALL_ROWS) == before

    async with database.transaction():
        await write(sessions)
        changed = await database.fetch_all(ALL_ROWS)
    assert await other.fetch_all(ALL_ROWS) == changed != before


async def test_a_refusal_does_not_fail_the_transaction_it_is_in(
    sessions: AsyncSessionManager, elsewhere: AsyncSessionManager, database: AsyncDatabase
) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada"))
    async with database.transaction():
        with pytest.raises(DuplicateError):
            await sessions.create_session(Session(id="s1", user_id="ada"))
        with pytest.raises(NotFoundError):
            await sessions.get_session("nix")
        with pytest.raises(ConflictError):
            await sessions.patch("s1", {"a": 1}, expected_version=7)
        with pytest.raises(ValidationError):
            await sessions.patch("s1", {"a": "\0"})
        await sessions.patch("s1", {"a": 2})
    assert (await elsewhere.get_session("s1")).metadata == {"a": 2}


async def test_each_call_is_one_statement(manager: AsyncDatabaseManager, sessions: AsyncSessionManager) -> None:
    await teach(manager)
    await sessions.create_session(Session(id="s1", user_id="ada"))
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: sessions.create_session(Session(id="s2", user_id="ada"), ttl=60, sliding=True),
        lambda: sessions.get_session("s1"),
        lambda: sessions.update_session(Session(id="s1", user_id="ada", version=1)),
        lambda: sessions.touch("s1"),
        lambda: sessions.patch("s1", {"a": 1}, expected_version=2),
        lambda: sessions.list_user_sessions("ada"),
        lambda: sessions.delete_expired(),
        lambda: sessions.delete_session("s1"),
    ]
    for call in calls:
        before = manager.stats()["main"].requests
        await call()
        assert manager.stats()["main"].requests - before == 1


async def test_a_closed_manager_is_a_clear_error(manager: AsyncDatabaseManager, sessions: AsyncSessionManager) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada"))
    await manager.aclose()
    for _, call in ON_ONE + WRITERS:
        with pytest.raises(ClosedError):
            await call(sessions)
    with pytest.raises(ClosedError):
        await sessions.list_user_sessions("ada")
    with pytest.raises(ClosedError):
        AsyncSessionManager(manager, "main")


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
async def test_any_text_is_an_id(
    manager: AsyncDatabaseManager, sessions: AsyncSessionManager, elsewhere: AsyncSessionManager, text: str
) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada"))
    for store in (sessions, AsyncSessionManager(manager, "main", tenant=text.encode()[:512].decode(errors="ignore"))):
        stored = await store.create_session(Session(id=text, user_id=text, title=text, metadata={text: text}))
        assert (stored.id, stored.user_id, stored.title, stored.metadata) == (text, text, text, {text: text})
        assert await store.list_user_sessions(text) == [stored]
        assert await store.list_user_sessions(text, after=stored.cursor) == []
        assert (await store.patch(text, {text: None})).metadata == {}
    assert (await elsewhere.get_session(text)).id == text
    assert await sessions.delete_session(text) is True
    assert (await elsewhere.get_session("s1")).user_id == "ada"


@pytest.mark.parametrize("text", BAD_TEXTS, ids=range(len(BAD_TEXTS)))
async def test_a_text_that_cannot_be_an_id_is_refused_before_anything_is_sent(
    manager: AsyncDatabaseManager, sessions: AsyncSessionManager, text: Any
) -> None:
    before = manager.stats()["main"].requests
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: sessions.create_session(Session(id=text, user_id="ada")),
        lambda: sessions.create_session(Session(user_id=text)),
        lambda: sessions.update_session(Session(id=text, user_id="ada")),
        lambda: sessions.update_session(Session(id="s1", user_id=text)),
        lambda: sessions.get_session(text),
        lambda: sessions.touch(text),
        lambda: sessions.patch(text, {}),
        lambda: sessions.delete_session(text),
        lambda: sessions.list_user_sessions(text),
    ]
    if text != "":
        calls.append(lambda: sessions.create_session(Session(user_id="ada", title=text)))
    for call in calls:
        with pytest.raises(ValidationError):
            await call()
    with pytest.raises(ValidationError):
        AsyncSessionManager(manager, "main", tenant=text)
    assert manager.stats()["main"].requests == before


async def test_an_id_that_is_too_long_is_told_the_limit(sessions: AsyncSessionManager) -> None:
    with pytest.raises(ValidationError, match="10,000 bytes in UTF-8, more than the limit of 1,024"):
        await sessions.get_session("x" * 10_000)


@pytest.mark.parametrize("metadata", BAD_METADATA, ids=range(len(BAD_METADATA)))
async def test_metadata_that_would_not_come_back_is_refused_before_anything_is_sent(
    manager: AsyncDatabaseManager, sessions: AsyncSessionManager, metadata: Any
) -> None:
    before = manager.stats()["main"].requests
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: sessions.create_session(Session(user_id="ada", metadata=metadata)),
        lambda: sessions.update_session(Session(id="s1", user_id="ada", metadata=metadata)),
        lambda: sessions.patch("s1", metadata),
    ]
    for call in calls:
        with pytest.raises(ValidationError):
            await call()
    assert manager.stats()["main"].requests == before


async def test_metadata_as_deep_as_the_limit_comes_back_and_deeper_is_refused(sessions: AsyncSessionManager) -> None:
    deep: Any = 1
    for _ in range(99):
        deep = [deep]
    await sessions.create_session(Session(id="s1", user_id="ada", metadata={"deep": deep}))
    assert (await sessions.patch("s1", {"a": 1})).metadata == {"deep": deep, "a": 1}
    with pytest.raises(ValidationError, match="100 levels"):
        await sessions.patch("s1", {"deep": [deep]})
    circular: dict[str, Any] = {}
    circular["self"] = [circular, circular]
    with pytest.raises(ValidationError, match="100 levels"):
        await sessions.patch("s1", circular)


async def test_metadata_of_a_megabyte_comes_back(sessions: AsyncSessionManager) -> None:
    metadata = {"text": "é\n\U0001f9f6" * 150_000, "numbers": list(range(10_000))}
    await sessions.create_session(Session(id="s1", user_id="ada", metadata=metadata))
    assert (await sessions.get_session("s1")).metadata == metadata


BAD_LIVES: list[dict[str, Any]] = [
    {"ttl": 0},
    {"ttl": -1},
    {"ttl": 1e-9},
    {"ttl": float("nan")},
    {"ttl": float("inf")},
    {"ttl": 1e300},
    {"ttl": timedelta(0)},
    {"ttl": timedelta.max},
    {"ttl": True},
    {"ttl": "3600"},
    {"sliding": True},
]


@pytest.mark.parametrize("options", BAD_LIVES, ids=str)
async def test_a_time_to_live_that_makes_no_sense_is_refused(
    manager: AsyncDatabaseManager, sessions: AsyncSessionManager, options: dict[str, Any]
) -> None:
    before = manager.stats()["main"].requests
    with pytest.raises(ValidationError):
        await sessions.create_session(Session(user_id="ada"), **options)
    assert manager.stats()["main"].requests == before


async def test_an_expiry_that_makes_no_sense_is_refused(sessions: AsyncSessionManager) -> None:
    naive = datetime(2030, 1, 1)  # noqa: DTZ001 - the point
    moments: list[Any] = [naive, datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC), 0, "2030"]
    for moment in moments:
        with pytest.raises(ValidationError, match="expires_at"):
            await sessions.create_session(Session(user_id="ada", expires_at=moment))
    for window in (timedelta(0), -HOUR, timedelta.max, 3600):
        wrong: Any = window
        with pytest.raises(ValidationError, match="sliding"):
            await sessions.create_session(Session(user_id="ada", sliding=wrong))
    with pytest.raises(ValidationError, match="ttl"):
        await sessions.create_session(Session(user_id="ada", expires_at=datetime.now(UTC) + HOUR), ttl=60)
    last = datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert (await sessions.create_session(Session(user_id="ada", expires_at=last))).expires_at == last


async def test_what_is_no_record_version_or_limit_is_refused(sessions: AsyncSessionManager) -> None:
    wrong: list[Any] = [None, {"id": "s1"}, "s1"]
    for record in wrong:
        with pytest.raises(ValidationError):
            await sessions.create_session(record)
        with pytest.raises(ValidationError):
            await sessions.update_session(record)
    for version in ("1", 1.0, True, -1, 2**63):
        given: Any = version
        with pytest.raises(ValidationError):
            await sessions.patch("s1", {}, expected_version=given)
        with pytest.raises(ValidationError):
            await sessions.update_session(Session(id="s1", user_id="ada", version=given))
    for limit in (0, -1, 10_001, 2**70, True, 1.0, "1", None):
        given = limit
        with pytest.raises(ValidationError, match="limit"):
            await sessions.list_user_sessions("ada", limit=given)
        with pytest.raises(ValidationError, match="limit"):
            await sessions.delete_expired(limit=given)


async def test_activity_never_goes_back_when_the_clock_does(
    sessions: AsyncSessionManager, database: AsyncDatabase
) -> None:
    await sessions.create_session(Session(id="s1", user_id="ada"))
    ahead = datetime.now(UTC) + HOUR
    await database.execute("UPDATE holdfast_sessions SET updated_at = :moment", {"moment": ahead})
    assert (await sessions.touch("s1")).updated_at == ahead
    assert (await sessions.patch("s1", {})).updated_at == ahead
    assert (await sessions.update_session(Session(id="s1", user_id="ada"))).updated_at == ahead


@pytest.mark.tables
async def test_without_migrate_a_missing_table_is_told_by_its_migration(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    with pytest.raises(MigrationError, match="sessions/0001"):
        await AsyncSessionManager(manager, "main", migrate=False).get_session("s1")


async def test_touching_a_sliding_session_is_a_hot_update(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = await manager.add_postgresql("main", postgresql_config)
    sessions = AsyncSessionManager(manager, "main")
    await sessions.create_session(Session(id="s1", user_id="ada"), ttl=3600, sliding=True)
    async with database.transaction():
        for _ in range(20):
            await sessions.touch("s1")
        row = await database.fetch_one(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'holdfast_sessions'"
        )
    assert row is not None
    assert row["n_tup_upd"] == 20
    assert row["n_tup_hot_upd"] >= 19  # one of them may fall into the next slot of five minutes


WHERE: list[tuple[dict[str, Any], list[str]]] = [
    ({"kind": "chat"}, ["both", "chat"]),
    ({"kind": "chat", "n": 1}, ["both"]),
    ({"n": 1.0}, ["one", "both"]),
    ({"n": True}, ["true"]),
    ({"n": None}, ["none"]),
    ({"n": "1"}, ["text"]),
    ({"nix": None}, []),
    ({'a"b.c$': "'; --"}, ["odd"]),
    ({"big": 2**62}, ["big"]),
    ({"big": 2**62 + 1}, []),
    ({"nested": 1}, []),
]


async def test_a_listing_may_be_of_those_whose_metadata_has_some_values(sessions: AsyncSessionManager) -> None:
    stored: dict[str, dict[str, Any]] = {
        "chat": {"kind": "chat"},
        "both": {"kind": "chat", "n": 1, "more": []},
        "one": {"n": 1},
        "true": {"n": True},
        "none": {"n": None},
        "text": {"n": "1"},
        "odd": {'a"b.c$': "'; --"},
        "big": {"big": 2**62},
        "deep": {"deep": {"nested": 1}, "list": ["kind", "chat"]},
        "empty": {},
    }
    for name, metadata in stored.items():
        await sessions.create_session(Session(id=name, user_id="ada", metadata=metadata))
    for where, expected in WHERE:
        found = await sessions.list_user_sessions("ada", where=where)
        assert [session.id for session in found] == expected
    first = await sessions.list_user_sessions("ada", where={"kind": "chat"}, limit=1)
    rest = await sessions.list_user_sessions("ada", where={"kind": "chat"}, after=first[0].cursor)
    assert [session.id for session in first + rest] == ["both", "chat"]
    wrong: Any
    for wrong in (
        {},
        [],
        "x",
        {1: 2},
        {"a": []},
        {"a": {}},
        {"a": float("nan")},
        {"a": "\0"},
        dict.fromkeys(map(str, range(33))),
    ):
        with pytest.raises(ValidationError):
            await sessions.list_user_sessions("ada", where=wrong)
