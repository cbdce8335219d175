# Generated from ../_async/test_sessions.py by tests/unasync.py: edit that one.
"""The contract of sessions: what is stored, who wins, what has expired, what is refused."""

from __future__ import annotations

import random
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
    MigrationError,
    NotFoundError,
    PersistenceError,
    PostgreSQLConfig,
    ValidationError,
)
from persistence._sync.compat import Parallel
from persistence.dialect import from_json
from persistence.queries import load_queries
from sessions import SessionManager, Session
from tests._sync.redis_contract import teach

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


@pytest.fixture
def sessions(manager: DatabaseManager, database: Database) -> SessionManager:
    return SessionManager(manager, "main")


@pytest.fixture
def elsewhere(manager: DatabaseManager, database: Database) -> SessionManager:
    """The same sessions through a second connection; a database in memory has only the one."""
    if isinstance(database, PostgreSQLDatabase):
        manager.add_postgresql("elsewhere", database.config)
    elif isinstance(database, SQLiteDatabase) and database.config.path != ":memory:":
        manager.add_sqlite("elsewhere", database.config)
    else:
        return SessionManager(manager, "main")
    return SessionManager(manager, "elsewhere")


@pytest.fixture
def parallel() -> Iterator[Parallel]:
    made = Parallel()
    yield made
    made.close()


def outcome(call: Callable[[], Session]) -> Session | PersistenceError:
    try:
        return call()
    except PersistenceError as exc:
        return exc


def expire(database: Database, session_id: str, *, ago: timedelta = timedelta(seconds=1)) -> None:
    changed = database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment WHERE id = :id",
        {"moment": datetime.now(UTC) - ago, "id": session_id},
    )
    assert changed == 1


def ids_stored(database: Database) -> list[str]:
    return [row["id"] for row in database.fetch_all("SELECT id FROM holdfast_sessions ORDER BY id")]


def test_a_new_session_comes_back_as_it_is_stored(
    sessions: SessionManager, elsewhere: SessionManager
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    given = Session(id="s1", user_id="ada", title="Bridges", metadata={"lang": "en", "tags": ["a", 1, None]})
    stored = sessions.create_session(given)
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
    assert sessions.get_session("s1") == stored
    assert elsewhere.get_session("s1") == stored


def test_the_columns_hold_what_was_given(sessions: SessionManager, database: Database) -> None:
    metadata = {"é": {"n": [1, 2.5, -3]}, "t": True, "z": None}
    stored = sessions.create_session(Session(id="s1", user_id="ada", metadata=metadata), ttl=90.5, sliding=True)
    row = database.fetch_one("SELECT * FROM holdfast_sessions")
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


def test_an_id_left_out_is_a_new_uuid_of_version_7(sessions: SessionManager) -> None:
    made = [sessions.create_session(Session(user_id="ada")) for _ in range(20)]
    untyped: Any = None
    made.append(sessions.create_session(Session(id=untyped, user_id="ada")))
    assert len({session.id for session in made}) == 21
    assert {UUID(session.id).version for session in made} == {7}
    stamps = [UUID(session.id).int >> 80 for session in made]
    assert stamps == sorted(stamps)
    assert abs(stamps[0] / 1000 - made[0].created_at.timestamp()) < 60


def test_an_id_that_is_taken_is_a_duplicate_and_nothing_changes(
    sessions: SessionManager, elsewhere: SessionManager
) -> None:
    first = sessions.create_session(Session(id="s1", user_id="ada", metadata={"a": 1}))
    with pytest.raises(DuplicateError, match="'s1'") as caught:
        sessions.create_session(Session(id="s1", user_id="bob"))
    assert caught.value.connection == "main"
    assert caught.value.hint
    assert elsewhere.get_session("s1") == first


def test_an_update_replaces_what_the_record_holds(
    sessions: SessionManager, elsewhere: SessionManager
) -> None:
    first = sessions.create_session(Session(id="s1", user_id="ada", title="t", metadata={"a": 1, "b": 2}))
    end = datetime.now(UTC).replace(microsecond=123456) + HOUR
    changed = replace(first, user_id="bob", title=None, metadata={"c": [3]}, expires_at=end)
    stored = sessions.update_session(changed)
    assert stored == replace(changed, version=2, updated_at=stored.updated_at)
    assert stored.updated_at > first.updated_at
    assert elsewhere.get_session("s1") == stored


def test_the_times_of_a_record_are_not_stored(sessions: SessionManager) -> None:
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    first = sessions.create_session(Session(id="s1", user_id="ada", created_at=long_ago, updated_at=long_ago))
    assert first.created_at == first.updated_at > long_ago
    second = sessions.update_session(replace(first, created_at=long_ago, updated_at=long_ago))
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


def test_a_record_that_was_read_cannot_overwrite_a_later_change(
    sessions: SessionManager, elsewhere: SessionManager
) -> None:
    read = sessions.create_session(Session(id="s1", user_id="ada"))
    theirs = elsewhere.update_session(replace(read, title="theirs"))
    with pytest.raises(ConflictError, match=r"'s1' has version 2, not 1") as caught:
        sessions.update_session(replace(read, title="mine"))
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert elsewhere.get_session("s1") == theirs


def test_the_expected_version_given_wins_over_the_records_own(sessions: SessionManager) -> None:
    read = sessions.create_session(Session(id="s1", user_id="ada"))
    sessions.update_session(read)
    assert (sessions.update_session(replace(read, title="2"), expected_version=2)).version == 3
    with pytest.raises(ConflictError):
        sessions.update_session(replace(read, version=3), expected_version=2)
    overwritten = sessions.update_session(replace(read, title="anyway", version=None))
    assert (overwritten.title, overwritten.version) == ("anyway", 4)


def test_of_concurrent_updates_of_one_version_one_wins(sessions: SessionManager, parallel: Parallel) -> None:
    read = sessions.create_session(Session(id="s1", user_id="ada"))
    changes = [partial(sessions.update_session, replace(read, title=str(number))) for number in range(16)]
    results = parallel.run([partial(outcome, change) for change in changes])
    won = [result for result in results if isinstance(result, Session)]
    lost = [result for result in results if isinstance(result, ConflictError)]
    assert (len(won), len(lost)) == (1, 15)
    assert {(error.expected, error.actual) for error in lost} == {(1, 2)}
    assert sessions.get_session("s1") == won[0]


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
def test_a_patch_merges_at_the_top_level(
    sessions: SessionManager,
    elsewhere: SessionManager,
    before: dict[str, Any],
    patch: dict[str, Any],
    after: dict[str, Any],
) -> None:
    created = sessions.create_session(Session(id="s1", user_id="ada", title="t", metadata=before))
    patched = sessions.patch("s1", patch)
    assert patched == replace(created, metadata=after, version=2, updated_at=patched.updated_at)
    assert elsewhere.get_session("s1") == patched


def test_any_sequence_of_patches_gives_what_the_standard_says(sessions: SessionManager) -> None:
    chance = random.Random(20)
    values = [None, True, 0, -1.5, 2**60, "", "}", ',"', "\U0001f9f6", [], [None, {"a": None}], {}, {"a": {"b": None}}]
    expected: dict[str, Any] = {}
    sessions.create_session(Session(id="s1", user_id="ada"))
    for _ in range(200):
        keys = chance.sample(["", "a", "b", "c", '"', "\\u0061", "é", "$.a", "0", "\n"], chance.randint(0, 4))
        patch = {key: chance.choice(values) for key in keys}
        expected = {key: value for key, value in {**expected, **patch}.items() if value is not None}
        assert (sessions.patch("s1", patch)).metadata == expected
    assert (sessions.get_session("s1")).metadata == expected


def test_of_sixteen_writers_of_different_keys_none_is_lost(
    sessions: SessionManager, elsewhere: SessionManager, parallel: Parallel
) -> None:
    sessions.create_session(Session(id="s1", user_id="ada", metadata={"kept": True}))

    def write(writer: int) -> None:
        for turn in range(5):
            sessions.patch("s1", {f"writer {writer}": turn})

    parallel.run([partial(write, writer) for writer in range(16)])
    found = elsewhere.get_session("s1")
    assert found.metadata == {"kept": True, **{f"writer {writer}": 4 for writer in range(16)}}
    assert found.version == 81


def test_a_patch_of_another_version_than_expected_changes_nothing(sessions: SessionManager) -> None:
    sessions.create_session(Session(id="s1", user_id="ada"))
    second = sessions.patch("s1", {"a": 1}, expected_version=1)
    with pytest.raises(ConflictError) as caught:
        sessions.patch("s1", {"a": 2}, expected_version=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert sessions.get_session("s1") == second


def test_touching_records_activity_and_leaves_the_version(sessions: SessionManager) -> None:
    created = sessions.create_session(Session(id="s1", user_id="ada", metadata={"a": 1}))
    touched = sessions.touch("s1")
    assert touched == replace(created, updated_at=touched.updated_at)
    assert touched.updated_at > created.updated_at
    assert sessions.get_session("s1") == touched
    assert (sessions.update_session(replace(created, title="still version 1"))).version == 2


@pytest.mark.parametrize("ttl", [3600, 3600.0, HOUR], ids=["int", "float", "timedelta"])
def test_a_ttl_ends_a_session_that_long_after_its_creation(sessions: SessionManager, ttl: Any) -> None:
    session = sessions.create_session(Session(id="s1", user_id="ada"), ttl=ttl)
    assert session.expires_at == session.created_at + HOUR
    assert session.sliding is None
    assert (sessions.touch("s1")).expires_at == session.expires_at
    assert (sessions.patch("s1", {"a": 1})).expires_at == session.expires_at


@pytest.mark.parametrize("own", [True, False], ids=["in the record", "by arguments"])
def test_a_sliding_end_moves_with_each_touch_patch_and_update(
    sessions: SessionManager, database: Database, own: bool
) -> None:
    if own:
        session = sessions.create_session(Session(id="s1", user_id="ada", sliding=HOUR))
    else:
        session = sessions.create_session(Session(id="s1", user_id="ada"), ttl=HOUR, sliding=True)
    assert session.expires_at == session.created_at + HOUR
    assert session.sliding == HOUR
    renewals: list[Callable[[], Session]] = [
        partial(sessions.touch, "s1"),
        partial(sessions.patch, "s1", {"a": 1}),
        partial(sessions.update_session, replace(session, version=None)),
    ]
    for renew in renewals:
        expire(database, "s1", ago=-timedelta(minutes=1))
        renewed = renew()
        assert renewed.expires_at is not None
        assert abs(renewed.expires_at - renewed.updated_at - HOUR) < timedelta(seconds=1)
        assert sessions.get_session("s1") == renewed


def test_an_update_can_end_an_expiry_or_set_one(sessions: SessionManager) -> None:
    session = sessions.create_session(Session(id="s1", user_id="ada"), ttl=60, sliding=True)
    kept = sessions.update_session(replace(session, sliding=None, expires_at=None))
    assert (kept.expires_at, kept.sliding) == (None, None)
    assert (sessions.touch("s1")).expires_at is None
    sessions.update_session(replace(kept, expires_at=datetime.now(UTC) - HOUR))
    with pytest.raises(NotFoundError):
        sessions.get_session("s1")


ON_ONE: list[tuple[str, Callable[[SessionManager], Any]]] = [
    ("get", lambda sessions: sessions.get_session("s1")),
    ("touch", lambda sessions: sessions.touch("s1")),
    ("patch", lambda sessions: sessions.patch("s1", {"a": 1})),
    ("patch a version", lambda sessions: sessions.patch("s1", {"a": 1}, expected_version=1)),
    ("update", lambda sessions: sessions.update_session(Session(id="s1", user_id="ada"))),
    ("update a version", lambda sessions: sessions.update_session(Session(id="s1", user_id="ada", version=1))),
]


@pytest.mark.parametrize("call", [call for _, call in ON_ONE], ids=[name for name, _ in ON_ONE])
def test_a_session_that_has_expired_cannot_be_told_from_one_that_never_was(
    sessions: SessionManager,
    database: Database,
    call: Callable[[SessionManager], Any],
) -> None:
    with pytest.raises(NotFoundError, match="'s1'") as never:
        call(sessions)
    sessions.create_session(Session(id="s1", user_id="ada", sliding=HOUR))
    expire(database, "s1")
    with pytest.raises(NotFoundError) as expired:
        call(sessions)
    assert str(expired.value) == str(never.value)
    assert ids_stored(database) == ["s1"]


def test_a_session_that_has_expired_is_neither_listed_nor_deleted_but_goes(
    sessions: SessionManager, database: Database
) -> None:
    sessions.create_session(Session(id="s1", user_id="ada"))
    expire(database, "s1")
    assert sessions.list_user_sessions("ada") == []
    assert sessions.delete_session("s1") is False
    assert ids_stored(database) == []


def test_a_session_is_expired_from_the_very_moment_on(
    sessions: SessionManager, database: Database
) -> None:
    sessions.create_session(Session(id="s1", user_id="ada"))
    # Statements that are sent together have the same statement_timestamp().
    now, later = "statement_timestamp()", "statement_timestamp() + INTERVAL '1 microsecond'"
    if database.kind == "sqlite":
        now, later = "1000", "1001"
    query = load_queries("sessions", database.kind).get_session
    query = query.replace(":tenant", "'default'").replace(":id", "'s1'").replace(":now", now)
    found = {}
    for end in (now, later):
        with database.transaction() as transaction:
            transaction.script(
                f"UPDATE holdfast_sessions SET expires_at = {end}; CREATE TABLE seen AS {query}; SELECT 1"
            )
            found[end] = transaction.fetch_value("SELECT count(*) FROM seen")
            transaction.script("DROP TABLE seen")
    assert found == {now: 0, later: 1}


def test_the_id_of_an_expired_session_can_be_used_again(
    sessions: SessionManager, elsewhere: SessionManager, database: Database
) -> None:
    sessions.create_session(Session(id="s1", user_id="ada", metadata={"old": 1}), ttl=60)
    expire(database, "s1")
    new = sessions.create_session(Session(id="s1", user_id="bob"))
    assert (new.user_id, new.metadata, new.version, new.expires_at) == ("bob", {}, 1, None)
    assert elsewhere.get_session("s1") == new
    assert sessions.list_user_sessions("ada") == []


def test_of_concurrent_creations_over_an_expired_session_one_wins(
    sessions: SessionManager, database: Database, parallel: Parallel
) -> None:
    sessions.create_session(Session(id="s1", user_id="ada"))
    expire(database, "s1")
    attempts = [partial(sessions.create_session, Session(id="s1", user_id=str(number))) for number in range(16)]
    results = parallel.run([partial(outcome, attempt) for attempt in attempts])
    won = [result for result in results if isinstance(result, Session)]
    assert len(won) == 1
    assert [result.code for result in results if isinstance(result, DuplicateError)] == ["23505"] * 15
    assert sessions.get_session("s1") == won[0]


def test_cleaning_up_deletes_the_longest_expired_first_and_nothing_else(
    sessions: SessionManager, database: Database
) -> None:
    for number in range(5):
        sessions.create_session(Session(id=f"s{number}", user_id="ada"))
        expire(database, f"s{number}", ago=(number + 1) * HOUR)
    sessions.create_session(Session(id="later", user_id="ada"), ttl=3600)
    sessions.create_session(Session(id="never", user_id="ada"))
    assert sessions.delete_expired(limit=2) == 2
    assert ids_stored(database) == ["later", "never", "s0", "s1", "s2"]
    assert sessions.delete_expired() == 3
    assert sessions.delete_expired() == 0
    assert ids_stored(database) == ["later", "never"]


def test_deleting_tells_whether_it_was_there(
    sessions: SessionManager, elsewhere: SessionManager
) -> None:
    sessions.create_session(Session(id="s1", user_id="ada"))
    sessions.create_session(Session(id="s2", user_id="ada"))
    assert sessions.delete_session("s1") is True
    assert sessions.delete_session("s1") is False
    with pytest.raises(NotFoundError):
        elsewhere.get_session("s1")
    assert (elsewhere.get_session("s2")).id == "s2"


def test_a_users_sessions_are_listed_by_their_newest_activity(sessions: SessionManager) -> None:
    for name in ("a", "b", "c", "d"):
        sessions.create_session(Session(id=name, user_id="ada"))
    sessions.create_session(Session(id="x", user_id="bob"))
    sessions.touch("b")
    sessions.patch("a", {"k": 1})
    listed = sessions.list_user_sessions("ada")
    assert [session.id for session in listed] == ["a", "b", "d", "c"]
    assert listed == [sessions.get_session(session.id) for session in listed]
    assert [session.id for session in sessions.list_user_sessions("ada", limit=2)] == ["a", "b"]
    assert sessions.list_user_sessions("nobody") == []


def test_pages_show_each_session_once_also_those_of_one_moment(
    sessions: SessionManager, database: Database
) -> None:
    names = [f"s{number:02}" for number in range(20)] + ["é", "Z", "\U0001f9f6", ":1"]
    for name in names:
        sessions.create_session(Session(id=name, user_id="ada"))
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    database.execute("UPDATE holdfast_sessions SET updated_at = :moment", {"moment": moment})
    sessions.touch("s07")
    found: list[str] = []
    after = None
    while page := sessions.list_user_sessions("ada", limit=7, after=after):
        assert len(page) <= 7
        found += [session.id for session in page]
        after = page[-1].cursor
    assert found == ["s07", *sorted(set(names) - {"s07"}, reverse=True)]


@pytest.mark.parametrize("after", ["", "x", "====", "a b", "é", "MTIz", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OjE", 7, b"x"])
def test_a_cursor_that_no_listing_gave_is_refused(sessions: SessionManager, after: Any) -> None:
    with pytest.raises(ValidationError, match="cursor"):
        sessions.list_user_sessions("ada", after=after)


def test_tenants_with_equal_ids_never_meet(
    manager: DatabaseManager, sessions: SessionManager, database: Database
) -> None:
    ours = sessions.create_session(Session(id="s1", user_id="ada", metadata={"whose": "ours"}))
    others = SessionManager(manager, "main", tenant="others")
    with pytest.raises(NotFoundError):
        others.get_session("s1")
    assert others.list_user_sessions("ada") == []
    assert others.delete_session("s1") is False
    theirs = others.create_session(Session(id="s1", user_id="ada", metadata={"whose": "theirs"}))
    theirs = others.patch("s1", {"n": 1})
    theirs = others.touch("s1")
    theirs = others.update_session(replace(theirs, title="theirs"))
    assert sessions.get_session("s1") == ours
    assert sessions.list_user_sessions("ada") == [ours]
    database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment WHERE tenant_id = 'others'",
        {"moment": datetime.now(UTC) - HOUR},
    )
    assert sessions.delete_expired() == 0
    assert others.delete_expired() == 1
    assert sessions.get_session("s1") == ours


WRITERS: list[tuple[str, Callable[[SessionManager], Any]]] = [
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
def test_a_write_joins_the_transaction_it_is_called_in(
    manager: DatabaseManager,
    sessions: SessionManager,
    elsewhere: SessionManager,
    database: Database,
    write: Callable[[SessionManager], Any],
) -> None:
    other = manager.get_database(elsewhere._name)
    sessions.create_session(Session(id="s1", user_id="ada", metadata={"a": 1}))
    sessions.create_session(Session(id="old", user_id="ada"))
    expire(database, "old")
    before = other.fetch_all(ALL_ROWS)

    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            write(sessions)
            changed = database.fetch_all(ALL_ROWS)
            if other is not database:
                assert other.fetch_all(ALL_ROWS) == before
            _ = 1 / 0
    assert changed != before
    assert other.fetch_all(ALL_ROWS) == before

    with database.transaction():
        write(sessions)
        changed = database.fetch_all(ALL_ROWS)
    assert other.fetch_all(ALL_ROWS) == changed != before


def test_a_refusal_does_not_fail_the_transaction_it_is_in(
    sessions: SessionManager, elsewhere: SessionManager, database: Database
) -> None:
    sessions.create_session(Session(id="s1", user_id="ada"))
    with database.transaction():
        with pytest.raises(DuplicateError):
            sessions.create_session(Session(id="s1", user_id="ada"))
        with pytest.raises(NotFoundError):
            sessions.get_session("nix")
        with pytest.raises(ConflictError):
            sessions.patch("s1", {"a": 1}, expected_version=7)
        with pytest.raises(ValidationError):
            sessions.patch("s1", {"a": "\0"})
        sessions.patch("s1", {"a": 2})
    assert (elsewhere.get_session("s1")).metadata == {"a": 2}


def test_each_call_is_one_statement(manager: DatabaseManager, sessions: SessionManager) -> None:
    teach(manager)
    sessions.create_session(Session(id="s1", user_id="ada"))
    calls: list[Callable[[], Any]] = [
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
        call()
        assert manager.stats()["main"].requests - before == 1


def test_a_closed_manager_is_a_clear_error(manager: DatabaseManager, sessions: SessionManager) -> None:
    sessions.create_session(Session(id="s1", user_id="ada"))
    manager.close()
    for _, call in ON_ONE + WRITERS:
        with pytest.raises(ClosedError):
            call(sessions)
    with pytest.raises(ClosedError):
        sessions.list_user_sessions("ada")
    with pytest.raises(ClosedError):
        SessionManager(manager, "main")


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_any_text_is_an_id(
    manager: DatabaseManager, sessions: SessionManager, elsewhere: SessionManager, text: str
) -> None:
    sessions.create_session(Session(id="s1", user_id="ada"))
    for store in (sessions, SessionManager(manager, "main", tenant=text.encode()[:512].decode(errors="ignore"))):
        stored = store.create_session(Session(id=text, user_id=text, title=text, metadata={text: text}))
        assert (stored.id, stored.user_id, stored.title, stored.metadata) == (text, text, text, {text: text})
        assert store.list_user_sessions(text) == [stored]
        assert store.list_user_sessions(text, after=stored.cursor) == []
        assert (store.patch(text, {text: None})).metadata == {}
    assert (elsewhere.get_session(text)).id == text
    assert sessions.delete_session(text) is True
    assert (elsewhere.get_session("s1")).user_id == "ada"


@pytest.mark.parametrize("text", BAD_TEXTS, ids=range(len(BAD_TEXTS)))
def test_a_text_that_cannot_be_an_id_is_refused_before_anything_is_sent(
    manager: DatabaseManager, sessions: SessionManager, text: Any
) -> None:
    before = manager.stats()["main"].requests
    calls: list[Callable[[], Any]] = [
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
            call()
    with pytest.raises(ValidationError):
        SessionManager(manager, "main", tenant=text)
    assert manager.stats()["main"].requests == before


def test_an_id_that_is_too_long_is_told_the_limit(sessions: SessionManager) -> None:
    with pytest.raises(ValidationError, match="10,000 bytes in UTF-8, more than the limit of 1,024"):
        sessions.get_session("x" * 10_000)


@pytest.mark.parametrize("metadata", BAD_METADATA, ids=range(len(BAD_METADATA)))
def test_metadata_that_would_not_come_back_is_refused_before_anything_is_sent(
    manager: DatabaseManager, sessions: SessionManager, metadata: Any
) -> None:
    before = manager.stats()["main"].requests
    calls: list[Callable[[], Any]] = [
        lambda: sessions.create_session(Session(user_id="ada", metadata=metadata)),
        lambda: sessions.update_session(Session(id="s1", user_id="ada", metadata=metadata)),
        lambda: sessions.patch("s1", metadata),
    ]
    for call in calls:
        with pytest.raises(ValidationError):
            call()
    assert manager.stats()["main"].requests == before


def test_metadata_as_deep_as_the_limit_comes_back_and_deeper_is_refused(sessions: SessionManager) -> None:
    deep: Any = 1
    for _ in range(99):
        deep = [deep]
    sessions.create_session(Session(id="s1", user_id="ada", metadata={"deep": deep}))
    assert (sessions.patch("s1", {"a": 1})).metadata == {"deep": deep, "a": 1}
    with pytest.raises(ValidationError, match="100 levels"):
        sessions.patch("s1", {"deep": [deep]})
    circular: dict[str, Any] = {}
    circular["self"] = [circular, circular]
    with pytest.raises(ValidationError, match="100 levels"):
        sessions.patch("s1", circular)


def test_metadata_of_a_megabyte_comes_back(sessions: SessionManager) -> None:
    metadata = {"text": "é\n\U0001f9f6" * 150_000, "numbers": list(range(10_000))}
    sessions.create_session(Session(id="s1", user_id="ada", metadata=metadata))
    assert (sessions.get_session("s1")).metadata == metadata


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
def test_a_time_to_live_that_makes_no_sense_is_refused(
    manager: DatabaseManager, sessions: SessionManager, options: dict[str, Any]
) -> None:
    before = manager.stats()["main"].requests
    with pytest.raises(ValidationError):
        sessions.create_session(Session(user_id="ada"), **options)
    assert manager.stats()["main"].requests == before


def test_an_expiry_that_makes_no_sense_is_refused(sessions: SessionManager) -> None:
    naive = datetime(2030, 1, 1)  # noqa: DTZ001 - the point
    moments: list[Any] = [naive, datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC), 0, "2030"]
    for moment in moments:
        with pytest.raises(ValidationError, match="expires_at"):
            sessions.create_session(Session(user_id="ada", expires_at=moment))
    for window in (timedelta(0), -HOUR, timedelta.max, 3600):
        wrong: Any = window
        with pytest.raises(ValidationError, match="sliding"):
            sessions.create_session(Session(user_id="ada", sliding=wrong))
    with pytest.raises(ValidationError, match="ttl"):
        sessions.create_session(Session(user_id="ada", expires_at=datetime.now(UTC) + HOUR), ttl=60)
    last = datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert (sessions.create_session(Session(user_id="ada", expires_at=last))).expires_at == last


def test_what_is_no_record_version_or_limit_is_refused(sessions: SessionManager) -> None:
    wrong: list[Any] = [None, {"id": "s1"}, "s1"]
    for record in wrong:
        with pytest.raises(ValidationError):
            sessions.create_session(record)
        with pytest.raises(ValidationError):
            sessions.update_session(record)
    for version in ("1", 1.0, True, -1, 2**63):
        given: Any = version
        with pytest.raises(ValidationError):
            sessions.patch("s1", {}, expected_version=given)
        with pytest.raises(ValidationError):
            sessions.update_session(Session(id="s1", user_id="ada", version=given))
    for limit in (0, -1, 10_001, 2**70, True, 1.0, "1", None):
        given = limit
        with pytest.raises(ValidationError, match="limit"):
            sessions.list_user_sessions("ada", limit=given)
        with pytest.raises(ValidationError, match="limit"):
            sessions.delete_expired(limit=given)


def test_activity_never_goes_back_when_the_clock_does(
    sessions: SessionManager, database: Database
) -> None:
    sessions.create_session(Session(id="s1", user_id="ada"))
    ahead = datetime.now(UTC) + HOUR
    database.execute("UPDATE holdfast_sessions SET updated_at = :moment", {"moment": ahead})
    assert (sessions.touch("s1")).updated_at == ahead
    assert (sessions.patch("s1", {})).updated_at == ahead
    assert (sessions.update_session(Session(id="s1", user_id="ada"))).updated_at == ahead


@pytest.mark.tables
def test_without_migrate_a_missing_table_is_told_by_its_migration(
    manager: DatabaseManager, database: Database
) -> None:
    with pytest.raises(MigrationError, match="sessions/0001"):
        SessionManager(manager, "main", migrate=False).get_session("s1")


def test_touching_a_sliding_session_is_a_hot_update(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", postgresql_config)
    sessions = SessionManager(manager, "main")
    sessions.create_session(Session(id="s1", user_id="ada"), ttl=3600, sliding=True)
    with database.transaction():
        for _ in range(20):
            sessions.touch("s1")
        row = database.fetch_one(
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


def test_a_listing_may_be_of_those_whose_metadata_has_some_values(sessions: SessionManager) -> None:
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
        sessions.create_session(Session(id=name, user_id="ada", metadata=metadata))
    for where, expected in WHERE:
        found = sessions.list_user_sessions("ada", where=where)
        assert [session.id for session in found] == expected
    first = sessions.list_user_sessions("ada", where={"kind": "chat"}, limit=1)
    rest = sessions.list_user_sessions("ada", where={"kind": "chat"}, after=first[0].cursor)
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
            sessions.list_user_sessions("ada", where=wrong)
