"""The contract of state: whose a key is, what is kept, and that an update is all or nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    ClosedError,
    ConflictError,
    NotFoundError,
    PostgreSQLConfig,
    ValidationError,
)
from sessions import AsyncSessionManager, AsyncStateStore, AsyncUserData, Session
from tests._async.side import Started, sleep, together

pytestmark = pytest.mark.tables("sessions")


@pytest_asyncio.fixture
async def state(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncStateStore:
    """The state of the application ``default``, beside the sessions ``s1`` and ``s2`` of ada, ``s3`` of bob."""
    sessions = AsyncSessionManager(manager, "main")
    for name, user in (("s1", "ada"), ("s2", "ada"), ("s3", "bob")):
        await sessions.create_session(Session(id=name, user_id=user))
    return AsyncStateStore(manager, "main")


async def test_a_key_is_seen_within_its_scope(manager: AsyncDatabaseManager, state: AsyncStateStore) -> None:
    changes = {"step": 1, "user:theme": {"dark": True}, "app:model": "m", "temp:token": object(), "other:x": 2}
    after = await state.update("s1", changes)
    assert after == changes
    kept = {key: value for key, value in changes.items() if key != "temp:token"}
    assert await state.load("s1") == kept
    assert await state.load("s2") == {"user:theme": {"dark": True}, "app:model": "m"}
    assert await state.load("s3") == {"app:model": "m"}
    assert (await AsyncSessionManager(manager, "main").get_session("s1")).metadata == {"step": 1, "other:x": 2}
    assert await AsyncStateStore(manager, "main", app="another").load("s1") == {"step": 1, "other:x": 2}
    await state.update("s3", {"user:theme": None, "app:model": None, "step": None})
    assert await state.load("s1") == {"step": 1, "other:x": 2, "user:theme": {"dark": True}}


async def test_an_update_leaves_other_keys_and_none_removes(state: AsyncStateStore) -> None:
    await state.update("s1", {"a": 1, "user:a": 1, "user:b": [1], "app:a": 1})
    assert await state.update("s1", {"user:a": 2, "user:b": None, "b": {"x": None}}) == {
        "a": 1,
        "b": {"x": None},
        "user:a": 2,
        "app:a": 1,
    }
    assert await state.update("s1", {}) == await state.load("s1")


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def test_updates_of_the_same_keys_wait_in_their_order_also_for_what_they_remove(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = await manager.add_postgresql("main", postgresql_config)
    sessions, state = AsyncSessionManager(manager, "main"), AsyncStateStore(manager, "main")
    for name in ("s1", "s2"):
        await sessions.create_session(Session(id=name, user_id="ada"))
    await state.update("s1", {"app:a": 0, "app:z": 0})
    async with database.transaction():
        await state.update("s1", {"app:a": 1})
        other = Started(partial(state.update, "s2", {"app:z": None, "app:a": 2, "app:new": None}))
        while not (await database.fetch_apart(WAITING) or {})["count"]:
            await sleep(0.001)
        await state.update("s1", {"app:z": 1})
    assert await other.result() == {"app:a": 2}
    assert await state.load("s1") == {"app:a": 2}


async def test_shared_values_are_kept_to_the_last_bit(state: AsyncStateStore) -> None:
    value = {"z": "\0\ud800", "a": [-0.0, 10**30, 1e16]}
    await state.update("s1", {"user:v": value, "app:v": value})
    assert repr(await state.load("s2")) == repr({"app:v": value, "user:v": value})


async def test_an_update_is_all_or_nothing_and_checks_the_version(
    state: AsyncStateStore, database: AsyncDatabase
) -> None:
    await state.update("s1", {"a": 1, "user:a": 1}, expected_version=1)
    with pytest.raises(ConflictError, match="version 2, not 1"):
        await state.update("s1", {"a": 2, "user:a": 2}, expected_version=1)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            await state.update("s1", {"a": 3, "user:a": 3, "app:a": 3})
            _ = 1 / 0
    assert await state.load("s1") == {"a": 1, "user:a": 1}


async def test_of_concurrent_updates_of_different_keys_none_is_lost(state: AsyncStateStore) -> None:
    calls = [partial(state.update, f"s{1 + n % 3}", {f"k{n}": n, f"user:k{n}": n, f"app:k{n}": n}) for n in range(12)]
    assert [result for result in await together(*calls) if isinstance(result, BaseException)] == []
    found = await state.load("s1")
    assert {key for key in found if key.startswith("app:")} == {f"app:k{n}" for n in range(12)}
    assert {key for key in found if key.startswith("user:")} == {f"user:k{n}" for n in range(12) if n % 3 != 2}
    assert {key for key in found if ":" not in key} == {f"k{n}" for n in range(12) if n % 3 == 0}


async def test_state_ends_with_what_it_belongs_to(
    manager: AsyncDatabaseManager, state: AsyncStateStore, database: AsyncDatabase
) -> None:
    await state.update("s1", {"a": 1, "user:a": 1, "app:a": 1})
    await AsyncSessionManager(manager, "main").delete_session("s1")
    with pytest.raises(NotFoundError, match="'s1'"):
        await state.load("s1")
    assert await state.load("s2") == {"user:a": 1, "app:a": 1}
    await AsyncUserData(manager, "main").erase_user("ada")
    await AsyncSessionManager(manager, "main").create_session(Session(id="s1", user_id="ada"))
    assert await state.load("s1") == {"app:a": 1}
    await database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment", {"moment": datetime.now(UTC) - timedelta(seconds=1)}
    )
    for call in (partial(state.load, "s1"), partial(state.update, "s1", {"app:a": 2})):
        with pytest.raises(NotFoundError):
            await call()


async def test_tenants_share_nothing(manager: AsyncDatabaseManager, state: AsyncStateStore) -> None:
    await state.update("s1", {"user:a": 1, "app:a": 1})
    await AsyncSessionManager(manager, "main", tenant="others").create_session(Session(id="s1", user_id="ada"))
    assert await AsyncStateStore(manager, "main", tenant="others").load("s1") == {}


async def test_bad_input_is_refused_before_anything_is_sent(
    manager: AsyncDatabaseManager, state: AsyncStateStore
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
            await state.update("s1", wrong)
    for wrong in ("", 7, "a\0"):
        with pytest.raises(ValidationError):
            await state.load(wrong)
        with pytest.raises(ValidationError):
            AsyncStateStore(manager, "main", app=wrong)
    with pytest.raises(ValidationError):
        AsyncStateStore(manager, "main", app="a\x1fb")
    assert manager.stats()["main"].requests == before
    await manager.aclose()
    for call in (partial(state.load, "s1"), partial(state.update, "s1", {"a": 1})):
        with pytest.raises(ClosedError):
            await call()
