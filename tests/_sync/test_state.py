# Generated from ../_async/test_state.py by tests/unasync.py: edit that one.
"""The contract of state: whose a key is, what is kept, and that an update is all or nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import pytest

from persistence import (
    Database,
    DatabaseManager,
    ClosedError,
    ConflictError,
    NotFoundError,
    PostgreSQLConfig,
    ValidationError,
)
from sessions import SessionManager, StateStore, UserData, Session
from tests._sync.side import Started, sleep, together

pytestmark = pytest.mark.tables("sessions")


@pytest.fixture
def state(manager: DatabaseManager, database: Database) -> StateStore:
    """The state of the application ``default``, beside the sessions ``s1`` and ``s2`` of ada, ``s3`` of bob."""
    sessions = SessionManager(manager, "main")
    for name, user in (("s1", "ada"), ("s2", "ada"), ("s3", "bob")):
        sessions.create_session(Session(id=name, user_id=user))
    return StateStore(manager, "main")


def test_a_key_is_seen_within_its_scope(manager: DatabaseManager, state: StateStore) -> None:
    changes = {"step": 1, "user:theme": {"dark": True}, "app:model": "m", "temp:token": object(), "other:x": 2}
    after = state.update("s1", changes)
    assert after == changes
    kept = {key: value for key, value in changes.items() if key != "temp:token"}
    assert state.load("s1") == kept
    assert state.load("s2") == {"user:theme": {"dark": True}, "app:model": "m"}
    assert state.load("s3") == {"app:model": "m"}
    assert (SessionManager(manager, "main").get_session("s1")).metadata == {"step": 1, "other:x": 2}
    assert StateStore(manager, "main", app="another").load("s1") == {"step": 1, "other:x": 2}
    state.update("s3", {"user:theme": None, "app:model": None, "step": None})
    assert state.load("s1") == {"step": 1, "other:x": 2, "user:theme": {"dark": True}}


def test_an_update_leaves_other_keys_and_none_removes(state: StateStore) -> None:
    state.update("s1", {"a": 1, "user:a": 1, "user:b": [1], "app:a": 1})
    assert state.update("s1", {"user:a": 2, "user:b": None, "b": {"x": None}}) == {
        "a": 1,
        "b": {"x": None},
        "user:a": 2,
        "app:a": 1,
    }
    assert state.update("s1", {}) == state.load("s1")


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_updates_of_the_same_keys_wait_in_their_order_also_for_what_they_remove(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", postgresql_config)
    sessions, state = SessionManager(manager, "main"), StateStore(manager, "main")
    for name in ("s1", "s2"):
        sessions.create_session(Session(id=name, user_id="ada"))
    state.update("s1", {"app:a": 0, "app:z": 0})
    with database.transaction():
        state.update("s1", {"app:a": 1})
        other = Started(partial(state.update, "s2", {"app:z": None, "app:a": 2, "app:new": None}))
        while not (database.fetch_apart(WAITING) or {})["count"]:
            sleep(0.001)
        state.update("s1", {"app:z": 1})
    assert other.result() == {"app:a": 2}
    assert state.load("s1") == {"app:a": 2}


def test_shared_values_are_kept_to_the_last_bit(state: StateStore) -> None:
    value = {"z": "\0\ud800", "a": [-0.0, 10**30, 1e16]}
    state.update("s1", {"user:v": value, "app:v": value})
    assert repr(state.load("s2")) == repr({"app:v": value, "user:v": value})


def test_an_update_is_all_or_nothing_and_checks_the_version(
    state: StateStore, database: Database
) -> None:
    state.update("s1", {"a": 1, "user:a": 1}, expected_version=1)
    with pytest.raises(ConflictError, match="version 2, not 1"):
        state.update("s1", {"a": 2, "user:a": 2}, expected_version=1)
    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            state.update("s1", {"a": 3, "user:a": 3, "app:a": 3})
            _ = 1 / 0
    assert state.load("s1") == {"a": 1, "user:a": 1}


def test_of_concurrent_updates_of_different_keys_none_is_lost(state: StateStore) -> None:
    calls = [partial(state.update, f"s{1 + n % 3}", {f"k{n}": n, f"user:k{n}": n, f"app:k{n}": n}) for n in range(12)]
    assert [result for result in together(*calls) if isinstance(result, BaseException)] == []
    found = state.load("s1")
    assert {key for key in found if key.startswith("app:")} == {f"app:k{n}" for n in range(12)}
    assert {key for key in found if key.startswith("user:")} == {f"user:k{n}" for n in range(12) if n % 3 != 2}
    assert {key for key in found if ":" not in key} == {f"k{n}" for n in range(12) if n % 3 == 0}


def test_state_ends_with_what_it_belongs_to(
    manager: DatabaseManager, state: StateStore, database: Database
) -> None:
    state.update("s1", {"a": 1, "user:a": 1, "app:a": 1})
    SessionManager(manager, "main").delete_session("s1")
    with pytest.raises(NotFoundError, match="'s1'"):
        state.load("s1")
    assert state.load("s2") == {"user:a": 1, "app:a": 1}
    UserData(manager, "main").erase_user("ada")
    SessionManager(manager, "main").create_session(Session(id="s1", user_id="ada"))
    assert state.load("s1") == {"app:a": 1}
    database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment", {"moment": datetime.now(UTC) - timedelta(seconds=1)}
    )
    for call in (partial(state.load, "s1"), partial(state.update, "s1", {"app:a": 2})):
        with pytest.raises(NotFoundError):
            call()


def test_tenants_share_nothing(manager: DatabaseManager, state: StateStore) -> None:
    state.update("s1", {"user:a": 1, "app:a": 1})
    SessionManager(manager, "main", tenant="others").create_session(Session(id="s1", user_id="ada"))
    assert StateStore(manager, "main", tenant="others").load("s1") == {}


def test_bad_input_is_refused_before_anything_is_sent(
    manager: DatabaseManager, state: StateStore
) -> None:
    wrong: Any
    before = manager.stats()["main"].requests
    for wrong in (
        None,
        [],
        {1: 2},
        {"": 1},
        {"user:": 1},
        {"app:a\0": 1},
        {"user:a": float("nan")},
        {"app:a": {1}},
        {"a": "\0"},
        {"a": (1,)},
        {"x" * 1025: 1},
    ):
        with pytest.raises(ValidationError):
            state.update("s1", wrong)
    for wrong in ("", 7, "a\0"):
        with pytest.raises(ValidationError):
            state.load(wrong)
        with pytest.raises(ValidationError):
            StateStore(manager, "main", app=wrong)
    with pytest.raises(ValidationError):
        StateStore(manager, "main", app="a\x1fb")
    assert manager.stats()["main"].requests == before
    manager.close()
    for call in (partial(state.load, "s1"), partial(state.update, "s1", {"a": 1})):
        with pytest.raises(ClosedError):
            call()
