"""Faults around a save, on a real PostgreSQL: restarts, answers that are lost; and the values that are hard to keep.

Kills of programs and servers are in tests/faults.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint, Serializer
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    CorruptError,
    EmbeddedPostgreSQL,
    PostgreSQLConfig,
    UnavailableError,
    ValidationError,
)
from tests._async.side import ASYNC, sleep, together
from tests._async.test_faults import fill_pool, socket_of
from tests.proxy import FaultyProxy

STATE = {"messages": ["hello", "naïve \0 \ud800"], "large": "word " * 20_000, "step": 1}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgreSQL]:
    """A PostgreSQL of this module's own, which its tests restart."""
    with EmbeddedPostgreSQL(tmp_path_factory.mktemp("own"), settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture
def own_config(own_server: EmbeddedPostgreSQL) -> Iterator[PostgreSQLConfig]:
    """A new database of that server."""
    name = f"db_{secrets.token_hex(6)}"
    own_server.create_database(name)
    yield own_server.config(name, max_connections=10, max_idle_connections=10)
    own_server.drop_database(name)


@pytest_asyncio.fixture
async def proxied(
    manager: AsyncDatabaseManager, own_server: EmbeddedPostgreSQL, own_config: PostgreSQLConfig
) -> AsyncIterator[tuple[FaultyProxy, AsyncDatabaseCheckpointer, AsyncDatabaseCheckpointer]]:
    """A proxy, a checkpointer behind it, and one that reaches the same database directly."""
    with FaultyProxy(socket_of(own_server)) as proxy:
        await manager.add_postgresql("direct", own_config)
        await manager.add_postgresql("proxied", replace(own_config, host="127.0.0.1", port=proxy.port))
        yield proxy, AsyncDatabaseCheckpointer(manager, "proxied"), AsyncDatabaseCheckpointer(manager, "direct")
        await manager.aclose()


async def test_after_a_restart_with_ten_idle_connections_none_of_twenty_saves_fails(
    manager: AsyncDatabaseManager, own_server: EmbeddedPostgreSQL, own_config: PostgreSQLConfig
) -> None:
    database = await manager.add_postgresql("main", own_config)
    checkpointer = AsyncDatabaseCheckpointer(manager, "main")
    await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": 0}))
    await fill_pool(database)
    own_server.stop()
    own_server.start()
    saved = [await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n})) for n in range(1, 11)]
    await fill_pool(database)
    own_server.stop()
    own_server.start()
    more = await together(
        *[lambda n=n: checkpointer.save_checkpoint(Checkpoint(f"t{n}", {**STATE, "n": n})) for n in range(10)]
    )
    assert [each.version for each in saved] == list(range(2, 12))
    assert [each.version for each in more] == [1] * 10
    assert database.stats().errors == 0
    for each in saved + more:
        assert await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint(each.thread_id, each.version) == each


async def retry(checkpointer: AsyncDatabaseCheckpointer, checkpoint: Checkpoint, proxy: FaultyProxy) -> Checkpoint:
    """Save a checkpoint whose answer is lost, then save it again."""
    proxy.mode = "swallow replies"
    with pytest.raises(UnavailableError):
        await checkpointer.save_checkpoint(checkpoint)
    proxy.mode = "pass"
    return await checkpointer.save_checkpoint(checkpoint)


async def settled(checkpointer: AsyncDatabaseCheckpointer, count: int) -> list[Checkpoint]:
    """Return the checkpoints once there are so many: the server may still work on a save whose client has gone."""
    for _ in range(500):
        found = await checkpointer.list_checkpoints("t", states=True)
        if len(found) >= count:
            break
        await sleep(0.01)
    return found


@pytest.mark.parametrize("warm", [False, True], ids=["first save", "save that builds on another"])
async def test_a_save_whose_answer_was_lost_is_repeated_with_its_key_as_one_checkpoint(
    proxied: tuple[FaultyProxy, AsyncDatabaseCheckpointer, AsyncDatabaseCheckpointer], warm: bool
) -> None:
    proxy, checkpointer, direct = proxied
    assert await checkpointer.latest("t") is None  # connected, the tables made
    if warm:
        await checkpointer.save_checkpoint(Checkpoint("t", STATE, key="before"))
    checkpoint = Checkpoint("t", {**STATE, "step": 2}, key="step 2", metadata={"a": 1})
    saved = await retry(checkpointer, checkpoint, proxy)
    assert (saved.version, saved.state, saved.key) == (1 + warm, checkpoint.state, "step 2")
    found = await settled(direct, 1 + warm)
    assert [each.key for each in found] == ["step 2", "before"][: 1 + warm]
    assert found[0] == saved
    after = await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "step": 3}))
    assert (await direct.load_checkpoint("t")) == after
    assert (after.version, after.parent_version) == (2 + warm, 1 + warm)


async def test_without_a_key_the_same_retry_is_a_second_checkpoint(
    proxied: tuple[FaultyProxy, AsyncDatabaseCheckpointer, AsyncDatabaseCheckpointer],
) -> None:
    proxy, checkpointer, direct = proxied
    await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    await retry(checkpointer, Checkpoint("t", {**STATE, "step": 2}), proxy)
    found = await settled(direct, 3)
    assert [(each.version, each.state["step"]) for each in found] == [(3, 2), (2, 2), (1, 1)]


async def test_pending_writes_whose_answer_was_lost_are_there_once(
    proxied: tuple[FaultyProxy, AsyncDatabaseCheckpointer, AsyncDatabaseCheckpointer],
) -> None:
    proxy, checkpointer, direct = proxied
    assert await checkpointer.latest("t") is None
    writes = [("messages", "a"), ("large", "word " * 20_000)]
    proxy.mode = "swallow replies"
    with pytest.raises(UnavailableError):
        await checkpointer.put_writes("t", "step 1", "task", writes)
    proxy.mode = "pass"
    await checkpointer.put_writes("t", "step 1", "task", writes)
    found = await direct.pending_writes("t", "step 1")
    assert [(each.channel, each.value) for each in found] == writes


async def test_a_save_that_a_cut_connection_undid_leaves_nothing(
    proxied: tuple[FaultyProxy, AsyncDatabaseCheckpointer, AsyncDatabaseCheckpointer],
) -> None:
    proxy, checkpointer, direct = proxied
    await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    database: Any = checkpointer._manager.get_database("proxied")
    with pytest.raises(UnavailableError):
        async with database.transaction():
            await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "step": 2}))
            proxy.cut()
            await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "step": 3}))
    saved = await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "step": 4}))
    assert saved.version == 2
    assert [each.state["step"] for each in await direct.list_checkpoints("t", states=True)] == [4, 1]
    assert await direct.load_checkpoint("t") == saved


# Values that are hard to keep, by a checkpointer that remembers nothing


@pytest_asyncio.fixture
async def stored(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncDatabaseCheckpointer:
    return AsyncDatabaseCheckpointer(manager, "main")


async def test_awkward_values_come_back_under_awkward_names(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    name = "a:b {c} *?[d] %_ 'e' \"f\" \\ -- ; /* g */ $1 :h é 😀\n\t"
    state = {name: "NUL \0, surrogate \ud800", "\ud800 \0": name, "floats": [float("inf"), -0.0], "int": 2**4000}
    metadata = {name: [name, {name: None}]}
    saved = await stored.save_checkpoint(
        Checkpoint(name, state, metadata=metadata, namespace=name, node=name, key=name, step=-(2**40))
    )
    await stored.put_writes(name, name, name, [(name, state)], namespace=name, task_path=name)
    await stored.save_checkpoint(Checkpoint("nan", {"nan": float("nan")}))
    again = AsyncDatabaseCheckpointer(manager, "main")
    loaded = await again.load_checkpoint(name, key=name, namespace=name, writes=True)
    assert replace(loaded, writes=()) == saved
    assert [(each.channel, each.value) for each in loaded.writes] == [(name, state)]
    assert [each.key for each in await again.list_checkpoints(name, namespace=name, filter=metadata)] == [name]
    assert str((await again.load_checkpoint("nan")).state) == "{'nan': nan}"
    for other in (name.upper(), "a:b {c} %", "*", "%", name[:-1]):
        assert await again.latest(other, namespace=name) is None
    assert [each.thread_id for each in await again.list_threads()] == sorted([name, "nan"])


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def depth(value: Any) -> int:
    levels = 0
    while value:
        value, levels = value[0], levels + 1
    return levels


async def test_a_thousand_levels_come_back_and_endless_ones_are_refused_and_leave_nothing(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"deep": nested(999), "n": 1}))
    again = AsyncDatabaseCheckpointer(manager, "main")
    assert depth((await again.load_checkpoint("t")).state["deep"]) == 999
    endless: list[Any] = []
    endless.append(endless)
    for bad in (endless, nested(100_000)):
        with pytest.raises(ValidationError, match=r"state\['deep'\]"):
            await stored.save_checkpoint(Checkpoint("t", {"deep": bad, "n": 2}))
    assert [each.version for each in await again.list_checkpoints("t")] == [1]


@pytest.mark.parametrize("compressible", [True, False] if ASYNC else [True])  # noise takes seconds
async def test_a_hundred_mebibytes_come_back_and_the_next_save_does_not_send_them(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig, tmp_path: Path, compressible: bool
) -> None:
    size = 100 * 2**20
    large: Any = "message " * (size // 8) if compressible else random.Random(1).randbytes(size)
    if not compressible:
        await manager.add_postgresql("main", postgresql_config)
    else:
        await manager.add_sqlite("main", f"sqlite:///{tmp_path}/main.db")
    checkpointer = AsyncDatabaseCheckpointer(manager, "main")
    await checkpointer.save_checkpoint(Checkpoint("t", {"large": large, "n": 1}))
    await checkpointer.save_checkpoint(Checkpoint("t", {"large": large, "n": 2}))
    loaded = await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint("t")
    assert loaded.state["n"] == 2
    assert loaded.state["large"] == large


def made(name: str, fields: dict[str, Any]) -> type:
    """Return a dataclass ``Plan`` with these fields, as another release of a program has it."""
    kind = type(name, (), {"__annotations__": {field: type(value) for field, value in fields.items()}, **fields})
    return dataclass(kind)


def knowing(kind: type) -> Serializer:
    serializer = Serializer()
    serializer.register(kind, name="plan")
    return serializer


async def test_a_class_that_changed_shape_is_filled_in_or_an_error_that_names_the_channel(
    manager: AsyncDatabaseManager, tmp_path: Path
) -> None:
    old, new = made("Plan", {"title": "", "cost": 0}), made("Plan", {"title": "", "cost": 0, "tags": ()})
    less = made("Plan", {"title": ""})
    await manager.add_sqlite("main", f"sqlite:///{tmp_path}/main.db")

    def with_class(kind: type) -> AsyncDatabaseCheckpointer:
        return AsyncDatabaseCheckpointer(manager, "main", serializer=knowing(kind))

    saved = await with_class(old).save_checkpoint(Checkpoint("t", {"plan": old("Tides", 3), "n": 1}))
    found = (await with_class(new).load_checkpoint("t")).state["plan"]
    assert (type(found), found.title, found.cost, found.tags) == (new, "Tides", 3, ())
    with pytest.raises(CorruptError, match=r"channel 'plan'.*cost"):
        await with_class(less).load_checkpoint("t")
    assert (await with_class(old).load_checkpoint("t")) == saved  # nothing was changed by looking at it
