# Generated from ../_async/test_checkpoint_faults.py by tests/unasync.py: edit that one.
"""Faults around a save, on a real PostgreSQL: restarts, answers that are lost; and the values that are hard to keep.

Kills of programs and servers are in tests/faults.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest

from checkpoint import DatabaseCheckpointer, Checkpoint, Serializer
from persistence import (
    Database,
    DatabaseManager,
    CorruptError,
    EmbeddedPostgreSQL,
    PostgreSQLConfig,
    UnavailableError,
    ValidationError,
)
from tests._sync.side import ASYNC, sleep, together
from tests._sync.test_faults import fill_pool, socket_of
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


@pytest.fixture
def proxied(
    manager: DatabaseManager, own_server: EmbeddedPostgreSQL, own_config: PostgreSQLConfig
) -> Iterator[tuple[FaultyProxy, DatabaseCheckpointer, DatabaseCheckpointer]]:
    """A proxy, a checkpointer behind it, and one that reaches the same database directly."""
    with FaultyProxy(socket_of(own_server)) as proxy:
        manager.add_postgresql("direct", own_config)
        manager.add_postgresql("proxied", replace(own_config, host="127.0.0.1", port=proxy.port))
        yield proxy, DatabaseCheckpointer(manager, "proxied"), DatabaseCheckpointer(manager, "direct")
        manager.close()


def test_after_a_restart_with_ten_idle_connections_none_of_twenty_saves_fails(
    manager: DatabaseManager, own_server: EmbeddedPostgreSQL, own_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", own_config)
    checkpointer = DatabaseCheckpointer(manager, "main")
    checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": 0}))
    fill_pool(database)
    own_server.stop()
    own_server.start()
    saved = [checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n})) for n in range(1, 11)]
    fill_pool(database)
    own_server.stop()
    own_server.start()
    more = together(
        *[lambda n=n: checkpointer.save_checkpoint(Checkpoint(f"t{n}", {**STATE, "n": n})) for n in range(10)]
    )
    assert [each.version for each in saved] == list(range(2, 12))
    assert [each.version for each in more] == [1] * 10
    assert database.stats().errors == 0
    for each in saved + more:
        assert DatabaseCheckpointer(manager, "main").load_checkpoint(each.thread_id, each.version) == each


def retry(checkpointer: DatabaseCheckpointer, checkpoint: Checkpoint, proxy: FaultyProxy) -> Checkpoint:
    """Save a checkpoint whose answer is lost, then save it again."""
    proxy.mode = "swallow replies"
    with pytest.raises(UnavailableError):
        checkpointer.save_checkpoint(checkpoint)
    proxy.mode = "pass"
    return checkpointer.save_checkpoint(checkpoint)


def settled(checkpointer: DatabaseCheckpointer, count: int) -> list[Checkpoint]:
    """Return the checkpoints once there are so many: the server may still work on a save whose client has gone."""
    for _ in range(500):
        found = checkpointer.list_checkpoints("t", states=True)
        if len(found) >= count:
            break
        sleep(0.01)
    return found


@pytest.mark.parametrize("warm", [False, True], ids=["first save", "save that builds on another"])
def test_a_save_whose_answer_was_lost_is_repeated_with_its_key_as_one_checkpoint(
    proxied: tuple[FaultyProxy, DatabaseCheckpointer, DatabaseCheckpointer], warm: bool
) -> None:
    proxy, checkpointer, direct = proxied
    assert checkpointer.latest("t") is None  # connected, the tables made
    if warm:
        checkpointer.save_checkpoint(Checkpoint("t", STATE, key="before"))
    checkpoint = Checkpoint("t", {**STATE, "step": 2}, key="step 2", metadata={"a": 1})
    saved = retry(checkpointer, checkpoint, proxy)
    assert (saved.version, saved.state, saved.key) == (1 + warm, checkpoint.state, "step 2")
    found = settled(direct, 1 + warm)
    assert [each.key for each in found] == ["step 2", "before"][: 1 + warm]
    assert found[0] == saved
    after = checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "step": 3}))
    assert (direct.load_checkpoint("t")) == after
    assert (after.version, after.parent_version) == (2 + warm, 1 + warm)


def test_without_a_key_the_same_retry_is_a_second_checkpoint(
    proxied: tuple[FaultyProxy, DatabaseCheckpointer, DatabaseCheckpointer],
) -> None:
    proxy, checkpointer, direct = proxied
    checkpointer.save_checkpoint(Checkpoint("t", STATE))
    retry(checkpointer, Checkpoint("t", {**STATE, "step": 2}), proxy)
    found = settled(direct, 3)
    assert [(each.version, each.state["step"]) for each in found] == [(3, 2), (2, 2), (1, 1)]


def test_pending_writes_whose_answer_was_lost_are_there_once(
    proxied: tuple[FaultyProxy, DatabaseCheckpointer, DatabaseCheckpointer],
) -> None:
    proxy, checkpointer, direct = proxied
    assert checkpointer.latest("t") is None
    writes = [("messages", "a"), ("large", "word " * 20_000)]
    proxy.mode = "swallow replies"
    with pytest.raises(UnavailableError):
        checkpointer.put_writes("t", "step 1", "task", writes)
    proxy.mode = "pass"
    checkpointer.put_writes("t", "step 1", "task", writes)
    found = direct.pending_writes("t", "step 1")
    assert [(each.channel, each.value) for each in found] == writes


def test_a_save_that_a_cut_connection_undid_leaves_nothing(
    proxied: tuple[FaultyProxy, DatabaseCheckpointer, DatabaseCheckpointer],
) -> None:
    proxy, checkpointer, direct = proxied
    checkpointer.save_checkpoint(Checkpoint("t", STATE))
    database: Any = checkpointer._manager.get_database("proxied")
    with pytest.raises(UnavailableError):
        with database.transaction():
            checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "step": 2}))
            proxy.cut()
            checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "step": 3}))
    saved = checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "step": 4}))
    assert saved.version == 2
    assert [each.state["step"] for each in direct.list_checkpoints("t", states=True)] == [4, 1]
    assert direct.load_checkpoint("t") == saved


# Values that are hard to keep, by a checkpointer that remembers nothing


@pytest.fixture
def stored(manager: DatabaseManager, database: Database) -> DatabaseCheckpointer:
    return DatabaseCheckpointer(manager, "main")


def test_awkward_values_come_back_under_awkward_names(
    stored: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    name = "a:b {c} *?[d] %_ 'e' \"f\" \\ -- ; /* g */ $1 :h é 😀\n\t"
    state = {name: "NUL \0, surrogate \ud800", "\ud800 \0": name, "floats": [float("inf"), -0.0], "int": 2**4000}
    metadata = {name: [name, {name: None}]}
    saved = stored.save_checkpoint(
        Checkpoint(name, state, metadata=metadata, namespace=name, node=name, key=name, step=-(2**40))
    )
    stored.put_writes(name, name, name, [(name, state)], namespace=name, task_path=name)
    stored.save_checkpoint(Checkpoint("nan", {"nan": float("nan")}))
    again = DatabaseCheckpointer(manager, "main")
    loaded = again.load_checkpoint(name, key=name, namespace=name, writes=True)
    assert replace(loaded, writes=()) == saved
    assert [(each.channel, each.value) for each in loaded.writes] == [(name, state)]
    assert [each.key for each in again.list_checkpoints(name, namespace=name, filter=metadata)] == [name]
    assert str((again.load_checkpoint("nan")).state) == "{'nan': nan}"
    for other in (name.upper(), "a:b {c} %", "*", "%", name[:-1]):
        assert again.latest(other, namespace=name) is None
    assert [each.thread_id for each in again.list_threads()] == sorted([name, "nan"])


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


def test_a_thousand_levels_come_back_and_endless_ones_are_refused_and_leave_nothing(
    stored: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"deep": nested(999), "n": 1}))
    again = DatabaseCheckpointer(manager, "main")
    assert depth((again.load_checkpoint("t")).state["deep"]) == 999
    endless: list[Any] = []
    endless.append(endless)
    for bad in (endless, nested(100_000)):
        with pytest.raises(ValidationError, match=r"state\['deep'\]"):
            stored.save_checkpoint(Checkpoint("t", {"deep": bad, "n": 2}))
    assert [each.version for each in again.list_checkpoints("t")] == [1]


@pytest.mark.parametrize("compressible", [True, False] if ASYNC else [True])  # noise takes seconds
def test_a_hundred_mebibytes_come_back_and_the_next_save_does_not_send_them(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, tmp_path: Path, compressible: bool
) -> None:
    size = 100 * 2**20
    large: Any = "message " * (size // 8) if compressible else random.Random(1).randbytes(size)
    if not compressible:
        manager.add_postgresql("main", postgresql_config)
    else:
        manager.add_sqlite("main", f"sqlite:///{tmp_path}/main.db")
    checkpointer = DatabaseCheckpointer(manager, "main")
    checkpointer.save_checkpoint(Checkpoint("t", {"large": large, "n": 1}))
    checkpointer.save_checkpoint(Checkpoint("t", {"large": large, "n": 2}))
    loaded = DatabaseCheckpointer(manager, "main").load_checkpoint("t")
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


def test_a_class_that_changed_shape_is_filled_in_or_an_error_that_names_the_channel(
    manager: DatabaseManager, tmp_path: Path
) -> None:
    old, new = made("Plan", {"title": "", "cost": 0}), made("Plan", {"title": "", "cost": 0, "tags": ()})
    less = made("Plan", {"title": ""})
    manager.add_sqlite("main", f"sqlite:///{tmp_path}/main.db")

    def with_class(kind: type) -> DatabaseCheckpointer:
        return DatabaseCheckpointer(manager, "main", serializer=knowing(kind))

    saved = with_class(old).save_checkpoint(Checkpoint("t", {"plan": old("Tides", 3), "n": 1}))
    found = (with_class(new).load_checkpoint("t")).state["plan"]
    assert (type(found), found.title, found.cost, found.tags) == (new, "Tides", 3, ())
    with pytest.raises(CorruptError, match=r"channel 'plan'.*cost"):
        with_class(less).load_checkpoint("t")
    assert (with_class(old).load_checkpoint("t")) == saved  # nothing was changed by looking at it
