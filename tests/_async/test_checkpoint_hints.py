"""Channels that the caller says have not changed: not looked at where that is known to be safe, and else as ever."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import AsyncDatabase, AsyncDatabaseManager, ValidationError

pytestmark = pytest.mark.tables("checkpoint")

OLD, NEW = ["a large value"] * 9, ["another value"] * 9


class Counted(list[Any]):
    """Not a list for the serializer: a look at it is an error."""


async def test_a_channel_said_to_be_unchanged_is_not_looked_at(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    first = await stored.save_checkpoint(Checkpoint("t", {"kept": OLD, "n": 1}))
    hinted = Checkpoint("t", {"kept": Counted(), "n": 2}, parent_version=first.version, unchanged={"kept"})
    saved = await stored.save_checkpoint(hinted)
    assert (saved.version, saved.unchanged) == (2, frozenset())
    for reader in (stored, AsyncDatabaseCheckpointer(manager, "main")):
        assert (await reader.load_checkpoint("t")).state == {"kept": OLD, "n": 2}


async def test_without_the_parent_in_mind_every_channel_is_looked_at(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"kept": OLD, "n": 1}))
    await stored.save_checkpoint(Checkpoint("t", {"kept": NEW, "n": 2}))
    other = AsyncDatabaseCheckpointer(manager, "main")  # has nothing in mind
    for saver, parent in ((stored, 1), (stored, None), (other, 2)):
        hinted = Checkpoint("t", {"kept": OLD, "n": 3}, parent_version=parent, unchanged={"kept"})
        saved = await saver.save_checkpoint(hinted)
        read = await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint("t", saved.version)
        assert read.state == {"kept": OLD, "n": 3}
        await stored.save_checkpoint(Checkpoint("t", {"kept": NEW, "n": 2}))


async def test_a_hinted_channel_that_the_parent_lacks_is_stored(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"n": 1}))
    await stored.save_checkpoint(
        Checkpoint("t", {"n": 1, "new": OLD}, parent_version=1, unchanged={"n", "new", "gone"})
    )
    assert (await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint("t")).state == {"n": 1, "new": OLD}


async def test_a_hint_holds_though_another_saved_meanwhile(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"kept": OLD, "n": 1}))
    await AsyncDatabaseCheckpointer(manager, "main").save_checkpoint(Checkpoint("t", {"kept": NEW, "n": 2}))
    await stored.save_checkpoint(Checkpoint("t", {"kept": OLD, "n": 3}, parent_version=1, unchanged={"kept"}))
    found = await AsyncDatabaseCheckpointer(manager, "main").list_checkpoints("t", states=True)
    assert [(each.version, each.parent_version, each.state["kept"]) for each in found] == [
        (3, 1, OLD),
        (2, 1, NEW),
        (1, None, OLD),
    ]


async def test_a_channel_that_changes_with_every_save_lies_in_its_own_row(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    for number in range(4):
        state = {"step": [f"step {number}"] * 9, "large": "x" * 5000 if number < 2 else "y" * 5000, "big": b"b" * 9000}
        await stored.save_checkpoint(Checkpoint("t", state, volatile={"step", "big", "gone"}))
    rows = await database.fetch_all("SELECT version, manifest, data FROM holdfast_checkpoints ORDER BY version")
    assert [f"step {row['version'] - 1}".encode() in bytes(row["manifest"]) for row in rows] == [True] * 4
    assert all(b"b" * 9000 not in bytes(row["manifest"]) for row in rows)
    assert [row["data"] is None for row in rows] == [False, True, False, True]
    # Said no longer, and changed once more, it is a piece like any other.
    await stored.save_checkpoint(Checkpoint("t", {"step": ["last step"] * 9}))
    row = await database.fetch_one("SELECT manifest, data FROM holdfast_checkpoints WHERE version = 5")
    assert row is not None
    assert b"last step" not in bytes(row["manifest"])
    found = await AsyncDatabaseCheckpointer(manager, "main").list_checkpoints("t", states=True)
    assert [each.state["step"][0] for each in found] == ["last step", "step 3", "step 2", "step 1", "step 0"]


async def test_of_a_list_that_was_appended_to_only_the_new_items_are_looked_at(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    items: list[Any] = [f"message {n}" * 5 for n in range(20)]
    await stored.save_checkpoint(Checkpoint("t", {"items": items, "n": 0}))
    for version in range(1, 30):
        new = [{"n": version}, f"message {version}" * 9][: version % 3]
        # What was there is something that can't be stored: a look at it would be an error.
        state = {"items": [Counted() for _ in items] + new, "n": version}
        saved = await stored.save_checkpoint(
            Checkpoint("t", state, parent_version=version, appended={"items": len(new), "gone": 3})
        )
        items = [*items, *new]
        assert (saved.version, saved.appended) == (version + 1, None)
        for reader in (stored, AsyncDatabaseCheckpointer(manager, "main")):
            assert (await reader.load_checkpoint("t")).state == {"items": items, "n": version}
    looked_at = await stored.save_checkpoint(Checkpoint("t", {"items": items, "n": -1}))
    assert (await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint("t")).state == looked_at.state


@pytest.mark.parametrize("before", [("a",) * 40, {"a": 1, "b": "b" * 99}, "text" * 30, deque("abc" * 20), ["x" * 99]])
async def test_a_list_that_cannot_have_been_appended_to_is_looked_at(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, before: Any
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"x": before}))
    for count in (0, 1, 2):
        value = ["another" * 20] * (len(before) + count + 1)
        parent = (await stored.load_checkpoint("t")).version
        await stored.save_checkpoint(Checkpoint("t", {"x": value}, parent_version=parent, appended={"x": count}))
        assert (await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint("t")).state == {"x": value}
        await stored.save_checkpoint(Checkpoint("t", {"x": before}))


async def test_without_the_parent_in_mind_a_whole_list_is_looked_at(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"items": OLD}))
    await stored.save_checkpoint(Checkpoint("t", {"items": NEW}))
    for saver, parent in ((stored, 1), (stored, None), (AsyncDatabaseCheckpointer(manager, "main"), 2)):
        items = [*OLD, "one more"]
        await saver.save_checkpoint(Checkpoint("t", {"items": items}, parent_version=parent, appended={"items": 1}))
        assert (await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint("t")).state == {"items": items}
        await stored.save_checkpoint(Checkpoint("t", {"items": NEW}))


@pytest.mark.parametrize(
    "appended", [["items"], {"items": -1}, {"items": True}, {"items": 1.5}, {"items": float("nan")}]
)
async def test_what_was_appended_is_a_number_of_items(stored: AsyncDatabaseCheckpointer, appended: Any) -> None:
    with pytest.raises(ValidationError, match="appended"):
        await stored.save_checkpoint(Checkpoint("t", {"items": OLD}, appended=appended))
    assert await stored.latest("t") is None
