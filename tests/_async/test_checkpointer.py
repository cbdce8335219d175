"""The contract of every checkpointer: saving, loading, versions, deleting, many at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from checkpoint import AsyncCheckpointer, Checkpoint, CheckpointInfo
from persistence import ConflictError, DuplicateError, NotFoundError
from tests._async.checkpoints import LONG, RICH, together, versions

pytestmark = pytest.mark.tables("checkpoint")


async def test_a_rich_state_comes_back_equal_and_of_the_same_types(checkpointer: AsyncCheckpointer) -> None:
    saved = await checkpointer.save_checkpoint(Checkpoint("t", RICH))
    loaded = await checkpointer.load_checkpoint("t")
    assert loaded == saved
    assert loaded.state == RICH
    assert repr(loaded.state["numbers"]) == repr(RICH["numbers"])
    assert type(loaded.state["tuple"]) is tuple
    assert list(loaded.state) == list(RICH)
    assert list(loaded.state["keys"]) == [1, "1", None, ("a", 1)]


async def test_what_describes_a_checkpoint_comes_back(checkpointer: AsyncCheckpointer) -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=-5)))
    metadata = {
        "source": "loop",
        "tags": ["a", None, True],
        "score": 0.1,
        "n": 2**62,
        "large": 1e300,
        "zero": -0.0,
        "deep": {"ü": {}},
    }
    given = Checkpoint("t", {"a": 1}, metadata=metadata, timestamp=moment, node="plan", step=-1, namespace="sub:1")
    saved = await checkpointer.save_checkpoint(given)
    assert (saved.version, saved.parent_version, saved.timestamp) == (1, None, moment)
    loaded = await checkpointer.load_checkpoint("t", 1, namespace="sub:1")
    assert loaded == saved
    assert loaded.timestamp is not None
    assert loaded.timestamp.utcoffset() == timedelta(0)
    assert await checkpointer.list_checkpoints("t", namespace="sub:1") == [
        CheckpointInfo(
            thread_id="t", version=1, timestamp=moment, metadata=metadata, node="plan", step=-1, namespace="sub:1"
        )
    ]


async def test_a_checkpoint_without_a_timestamp_gets_the_time_of_its_save(checkpointer: AsyncCheckpointer) -> None:
    before = datetime.now(UTC)
    saved = await checkpointer.save_checkpoint(Checkpoint("t", {}))
    assert saved.timestamp is not None
    assert before <= saved.timestamp <= datetime.now(UTC)
    assert (await checkpointer.load_checkpoint("t")).timestamp == saved.timestamp


async def test_versions_count_up_and_each_has_the_one_before_as_parent(checkpointer: AsyncCheckpointer) -> None:
    for step in range(1, 5):
        saved = await checkpointer.save_checkpoint(Checkpoint("t", {"step": step, "long": LONG * step, "same": LONG}))
        assert (saved.version, saved.parent_version) == (step, step - 1 or None)
    for step in range(1, 5):
        loaded = await checkpointer.load_checkpoint("t", step)
        assert loaded.state == {"step": step, "long": LONG * step, "same": LONG}
        assert loaded.parent_version == (step - 1 or None)


async def test_a_parent_that_is_given_is_kept(checkpointer: AsyncCheckpointer) -> None:
    for _ in range(3):
        await checkpointer.save_checkpoint(Checkpoint("t", {}))
    await checkpointer.save_checkpoint(Checkpoint("t", {"from": 1}, parent_version=1))
    assert (await checkpointer.load_checkpoint("t")).parent_version == 1


async def test_two_threads_have_the_same_versions_and_their_own_states(checkpointer: AsyncCheckpointer) -> None:
    for step in (1, 2):
        for thread in ("a", "b"):
            await checkpointer.save_checkpoint(Checkpoint(thread, {"who": thread * 50, "step": step}))
    assert (await checkpointer.load_checkpoint("a", 1)).state == {"who": "a" * 50, "step": 1}
    assert (await checkpointer.load_checkpoint("b", 2)).state == {"who": "b" * 50, "step": 2}
    assert await versions(checkpointer, "a") == await versions(checkpointer, "b") == [2, 1]


async def test_namespaces_of_a_thread_have_versions_of_their_own(checkpointer: AsyncCheckpointer) -> None:
    await checkpointer.save_checkpoint(Checkpoint("t", {"in": "root" * 20}))
    await checkpointer.save_checkpoint(Checkpoint("t", {"in": "root" * 30}))
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {"in": "sub" * 20}, namespace="sub"))).version == 1
    latest = await checkpointer.latest("t", namespace="sub")
    assert latest is not None
    assert latest.state == {"in": "sub" * 20}
    assert (await checkpointer.load_checkpoint("t", 1)).state == {"in": "root" * 20}


async def test_changing_what_was_saved_or_loaded_never_changes_what_is_stored(checkpointer: AsyncCheckpointer) -> None:
    state: dict[str, Any] = {"items": [LONG], "small": [1]}
    metadata: dict[str, Any] = {"tags": ["a"]}
    saved = await checkpointer.save_checkpoint(Checkpoint("t", state, metadata=metadata))
    state["items"].append("later")
    state["small"].append(2)
    metadata["tags"].append("b")
    saved.state["more"] = 1
    loaded = await checkpointer.load_checkpoint("t")
    assert (loaded.state, loaded.metadata) == ({"items": [LONG], "small": [1]}, {"tags": ["a"]})
    loaded.state["items"].clear()
    loaded.metadata["tags"].clear()
    listed = await checkpointer.list_checkpoints("t")
    listed[0].metadata.clear()
    again = await checkpointer.load_checkpoint("t")
    assert (again.state, again.metadata) == ({"items": [LONG], "small": [1]}, {"tags": ["a"]})


async def test_a_channel_changed_in_place_is_saved_with_the_next_version(checkpointer: AsyncCheckpointer) -> None:
    state: dict[str, Any] = {"items": [LONG], "same": LONG}
    await checkpointer.save_checkpoint(Checkpoint("t", state))
    state["items"].append("two")
    await checkpointer.save_checkpoint(Checkpoint("t", state))
    loaded = await checkpointer.load_checkpoint("t")
    loaded.state["items"].append("three")
    await checkpointer.save_checkpoint(Checkpoint("t", loaded.state))
    assert [(await checkpointer.load_checkpoint("t", n)).state["items"] for n in (1, 2, 3)] == [
        [LONG],
        [LONG, "two"],
        [LONG, "two", "three"],
    ]


async def test_equal_values_of_other_types_are_changes(checkpointer: AsyncCheckpointer) -> None:
    for value in (1, True, 1.0):
        await checkpointer.save_checkpoint(Checkpoint("t", {"v": value, "long": [value] * 50}))
    for version, kind in ((1, int), (2, bool), (3, float)):
        loaded = (await checkpointer.load_checkpoint("t", version)).state
        assert (type(loaded["v"]), type(loaded["long"][0])) == (kind, kind)


async def test_a_channel_that_goes_and_comes_back_is_there_and_not_there(checkpointer: AsyncCheckpointer) -> None:
    states: list[dict[str, Any]] = [{"a": LONG, "b": LONG}, {"b": LONG}, {}, {"a": LONG}]
    for state in states:
        await checkpointer.save_checkpoint(Checkpoint("t", state))
    assert [(await checkpointer.load_checkpoint("t", n)).state for n in (1, 2, 3, 4)] == states


async def test_an_explicit_version_that_exists_is_a_duplicate_and_changes_nothing(
    checkpointer: AsyncCheckpointer,
) -> None:
    for n in (1, 2, 3):
        await checkpointer.save_checkpoint(Checkpoint("t", {"n": n}))
    with pytest.raises(DuplicateError, match="checkpoint 3 of thread 't' already exists") as taken:
        await checkpointer.save_checkpoint(Checkpoint("t", {"n": "other"}, version=3))
    assert taken.value.code == "23505"
    with pytest.raises(DuplicateError, match="checkpoint 1 of thread 't'"):
        await checkpointer.save_checkpoint(Checkpoint("t", {"n": "other"}, version=1))
    assert (await checkpointer.load_checkpoint("t", 3)).state == {"n": 3}
    assert await versions(checkpointer, "t") == [3, 2, 1]
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {}))).version == 4


async def test_explicit_versions_may_leave_gaps_and_fill_them(checkpointer: AsyncCheckpointer) -> None:
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {"n": 5}, version=5))).parent_version is None
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}, version=2))).parent_version is None
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {"n": 9}, version=9))).parent_version == 5
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {"n": 10}))).version == 10
    assert await versions(checkpointer, "t") == [10, 9, 5, 2]
    assert (await checkpointer.load_checkpoint("t", 2)).state == {"n": 2}


async def test_the_latest_is_the_highest_version_whatever_the_clocks_say(checkpointer: AsyncCheckpointer) -> None:
    now = datetime.now(UTC)
    await checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}, timestamp=now))
    await checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}, timestamp=now - timedelta(days=1)))
    latest = await checkpointer.latest("t")
    assert latest is not None
    assert (latest.version, latest.state) == (2, {"n": 2})


async def test_what_is_not_there_is_not_found_and_named(checkpointer: AsyncCheckpointer) -> None:
    with pytest.raises(NotFoundError, match="no checkpoint of thread 'ghost'"):
        await checkpointer.load_checkpoint("ghost")
    await checkpointer.save_checkpoint(Checkpoint("t", {}))
    with pytest.raises(NotFoundError, match="no checkpoint 2 of thread 't'"):
        await checkpointer.load_checkpoint("t", 2)
    with pytest.raises(NotFoundError, match="no checkpoint 1 of thread 't', namespace 'sub'"):
        await checkpointer.load_checkpoint("t", 1, namespace="sub")
    assert await checkpointer.latest("ghost") is None
    assert await checkpointer.list_checkpoints("ghost") == []


async def test_a_save_that_expects_another_latest_is_a_conflict_that_names_both(
    checkpointer: AsyncCheckpointer,
) -> None:
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}), expected_version=0)).version == 1
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}), expected_version=1)).version == 2
    for expected in (0, 1, 3):
        with pytest.raises(ConflictError) as caught:
            await checkpointer.save_checkpoint(Checkpoint("t", {"n": 3}), expected_version=expected)
        assert (caught.value.expected, caught.value.actual) == (expected, 2)
    with pytest.raises(ConflictError, match="thread 'new' is none, not 7"):
        await checkpointer.save_checkpoint(Checkpoint("new", {}), expected_version=7)
    assert await versions(checkpointer, "t") == [2, 1]
    assert [found.thread_id for found in await checkpointer.list_threads()] == ["t"]


async def test_lists_are_newest_first_and_go_on_at_the_cursor(checkpointer: AsyncCheckpointer) -> None:
    for n in range(1, 8):
        await checkpointer.save_checkpoint(Checkpoint("t", {"n": n}, metadata={"n": n} if n > 1 else {}))
    page = await checkpointer.list_checkpoints("t", limit=3)
    assert [found.version for found in page] == [7, 6, 5]
    page = await checkpointer.list_checkpoints("t", limit=3, before=page[-1].version)
    assert [found.version for found in page] == [4, 3, 2]
    page = await checkpointer.list_checkpoints("t", limit=3, before=page[-1].version)
    assert [(found.version, found.metadata, found.parent_version) for found in page] == [(1, {}, None)]


async def test_threads_are_listed_by_id_with_a_cursor(checkpointer: AsyncCheckpointer) -> None:
    names = ["B", "a", "b", "é", "\uffee", "😀"]
    for name in reversed(names):
        await checkpointer.save_checkpoint(Checkpoint(name, {}))
    await checkpointer.save_checkpoint(Checkpoint("b", {}, namespace="sub", version=7))
    page = await checkpointer.list_threads(limit=4)
    assert [found.thread_id for found in page] == names[:4]
    assert [found.versions for found in page] == [{"": 1}, {"": 1}, {"": 1, "sub": 7}, {"": 1}]
    assert all(found.created_at <= found.updated_at <= datetime.now(UTC) for found in page)
    assert [found.thread_id for found in await checkpointer.list_threads(after="é")] == names[4:]
    assert await checkpointer.list_threads(after="😀") == []


async def test_listed_states_share_nothing_that_can_be_changed(checkpointer: AsyncCheckpointer) -> None:
    kept = {"plain": {"deep": [LONG]}, "list": [{"role": "user", "content": LONG}], "set": {LONG}, "text": LONG}
    for n in range(4):
        grown = [LONG] * 3 + [f"{n} " * 40] * n
        await checkpointer.save_checkpoint(Checkpoint("t", {**kept, "grown": grown, "n": n}))
    first, *others = await checkpointer.list_checkpoints("t", states=True)
    first.state["plain"]["deep"].append(1)
    first.state["list"][0]["role"] = "nobody"
    first.state["set"].add(1)
    first.state["grown"].clear()
    for n, found in zip((2, 1, 0), others, strict=True):
        assert found.state == {**kept, "grown": [LONG] * 3 + [f"{n} " * 40] * n, "n": n}
    assert (await checkpointer.load_checkpoint("t")).state["plain"] == kept["plain"]


async def test_deleting_a_checkpoint_never_breaks_another_that_shares_its_pieces(
    checkpointer: AsyncCheckpointer,
) -> None:
    states = [{"shared": LONG, "own": f"{n}" * 50, "twin": f"{n % 2}" * 60} for n in range(6)]
    for state in states:
        await checkpointer.save_checkpoint(Checkpoint("t", state))
    for gone in (1, 4, 6):
        assert await checkpointer.delete_checkpoint("t", gone) is True
        assert await checkpointer.delete_checkpoint("t", gone) is False
    for kept in (2, 3, 5):
        assert (await checkpointer.load_checkpoint("t", kept)).state == states[kept - 1]
    saved = await checkpointer.save_checkpoint(Checkpoint("t", states[5]))
    assert (saved.version, saved.parent_version) == (7, 5)
    assert (await checkpointer.load_checkpoint("t")).state == states[5]
    assert await versions(checkpointer, "t") == [7, 5, 3, 2]


async def test_a_save_after_the_delete_of_what_it_builds_on_is_whole(checkpointer: AsyncCheckpointer) -> None:
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2, "n": 1}
    await checkpointer.save_checkpoint(Checkpoint("t", state))
    await checkpointer.delete_checkpoint("t", 1)
    await checkpointer.save_checkpoint(Checkpoint("t", {**state, "n": 2}))
    assert (await checkpointer.load_checkpoint("t")).state == {**state, "n": 2}
    await checkpointer.delete_thread("t")
    await checkpointer.save_checkpoint(Checkpoint("t", {**state, "n": 3}))
    assert (await checkpointer.load_checkpoint("t")).state == {**state, "n": 3}


async def test_after_the_latest_is_deleted_the_one_before_is_the_latest_and_its_number_is_not_given_again(
    checkpointer: AsyncCheckpointer,
) -> None:
    for n in (1, 2):
        await checkpointer.save_checkpoint(Checkpoint("t", {"n": n}))
    await checkpointer.delete_checkpoint("t", 2)
    latest = await checkpointer.latest("t")
    assert latest is not None
    assert latest.version == 1
    saved = await checkpointer.save_checkpoint(Checkpoint("t", {"n": 3}), expected_version=1)
    assert (saved.version, saved.parent_version) == (3, 1)
    for version in (1, 3):
        await checkpointer.delete_checkpoint("t", version)
    assert await checkpointer.latest("t") is None
    assert (await checkpointer.list_threads())[0].versions == {"": 0}
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {}), expected_version=0)).version == 4


async def test_a_delete_never_reaches_another_thread_or_namespace(checkpointer: AsyncCheckpointer) -> None:
    for thread in ("a", "ab", "A"):
        for namespace in ("", "sub"):
            for _ in range(2):
                await checkpointer.save_checkpoint(Checkpoint(thread, {"v": LONG}, namespace=namespace))
    assert await checkpointer.delete_checkpoint("a", 3) is False
    assert await checkpointer.delete_checkpoint("b", 1) is False
    assert await checkpointer.delete_checkpoint("a", 1, namespace="other") is False
    assert await checkpointer.delete_checkpoint("a", 1, namespace="sub") is True
    assert await versions(checkpointer, "a") == [2, 1]
    assert await checkpointer.delete_thread("a") == 3
    assert await checkpointer.delete_thread("a") == 0
    assert [found.thread_id for found in await checkpointer.list_threads()] == ["A", "ab"]
    for thread in ("A", "ab"):
        for namespace in ("", "sub"):
            assert (await checkpointer.load_checkpoint(thread, 1, namespace=namespace)).state == {"v": LONG}
    assert (await checkpointer.save_checkpoint(Checkpoint("a", {}))).version == 1


async def test_sixteen_writers_on_one_thread_get_versions_without_holes_or_doubles(
    checkpointer: AsyncCheckpointer,
) -> None:
    def saver(n: int) -> Callable[[], Any]:
        return lambda: checkpointer.save_checkpoint(Checkpoint("t", {"n": n, "own": f"{n} " * 30, "same": LONG}))

    saved = [one for _ in range(4) for one in await together([saver(n) for n in range(16)])]
    assert sorted(one.version for one in saved) == list(range(1, 65))
    for one in saved:
        assert (await checkpointer.load_checkpoint("t", one.version)).state == one.state
        assert one.parent_version == (one.version - 1 or None)


async def test_of_writers_that_expect_the_same_version_exactly_one_wins_each_round(
    checkpointer: AsyncCheckpointer,
) -> None:
    async def attempt(n: int, expected: int) -> bool:
        try:
            await checkpointer.save_checkpoint(Checkpoint("t", {"n": n, "v": LONG}), expected_version=expected)
        except ConflictError:
            return False
        return True

    def attempts(expected: int) -> list[Callable[[], Any]]:
        return [lambda n=n: attempt(n, expected) for n in range(8)]  # type: ignore[misc]

    for expected in range(6):
        assert sum(await together(attempts(expected))) == 1
    assert await versions(checkpointer, "t") == [6, 5, 4, 3, 2, 1]


async def test_saves_beside_deletes_stay_whole(checkpointer: AsyncCheckpointer) -> None:
    async def save(worker: int) -> None:
        for n in range(15):
            state = {"same": LONG, "turn": f"{n % 3}" * 50, "own": f"{worker}/{n} " * 20}
            saved = await checkpointer.save_checkpoint(Checkpoint("t", state))
            kept[saved.version or 0] = state

    async def delete() -> None:
        for _ in range(25):
            for found in (await checkpointer.list_checkpoints("t", limit=3))[1:]:
                await checkpointer.delete_checkpoint("t", found.version)

    kept: dict[int, dict[str, Any]] = {}
    await together([lambda: save(1), lambda: save(2), delete, lambda: save(3), delete])
    assert sorted(kept) == list(range(1, 46))
    for version in await versions(checkpointer, "t"):
        assert (await checkpointer.load_checkpoint("t", version)).state == kept[version]
