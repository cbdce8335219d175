"""The contract of every checkpointer, then what the ones on SQL databases promise besides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from checkpoint import (
    AsyncCheckpointer,
    AsyncDatabaseCheckpointer,
    AsyncMemoryCheckpointer,
    Checkpoint,
    CheckpointInfo,
    Serializer,
)
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    ClosedError,
    ConflictError,
    CorruptError,
    DuplicateError,
    MigrationError,
    NotFoundError,
    SQLiteConfig,
    ValidationError,
)
from persistence._async.compat import Parallel

RICH = {
    "messages": [{"role": "user", "content": "naïve \0 \ud800 😀" * 5}, {"role": "tool", "content": None}],
    "numbers": [0, -1, 2**100, 1.5, float("inf"), -0.0],
    "flags": {"yes": True, "no": False},
    "tuple": (1, ("a", b"\x00\xff")),
    "set": {"a", "b"},
    "money": Decimal("1.10"),
    "when": datetime(2024, 2, 29, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2))),
    "id": UUID("12345678-1234-5678-1234-567812345678"),
    "keys": {1: "int", "1": "str", None: "none", ("a", 1): "tuple"},
    "empty": {},
    "": "a channel without a name",
    "bytes": bytes(range(256)) * 40,
}
LONG = "x" * 40  # long enough to be a piece


@pytest_asyncio.fixture(params=("process", "postgresql", "sqlite", "memory"))
async def checkpointer(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path
) -> AsyncCheckpointer:
    """An empty checkpointer: in the process, on PostgreSQL, on a SQLite file, on SQLite in memory."""
    if request.param == "process":
        return AsyncMemoryCheckpointer()
    if request.param == "postgresql":
        await manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    else:
        path = ":memory:" if request.param == "memory" else str(tmp_path / "main.db")
        await manager.add_sqlite("main", SQLiteConfig(path=path))
    return AsyncDatabaseCheckpointer(manager, "main")


async def second(manager: AsyncDatabaseManager, database: AsyncDatabase) -> str:
    """Return the name of a second connection to the same database; memory has only the one."""
    config = getattr(database, "config")  # noqa: B009 - each kind has its own
    if database.kind == "postgresql":
        return (await manager.add_postgresql("second", config)).name
    if config.path == ":memory:":
        return "main"
    return (await manager.add_sqlite("second", config)).name


async def versions(checkpointer: AsyncCheckpointer, thread_id: str) -> list[int]:
    return [found.version for found in await checkpointer.list_checkpoints(thread_id)]


async def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """Run the calls side by side, in tasks or in threads."""
    parallel = Parallel()
    try:
        return await parallel.run(calls)
    finally:
        parallel.close()


# What every checkpointer does


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
    with pytest.raises(DuplicateError, match="checkpoint 3 of thread 't' already exists"):
        await checkpointer.save_checkpoint(Checkpoint("t", {"n": "other"}, version=3))
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


BAD_IDS: list[Any] = ["", "a\0b", "\ud800", "x" * 1025, "x" * 10_000, "é" * 513, 7, None, b"t"]


def calls_with_id(checkpointer: AsyncCheckpointer, bad: Any) -> list[Callable[[], Any]]:
    calls: list[Callable[[], Any]] = [
        lambda: checkpointer.save_checkpoint(Checkpoint(bad, {})),
        lambda: checkpointer.load_checkpoint(bad),
        lambda: checkpointer.latest(bad),
        lambda: checkpointer.list_checkpoints(bad),
        lambda: checkpointer.delete_checkpoint(bad, 1),
        lambda: checkpointer.delete_thread(bad),
    ]
    if bad is not None:
        calls.append(lambda: checkpointer.list_threads(after=bad))
        calls.append(lambda: checkpointer.save_checkpoint(Checkpoint("t", {}, node=bad)))
    if bad != "":
        calls.append(lambda: checkpointer.save_checkpoint(Checkpoint("t", {}, namespace=bad)))
        calls.append(lambda: checkpointer.latest("t", namespace=bad))
    return calls


async def test_a_bad_id_is_refused_by_every_call(checkpointer: AsyncCheckpointer) -> None:
    for bad in BAD_IDS:
        for call in calls_with_id(checkpointer, bad):
            with pytest.raises(ValidationError, match=r"thread id|namespace|node"):
                await call()
    assert await checkpointer.list_threads() == []


async def test_an_id_that_is_too_long_is_told_the_limit(checkpointer: AsyncCheckpointer) -> None:
    with pytest.raises(ValidationError, match="10,000 bytes in UTF-8, more than the limit of 1,024"):
        await checkpointer.save_checkpoint(Checkpoint("x" * 10_000, {}))


ODD_IDS = [
    "'; DROP TABLE holdfast_checkpoints; --",
    "%_*?[a]{b}\\",
    ":thread :x ::y $1 ?",
    "../../etc/passwd",
    " ",
    "\n\t\x01",
    "Ünï😀",
    "é" * 512,
]


async def test_an_odd_id_is_an_id_like_any_other(checkpointer: AsyncCheckpointer) -> None:
    for odd in ODD_IDS:
        await checkpointer.save_checkpoint(Checkpoint("other", {"v": LONG}, namespace=odd))
        saved = await checkpointer.save_checkpoint(Checkpoint(odd, {"v": LONG}, namespace=odd, node=odd))
        assert await checkpointer.load_checkpoint(odd, namespace=odd) == saved
    assert [found.thread_id for found in await checkpointer.list_threads()] == sorted([*ODD_IDS, "other"])
    for odd in ODD_IDS:
        assert await checkpointer.delete_thread(odd) == 1
    assert [found.versions for found in await checkpointer.list_threads()] == [dict.fromkeys(ODD_IDS, 1)]


async def test_the_longest_ids_fit_together(checkpointer: AsyncCheckpointer) -> None:
    # Of hexadecimal digests, which PostgreSQL can't compress into an index entry.
    thread, namespace = (
        "".join(hashlib.sha256(f"{which}{n}".encode()).hexdigest() for n in range(16)) for which in "ab"
    )
    await checkpointer.save_checkpoint(Checkpoint(thread, {"v": LONG}, namespace=namespace, node=thread))
    assert (await checkpointer.load_checkpoint(thread, 1, namespace=namespace)).state == {"v": LONG}


BAD_VERSIONS: list[Any] = [0, -1, True, 1.0, "1", 2**62 + 1, 10**5000]


def calls_with_version(checkpointer: AsyncCheckpointer, bad: Any) -> list[Callable[[], Any]]:
    calls: list[Callable[[], Any]] = [
        lambda: checkpointer.save_checkpoint(Checkpoint("t", {}, version=bad)),
        lambda: checkpointer.save_checkpoint(Checkpoint("t", {}, parent_version=bad)),
        lambda: checkpointer.load_checkpoint("t", bad),
        lambda: checkpointer.list_checkpoints("t", before=bad),
        lambda: checkpointer.list_checkpoints("t", limit=bad),
        lambda: checkpointer.list_threads(limit=bad),
        lambda: checkpointer.delete_checkpoint("t", bad),
    ]
    if bad != 0:
        calls.append(lambda: checkpointer.save_checkpoint(Checkpoint("t", {}), expected_version=bad))
    return calls


async def test_a_bad_version_is_refused_by_every_call(checkpointer: AsyncCheckpointer) -> None:
    await checkpointer.save_checkpoint(Checkpoint("t", {}))
    for bad in BAD_VERSIONS:
        for call in calls_with_version(checkpointer, bad):
            with pytest.raises(ValidationError, match=r"version|limit"):
                await call()
    assert await versions(checkpointer, "t") == [1]


BAD_METADATA: list[Any] = [
    {"a": float("nan")},
    {"a": [float("inf")]},
    {"a": 2**63},
    {"a": (1, 2)},
    {"a": {1: "int key"}},
    {"a": "\0"},
    {"\0": 1},
    {"a": "\ud800"},
    {"a": b"bytes"},
    {"a": datetime(2024, 1, 1, tzinfo=UTC)},
    {"a": 10**5000},
    {1: 2},
    [],
    None,
    "text",
]


async def test_metadata_that_json_would_change_is_refused(checkpointer: AsyncCheckpointer) -> None:
    for bad in BAD_METADATA:
        with pytest.raises(ValidationError):
            await checkpointer.save_checkpoint(Checkpoint("t", {}, metadata=bad))
    assert await checkpointer.list_threads() == []


async def test_metadata_nested_too_deeply_is_refused(checkpointer: AsyncCheckpointer) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(ValidationError, match="nested deeper"):
        await checkpointer.save_checkpoint(Checkpoint("t", {}, metadata=deep))
    while deep:  # taken apart from outside, for its own destructor would recurse
        deep = deep.pop("a")


BAD_STATES: list[Any] = [None, [], "state", 7, {1: "int key"}, {"a": object()}, {"a": lambda: None}]


async def test_a_state_that_cannot_be_stored_is_refused(checkpointer: AsyncCheckpointer) -> None:
    for bad in BAD_STATES:
        with pytest.raises(ValidationError):
            await checkpointer.save_checkpoint(Checkpoint("t", bad))
    assert await checkpointer.list_threads() == []


async def test_a_value_that_cannot_be_stored_is_named_by_its_channel(checkpointer: AsyncCheckpointer) -> None:
    with pytest.raises(ValidationError, match=r"state\['tools'\]"):
        await checkpointer.save_checkpoint(Checkpoint("t", {"fine": 1, "tools": [{"run": object()}]}))


async def test_a_timestamp_without_a_zone_or_beyond_the_calendar_is_refused(checkpointer: AsyncCheckpointer) -> None:
    first = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    for bad in (datetime(2024, 1, 1), first, "2024-01-01", 5):  # noqa: DTZ001 - the point
        with pytest.raises(ValidationError, match="timestamp"):
            await checkpointer.save_checkpoint(Checkpoint("t", {}, timestamp=bad))  # type: ignore[arg-type]


async def test_what_is_no_checkpoint_is_refused(checkpointer: AsyncCheckpointer) -> None:
    with pytest.raises(ValidationError, match="takes a Checkpoint, not dict"):
        await checkpointer.save_checkpoint({"thread_id": "t"})  # type: ignore[arg-type]


class Point:
    """A class of a user."""

    def __init__(self, x: int) -> None:
        self.x = x


async def test_a_class_of_the_user_needs_a_serializer_that_knows_it(manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    serializer = Serializer()
    serializer.register(Point, "point", lambda point: point.x, Point)
    knowing: list[AsyncCheckpointer] = [
        AsyncMemoryCheckpointer(serializer=serializer),
        AsyncDatabaseCheckpointer(manager, "main", serializer=serializer),
    ]
    for checkpointer in knowing:
        await checkpointer.save_checkpoint(Checkpoint("t", {"at": Point(3)}))
        assert (await checkpointer.load_checkpoint("t")).state["at"].x == 3
    with pytest.raises(ValidationError, match="Point"):
        await AsyncDatabaseCheckpointer(manager, "main").save_checkpoint(Checkpoint("t", {"at": Point(3)}))


# What those on a SQL database promise besides


@pytest_asyncio.fixture
async def stored(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncDatabaseCheckpointer:
    """A checkpointer on the connection ``main``, its tables made."""
    checkpointer = AsyncDatabaseCheckpointer(manager, "main")
    await checkpointer.latest("t")
    return checkpointer


async def test_what_was_saved_is_read_back_by_another_connection(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    saved = await stored.save_checkpoint(Checkpoint("t", RICH, metadata={"a": 1}))
    other = AsyncDatabaseCheckpointer(manager, await second(manager, database))
    assert await other.load_checkpoint("t") == saved


async def test_the_columns_hold_the_content_under_its_hash(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"long": [LONG], "short": 7}, metadata={"source": "loop"}))
    row = await database.fetch_one("SELECT metadata, manifest, refs FROM holdfast_checkpoints")
    pieces = await database.fetch_all("SELECT hash, data FROM holdfast_checkpoint_pieces ORDER BY hash")
    assert row is not None
    metadata = row["metadata"] if database.kind == "postgresql" else json.loads(row["metadata"])
    assert metadata == {"source": "loop"}
    content = Serializer().dumps([LONG])
    assert [dict(piece) for piece in pieces] == [
        {"hash": hashlib.sha256(content).digest()[:16], "data": b"\0" + content}
    ]
    assert row["refs"] == pieces[0]["hash"]
    assert row["manifest"][:1] == b"\x01"
    assert b"short" in row["manifest"]
    assert LONG.encode() not in row["manifest"]


async def test_a_save_stores_only_the_channels_that_changed(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    state: dict[str, Any] = {f"c{n}": f"{n}" * 50 for n in range(10)}
    fresh = AsyncDatabaseCheckpointer(manager, "main")
    counts = []
    for n in range(5):
        state["c3"] = f"changed {n} " * 10
        await (stored if n < 3 else fresh).save_checkpoint(Checkpoint("t", state))
        counts.append(await database.fetch_value("SELECT count(*) FROM holdfast_checkpoint_pieces"))
    assert counts == [10, 11, 12, 13, 14]
    await stored.save_checkpoint(Checkpoint("t", state))
    assert await database.fetch_value("SELECT count(*) FROM holdfast_checkpoint_pieces") == 14


async def test_a_piece_that_is_known_to_be_stored_is_not_sent(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    """A piece taken away by hand, behind the checkpointers' backs, stays away until somebody sends it."""
    state = {"a": LONG, "b": LONG * 2}
    await stored.save_checkpoint(Checkpoint("t", state))
    reader = AsyncDatabaseCheckpointer(manager, "main")
    await reader.latest("t")
    await database.execute("DELETE FROM holdfast_checkpoint_pieces")
    count = "SELECT count(*) FROM holdfast_checkpoint_pieces"
    await reader.save_checkpoint(Checkpoint("t", {**state, "n": 1}))
    assert await database.fetch_value(count) == 0
    await reader.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3}))
    assert await database.fetch_value(count) == 1
    await reader.save_checkpoint(Checkpoint("t", {**state, "d": LONG * 4, "e": LONG * 5}))
    assert await database.fetch_value(count) == 3
    await AsyncDatabaseCheckpointer(manager, "main").save_checkpoint(Checkpoint("t", state))
    assert await database.fetch_value(count) == 5


async def test_a_text_that_is_the_same_object_or_only_equal_comes_back(stored: AsyncDatabaseCheckpointer) -> None:
    texts = ["text " * 20, b"bytes" * 20, "text " * 21]
    for text in (texts[0], texts[0], texts[1], texts[1], "text " * 20, texts[2], texts[0]):
        await stored.save_checkpoint(Checkpoint("t", {"v": text, "same": LONG}))
    loaded = [(await stored.load_checkpoint("t", n)).state["v"] for n in range(1, 8)]
    assert loaded == [texts[0], texts[0], texts[1], texts[1], texts[0], texts[2], texts[0]]


async def test_each_call_is_one_request(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    async def requests(call: Callable[[], Any]) -> int:
        before = manager.stats()["main"].requests
        await call()
        return manager.stats()["main"].requests - before

    state: dict[str, Any] = {"a": LONG, "b": LONG * 2, "n": 0}

    async def save(**changes: Any) -> None:
        state.update(changes)
        await stored.save_checkpoint(Checkpoint("t", state))

    assert await requests(save) == 1  # a new thread
    assert await requests(save) == 1  # nothing changed
    assert await requests(lambda: save(n=1)) == 1
    assert await requests(lambda: save(a=LONG * 3)) == 1
    assert await requests(lambda: save(a=LONG * 4, b=LONG * 5, c=LONG * 6)) == 1
    expecting = Checkpoint("t", state)
    assert await requests(lambda: stored.save_checkpoint(expecting, expected_version=5)) == 1
    assert await requests(lambda: stored.save_checkpoint(Checkpoint("t", state, version=9))) == 1
    assert await requests(lambda: stored.load_checkpoint("t")) == 1
    assert await requests(lambda: stored.load_checkpoint("t", 2)) == 1
    assert await requests(lambda: stored.latest("ghost")) == 1
    assert await requests(lambda: stored.list_checkpoints("t")) == 1
    assert await requests(lambda: stored.list_threads()) == 1
    assert await requests(lambda: stored.delete_checkpoint("t", 1)) == 1
    assert await requests(lambda: stored.delete_thread("t")) == 1


async def test_a_delete_gives_back_every_piece_that_nobody_needs(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    for n in range(4):
        await stored.save_checkpoint(Checkpoint("t", {"same": LONG, "own": f"{n}" * 50, "pair": f"{n // 2}" * 60}))
    count = "SELECT count(*) FROM holdfast_checkpoint_pieces"
    assert await database.fetch_value(count) == 7
    await stored.delete_checkpoint("t", 1)
    assert await database.fetch_value(count) == 6
    await stored.delete_checkpoint("t", 2)
    assert await database.fetch_value(count) == 4
    await stored.delete_thread("t")
    for table in ("pieces", "threads"):
        assert await database.fetch_value(f"SELECT count(*) FROM holdfast_checkpoint_{table}") == 0
    assert await database.fetch_value("SELECT count(*) FROM holdfast_checkpoints") == 0


async def test_what_another_process_deleted_or_saved_is_noticed_and_sent_again(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    other = AsyncDatabaseCheckpointer(manager, await second(manager, database))
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2}
    await stored.save_checkpoint(Checkpoint("t", state))
    await other.delete_thread("t")
    assert (await stored.save_checkpoint(Checkpoint("t", state))).version == 1
    assert (await other.load_checkpoint("t")).state == state
    await other.delete_checkpoint("t", 1)
    assert (await stored.save_checkpoint(Checkpoint("t", {**state, "n": 1}))).version == 2
    assert (await other.load_checkpoint("t", 2)).state == {**state, "n": 1}
    await other.save_checkpoint(Checkpoint("t", {"c": LONG}))
    await other.delete_checkpoint("t", 2)
    assert (await stored.save_checkpoint(Checkpoint("t", {**state, "n": 2}))).version == 4
    assert (await other.load_checkpoint("t", 4)).state == {**state, "n": 2}
    await other.delete_thread("t")
    with pytest.raises(ConflictError) as caught:
        await stored.save_checkpoint(Checkpoint("t", state), expected_version=4)
    assert caught.value.actual == 0


async def test_a_save_of_another_process_is_a_conflict_for_who_expects_the_version_before(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    other = AsyncDatabaseCheckpointer(manager, await second(manager, database))
    await other.save_checkpoint(Checkpoint("t", {"a": LONG}))
    with pytest.raises(ConflictError) as caught:
        await stored.save_checkpoint(Checkpoint("t", {"a": LONG}), expected_version=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)


async def test_saves_and_deletes_of_two_processes_stay_whole(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    other = AsyncDatabaseCheckpointer(manager, await second(manager, database))
    kept: dict[int, dict[str, Any]] = {}

    async def save(checkpointer: AsyncCheckpointer, worker: int) -> None:
        for n in range(20):
            state = {"same": LONG, "turn": f"{n % 2}" * 50, "own": f"{worker}/{n} " * 20}
            saved = await checkpointer.save_checkpoint(Checkpoint("t", state))
            kept[saved.version or 0] = state

    async def delete() -> None:
        for _ in range(20):
            for found in (await other.list_checkpoints("t", limit=3))[1:]:
                await other.delete_checkpoint("t", found.version)

    await together([lambda: save(stored, 1), lambda: save(other, 2), delete])
    assert sorted(kept) == list(range(1, 41))
    reader = AsyncDatabaseCheckpointer(manager, "main")
    for version in await versions(reader, "t"):
        assert (await reader.load_checkpoint("t", version)).state == kept[version]


async def test_a_thread_put_back_by_hand_to_an_older_time_is_noticed(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    """As after a failover or a restored backup: the last commits, and their pieces, are gone."""
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    stamp = await database.fetch_value("SELECT stamp FROM holdfast_checkpoint_threads")
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG * 2}))
    await database.execute("DELETE FROM holdfast_checkpoints WHERE version = 2")
    await database.execute(
        "DELETE FROM holdfast_checkpoint_pieces WHERE hash NOT IN (SELECT refs FROM holdfast_checkpoints)"
    )
    await database.execute(
        "UPDATE holdfast_checkpoint_threads SET latest = 1, counter = 1, stamp = :stamp", {"stamp": stamp}
    )
    assert (await stored.save_checkpoint(Checkpoint("t", {"a": LONG * 2, "n": 1}))).version == 2
    assert (await stored.load_checkpoint("t")).state == {"a": LONG * 2, "n": 1}


async def test_a_save_joins_the_transaction_and_goes_with_it(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2}
    await stored.save_checkpoint(Checkpoint("t", state))
    with pytest.raises(RuntimeError, match="undo"):
        async with database.transaction():
            await stored.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3, "n": 0}))
            await stored.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3}))
            await stored.save_checkpoint(Checkpoint("new", {**state, "c": LONG * 3}))
            assert (await stored.load_checkpoint("t")).state == {**state, "c": LONG * 3}
            await stored.delete_checkpoint("t", 1)
            raise RuntimeError("undo")
    other = AsyncDatabaseCheckpointer(manager, await second(manager, database))
    assert await versions(other, "t") == [1]
    assert await other.latest("new") is None
    # Pieces that were rolled back are not believed stored.
    for thread in ("t", "new"):
        await stored.save_checkpoint(Checkpoint(thread, {**state, "c": LONG * 3, "n": 1}))
        assert (await other.load_checkpoint(thread)).state == {**state, "c": LONG * 3, "n": 1}
    async with database.transaction():
        await stored.save_checkpoint(Checkpoint("t", {**state, "n": 2}))
        await stored.delete_thread("new")
    assert (await other.load_checkpoint("t")).state == {**state, "n": 2}
    assert await other.latest("new") is None


async def test_a_refused_save_leaves_the_transaction_usable(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"n": 1}))
    async with database.transaction():
        with pytest.raises(DuplicateError):
            await stored.save_checkpoint(Checkpoint("t", {"n": 0}, version=1))
        with pytest.raises(ConflictError):
            await stored.save_checkpoint(Checkpoint("t", {"n": 0}), expected_version=7)
        await stored.save_checkpoint(Checkpoint("t", {"n": 2}))
    assert (await stored.load_checkpoint("t")).state == {"n": 2}


async def test_tenants_with_equal_ids_never_meet(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    one = AsyncDatabaseCheckpointer(manager, "main", tenant="one")
    two = AsyncDatabaseCheckpointer(manager, "main", tenant="two")
    await one.save_checkpoint(Checkpoint("t", {"who": "one" * 20, "same": LONG}))
    await one.save_checkpoint(Checkpoint("t", {"who": "one" * 30, "same": LONG}))
    assert await two.list_threads() == []
    assert await two.latest("t") is None
    assert await two.delete_checkpoint("t", 1) is False
    assert await two.delete_thread("t") == 0
    assert (await two.save_checkpoint(Checkpoint("t", {"who": "two" * 20, "same": LONG}))).version == 1
    assert await two.delete_thread("t") == 1
    assert (await one.load_checkpoint("t", 2)).state == {"who": "one" * 30, "same": LONG}
    assert await versions(one, "t") == [2, 1]


@pytest.mark.parametrize("bad", ["", "\0", "x" * 513, 7, None], ids=repr)
async def test_a_bad_tenant_is_refused(manager: AsyncDatabaseManager, bad: Any) -> None:
    await manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    with pytest.raises(ValidationError, match="tenant"):
        AsyncDatabaseCheckpointer(manager, "main", tenant=bad)


async def test_a_closed_manager_says_so(stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager) -> None:
    await manager.aclose()
    for call in (
        lambda: stored.save_checkpoint(Checkpoint("t", {})),
        lambda: stored.load_checkpoint("t"),
        lambda: stored.list_checkpoints("t"),
        lambda: stored.delete_thread("t"),
    ):
        with pytest.raises(ClosedError):
            await call()


async def test_without_migrating_a_missing_migration_is_named(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    checkpointer = AsyncDatabaseCheckpointer(manager, "main", migrate=False)
    with pytest.raises(MigrationError, match="checkpoint/0001_checkpoints"):
        await checkpointer.save_checkpoint(Checkpoint("t", {}))


async def test_a_damaged_piece_is_named_with_its_channel_and_the_others_stay_readable(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"good": LONG}))
    await stored.save_checkpoint(Checkpoint("t", {"good": LONG, "bad": LONG * 2}))
    key = hashlib.sha256(Serializer().dumps(LONG * 2)).digest()[:16]
    for damage in (b"\0" + Serializer().dumps(LONG * 2)[:-1], b"\x63" + Serializer().dumps(LONG * 2), b""):
        values = {"data": damage, "hash": key}
        await database.execute("UPDATE holdfast_checkpoint_pieces SET data = :data WHERE hash = :hash", values)
        with pytest.raises(CorruptError, match=rf"checkpoint 2 of thread 't': channel 'bad': piece {key.hex()}"):
            await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint("t")
    await database.execute("DELETE FROM holdfast_checkpoint_pieces WHERE hash = :hash", {"hash": key})
    with pytest.raises(CorruptError, match=rf"channel 'bad': piece {key.hex()} is missing"):
        await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint("t")
    assert (await stored.load_checkpoint("t", 1)).state == {"good": LONG}


async def test_a_damaged_manifest_is_never_read_as_another_state(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG, "b": LONG * 2, "n": 7}))
    manifest = bytes(await database.fetch_value("SELECT manifest FROM holdfast_checkpoints"))
    damaged = [b"", manifest[:-1], manifest + b"\0", b"\x02" + manifest[1:]]
    damaged += [manifest[:at] + bytes((manifest[at] ^ 1,)) + manifest[at + 1 :] for at in range(len(manifest))]
    for wrong in damaged:
        await database.execute("UPDATE holdfast_checkpoints SET manifest = :wrong", {"wrong": wrong})
        with pytest.raises(CorruptError, match="checkpoint 1 of thread 't': its manifest"):
            await AsyncDatabaseCheckpointer(manager, "main").load_checkpoint("t")
