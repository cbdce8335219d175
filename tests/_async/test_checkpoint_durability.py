"""How durable a save is, and checkpoints that are held back until the end of a workflow."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import pytest

from checkpoint import AsyncCheckpointer, AsyncDatabaseCheckpointer, AsyncMemoryCheckpointer, Checkpoint
from persistence import (
    AsyncDatabaseManager,
    ClosedError,
    DuplicateError,
    PostgreSQLConfig,
    SQLiteConfig,
    ValidationError,
)
from tests._async.checkpoints import LONG

pytestmark = pytest.mark.tables("checkpoint")


async def test_what_is_held_back_is_saved_by_a_flush_the_last_of_each_thread(checkpointer: AsyncCheckpointer) -> None:
    state: dict[str, Any] = {"items": [LONG]}
    for n in range(3):
        state["n"] = n
        given = await checkpointer.save_checkpoint(Checkpoint("t", state, key=f"k{n}"), durability="exit")
        assert given.version is None
        assert given.timestamp is not None
    await checkpointer.save_checkpoint(Checkpoint("t", {"in": "sub"}, namespace="sub"), durability="exit")
    state["items"].append("later")
    assert await checkpointer.list_threads() == []
    saved = await checkpointer.flush()
    assert [(one.namespace, one.version, one.key) for one in saved] == [("", 1, "k2"), ("sub", 1, None)]
    loaded = await checkpointer.load_checkpoint("t")
    assert loaded == saved[0]
    assert loaded.state == {"items": [LONG], "n": 2}
    assert await checkpointer.flush() == []
    assert len(await checkpointer.list_checkpoints("t")) == 1


async def test_leaving_the_checkpointer_saves_what_is_held_back_also_after_an_error(
    checkpointer: AsyncCheckpointer,
) -> None:
    with pytest.raises(RuntimeError, match="the workflow failed"):
        async with checkpointer:
            await checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}), durability="exit")
            raise RuntimeError("the workflow failed")
    assert (await checkpointer.load_checkpoint("t")).state == {"n": 1}


async def test_a_save_to_the_same_thread_first_saves_what_is_held_back(checkpointer: AsyncCheckpointer) -> None:
    await checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}), durability="exit")
    await checkpointer.save_checkpoint(Checkpoint("other", {"n": 7}), durability="exit")
    saved = await checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}))
    assert (saved.version, saved.parent_version) == (2, 1)
    assert (await checkpointer.load_checkpoint("t", 1)).state == {"n": 1}
    assert await checkpointer.latest("other") is None
    await checkpointer.aclose()
    assert (await checkpointer.load_checkpoint("other")).state == {"n": 7}
    assert len(await checkpointer.list_checkpoints("t")) == 2


async def test_what_cannot_be_held_back_is_refused(checkpointer: AsyncCheckpointer) -> None:
    with pytest.raises(ValidationError, match=r"state\['bad'\]"):
        await checkpointer.save_checkpoint(Checkpoint("t", {"bad": object()}), durability="exit")
    with pytest.raises(ValidationError, match="gets its version when it is flushed"):
        await checkpointer.save_checkpoint(Checkpoint("t", {}, version=1), durability="exit")
    with pytest.raises(ValidationError, match="gets its version when it is flushed"):
        await checkpointer.save_checkpoint(Checkpoint("t", {}), expected_version=0, durability="exit")
    for bad in ("", "never", 1, True):
        with pytest.raises(ValidationError, match="durability is 'sync', 'async' or 'exit'"):
            await checkpointer.save_checkpoint(Checkpoint("t", {}), durability=bad)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="durability"):
            AsyncMemoryCheckpointer(durability=bad)  # type: ignore[arg-type]
    assert await checkpointer.flush() == []


async def test_every_kind_of_save_is_read_back(checkpointer: AsyncCheckpointer) -> None:
    for n, durability in enumerate(("sync", "async", "async", "sync", "async"), 1):
        state = {"n": n, "v": LONG * n, "w": LONG * (n // 2)}
        saved = await checkpointer.save_checkpoint(Checkpoint("t", state), durability=durability)  # type: ignore[arg-type]
        assert saved.version == n
        assert (await checkpointer.load_checkpoint("t", n)).state == state
    with pytest.raises(DuplicateError):
        await checkpointer.save_checkpoint(Checkpoint("t", {}, version=1), durability="async")


async def test_a_checkpointer_has_a_durability_of_its_own(manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    checkpointers: list[AsyncCheckpointer] = [
        AsyncDatabaseCheckpointer(manager, "main", durability="exit"),
        AsyncMemoryCheckpointer(durability="exit"),
    ]
    for checkpointer in checkpointers:
        async with checkpointer:
            await checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}))
            await checkpointer.save_checkpoint(Checkpoint("u", {"n": 2}), durability="sync")
            assert [found.thread_id for found in await checkpointer.list_threads()] == ["u"]
        assert [found.thread_id for found in await checkpointer.list_threads()] == ["t", "u"]


async def test_what_could_not_be_flushed_stays_held(manager: AsyncDatabaseManager, tmp_path: Path) -> None:
    config = SQLiteConfig(path=str(tmp_path / "main.db"))
    await manager.add_sqlite("main", config)
    checkpointer = AsyncDatabaseCheckpointer(manager, "main")
    await checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}), durability="exit")
    await manager.get_sqlite("main").aclose()
    with pytest.raises(ClosedError):
        await checkpointer.flush()
    await manager.add_sqlite("main", config, replace=True)
    assert [one.version for one in await checkpointer.flush()] == [1]
    assert (await checkpointer.load_checkpoint("t")).state == {"n": 1}


def drop(held: list[Any]) -> None:
    held.clear()
    gc.collect()


async def test_what_is_dropped_unsaved_is_told_by_its_threads_and_not_by_its_state(
    manager: AsyncDatabaseManager,
) -> None:
    await manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    checkpointer = AsyncDatabaseCheckpointer(manager, "main", durability="exit")
    for n in range(3):
        await checkpointer.save_checkpoint(Checkpoint("t", {"n": n, "text": "of the state"}))
    await checkpointer.save_checkpoint(Checkpoint("t", {}, namespace="sub"))
    alike, other = [copy.copy(checkpointer)], [copy.copy(checkpointer)]
    del checkpointer
    drop(alike)  # which warns of nothing: another copy has it still
    with pytest.warns(ResourceWarning) as told:
        drop(other)
    assert [str(one.message) for one in told] == [
        "main: 2 saves with durability=\"exit\" never flushed: thread 't'; thread 't', namespace 'sub'"
        " (flush(), close() or `with` saves them, discard_held() drops them)"
    ]
    many = [AsyncMemoryCheckpointer(durability="exit")]
    for n in range(7):
        await many[0].save_checkpoint(Checkpoint(f"t{n}", {}))
    with pytest.warns(ResourceWarning, match=r"7 saves .*: thread 't0'; .*; thread 't4'; and 2 more \(flush"):
        drop(many)


async def test_what_was_flushed_discarded_or_deleted_is_told_by_nothing(checkpointer: AsyncCheckpointer) -> None:
    await checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}), durability="exit")
    await checkpointer.save_checkpoint(Checkpoint("t", {}, namespace="sub"), durability="exit")
    await checkpointer.save_checkpoint(Checkpoint("kept", {"n": 2}), durability="exit")
    assert await checkpointer.delete_thread("t") == 0
    assert [one.thread_id for one in await checkpointer.flush()] == ["kept"]
    await checkpointer.save_checkpoint(Checkpoint("t", {"n": 3}), durability="exit")
    await checkpointer.save_checkpoint(Checkpoint("u", {"n": 4}), durability="exit")
    assert (checkpointer.discard_held(), checkpointer.discard_held()) == (2, 0)
    assert await checkpointer.flush() == []
    assert [one.thread_id for one in await checkpointer.list_threads()] == ["kept"]
    for user in ("ada", "bob"):
        own = Checkpoint(f"of {user}", {"n": 5}, metadata={"user_id": user})
        await checkpointer.save_checkpoint(own, durability="exit")
    assert await checkpointer.erase_user("ada") == {"checkpoints": 0}
    assert [one.thread_id for one in await checkpointer.flush()] == ["of bob"]


SPY = """
CREATE TABLE commits (setting text);
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER spy AFTER INSERT ON holdfast_checkpoints DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION spy()
"""


async def test_postgresql_commits_asynchronously_only_where_it_was_asked_to(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    """A trigger that runs at the commit notes the setting; nothing of it stays on the connection."""
    database = await manager.add_postgresql("main", postgresql_config)
    checkpointer = AsyncDatabaseCheckpointer(manager, "main")
    await checkpointer.latest("t")
    for statement in SPY.split(";\nC"):
        await database.execute(statement if statement.lstrip().startswith("C") else f"C{statement}")
    before = manager.stats()["main"].requests
    states: list[dict[str, Any]] = [{}, {}, {"a": LONG}, {"a": LONG, "b": LONG * 2, "c": LONG * 3}]
    for state in states:  # each of the four statements that save
        await checkpointer.save_checkpoint(Checkpoint("t", state), durability="async")
    await checkpointer.save_checkpoint(Checkpoint("t", {"last": LONG}))
    assert manager.stats()["main"].requests - before == 5
    async with database.transaction():
        await checkpointer.save_checkpoint(Checkpoint("t", {}), durability="async")
    found = [row["setting"] for row in await database.fetch_all("SELECT setting FROM commits ORDER BY ctid")]
    assert found == ["off", "off", "off", "off", "on", "on"]
    assert await database.fetch_value("SHOW synchronous_commit") == "on"
