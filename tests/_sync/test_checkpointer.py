# Generated from ../_async/test_checkpointer.py by tests/unasync.py: edit that one.
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
import pytest

from checkpoint import (
    Checkpointer,
    DatabaseCheckpointer,
    MemoryCheckpointer,
    Checkpoint,
    CheckpointInfo,
    Serializer,
)
from persistence import (
    Database,
    DatabaseManager,
    ClosedError,
    ConflictError,
    CorruptError,
    DuplicateError,
    MigrationError,
    NotFoundError,
    SQLiteConfig,
    ValidationError,
)
from persistence._sync.compat import Parallel

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


@pytest.fixture(params=("process", "postgresql", "sqlite", "memory"))
def checkpointer(
    request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path
) -> Checkpointer:
    """An empty checkpointer: in the process, on PostgreSQL, on a SQLite file, on SQLite in memory."""
    if request.param == "process":
        return MemoryCheckpointer()
    if request.param == "postgresql":
        manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    else:
        path = ":memory:" if request.param == "memory" else str(tmp_path / "main.db")
        manager.add_sqlite("main", SQLiteConfig(path=path))
    return DatabaseCheckpointer(manager, "main")


def second(manager: DatabaseManager, database: Database) -> str:
    """Return the name of a second connection to the same database; memory has only the one."""
    config = getattr(database, "config")  # noqa: B009 - each kind has its own
    if database.kind == "postgresql":
        return (manager.add_postgresql("second", config)).name
    if config.path == ":memory:":
        return "main"
    return (manager.add_sqlite("second", config)).name


def versions(checkpointer: Checkpointer, thread_id: str) -> list[int]:
    return [found.version for found in checkpointer.list_checkpoints(thread_id)]


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """Run the calls side by side, in tasks or in threads."""
    parallel = Parallel()
    try:
        return parallel.run(calls)
    finally:
        parallel.close()


# What every checkpointer does


def test_a_rich_state_comes_back_equal_and_of_the_same_types(checkpointer: Checkpointer) -> None:
    saved = checkpointer.save_checkpoint(Checkpoint("t", RICH))
    loaded = checkpointer.load_checkpoint("t")
    assert loaded == saved
    assert loaded.state == RICH
    assert repr(loaded.state["numbers"]) == repr(RICH["numbers"])
    assert type(loaded.state["tuple"]) is tuple
    assert list(loaded.state) == list(RICH)
    assert list(loaded.state["keys"]) == [1, "1", None, ("a", 1)]


def test_what_describes_a_checkpoint_comes_back(checkpointer: Checkpointer) -> None:
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
    saved = checkpointer.save_checkpoint(given)
    assert (saved.version, saved.parent_version, saved.timestamp) == (1, None, moment)
    loaded = checkpointer.load_checkpoint("t", 1, namespace="sub:1")
    assert loaded == saved
    assert loaded.timestamp is not None
    assert loaded.timestamp.utcoffset() == timedelta(0)
    assert checkpointer.list_checkpoints("t", namespace="sub:1") == [
        CheckpointInfo(
            thread_id="t", version=1, timestamp=moment, metadata=metadata, node="plan", step=-1, namespace="sub:1"
        )
    ]


def test_a_checkpoint_without_a_timestamp_gets_the_time_of_its_save(checkpointer: Checkpointer) -> None:
    before = datetime.now(UTC)
    saved = checkpointer.save_checkpoint(Checkpoint("t", {}))
    assert saved.timestamp is not None
    assert before <= saved.timestamp <= datetime.now(UTC)
    assert (checkpointer.load_checkpoint("t")).timestamp == saved.timestamp


def test_versions_count_up_and_each_has_the_one_before_as_parent(checkpointer: Checkpointer) -> None:
    for step in range(1, 5):
        saved = checkpointer.save_checkpoint(Checkpoint("t", {"step": step, "long": LONG * step, "same": LONG}))
        assert (saved.version, saved.parent_version) == (step, step - 1 or None)
    for step in range(1, 5):
        loaded = checkpointer.load_checkpoint("t", step)
        assert loaded.state == {"step": step, "long": LONG * step, "same": LONG}
        assert loaded.parent_version == (step - 1 or None)


def test_a_parent_that_is_given_is_kept(checkpointer: Checkpointer) -> None:
    for _ in range(3):
        checkpointer.save_checkpoint(Checkpoint("t", {}))
    checkpointer.save_checkpoint(Checkpoint("t", {"from": 1}, parent_version=1))
    assert (checkpointer.load_checkpoint("t")).parent_version == 1


def test_two_threads_have_the_same_versions_and_their_own_states(checkpointer: Checkpointer) -> None:
    for step in (1, 2):
        for thread in ("a", "b"):
            checkpointer.save_checkpoint(Checkpoint(thread, {"who": thread * 50, "step": step}))
    assert (checkpointer.load_checkpoint("a", 1)).state == {"who": "a" * 50, "step": 1}
    assert (checkpointer.load_checkpoint("b", 2)).state == {"who": "b" * 50, "step": 2}
    assert versions(checkpointer, "a") == versions(checkpointer, "b") == [2, 1]


def test_namespaces_of_a_thread_have_versions_of_their_own(checkpointer: Checkpointer) -> None:
    checkpointer.save_checkpoint(Checkpoint("t", {"in": "root" * 20}))
    checkpointer.save_checkpoint(Checkpoint("t", {"in": "root" * 30}))
    assert (checkpointer.save_checkpoint(Checkpoint("t", {"in": "sub" * 20}, namespace="sub"))).version == 1
    latest = checkpointer.latest("t", namespace="sub")
    assert latest is not None
    assert latest.state == {"in": "sub" * 20}
    assert (checkpointer.load_checkpoint("t", 1)).state == {"in": "root" * 20}


def test_changing_what_was_saved_or_loaded_never_changes_what_is_stored(checkpointer: Checkpointer) -> None:
    state: dict[str, Any] = {"items": [LONG], "small": [1]}
    metadata: dict[str, Any] = {"tags": ["a"]}
    saved = checkpointer.save_checkpoint(Checkpoint("t", state, metadata=metadata))
    state["items"].append("later")
    state["small"].append(2)
    metadata["tags"].append("b")
    saved.state["more"] = 1
    loaded = checkpointer.load_checkpoint("t")
    assert (loaded.state, loaded.metadata) == ({"items": [LONG], "small": [1]}, {"tags": ["a"]})
    loaded.state["items"].clear()
    loaded.metadata["tags"].clear()
    listed = checkpointer.list_checkpoints("t")
    listed[0].metadata.clear()
    again = checkpointer.load_checkpoint("t")
    assert (again.state, again.metadata) == ({"items": [LONG], "small": [1]}, {"tags": ["a"]})


def test_a_channel_changed_in_place_is_saved_with_the_next_version(checkpointer: Checkpointer) -> None:
    state: dict[str, Any] = {"items": [LONG], "same": LONG}
    checkpointer.save_checkpoint(Checkpoint("t", state))
    state["items"].append("two")
    checkpointer.save_checkpoint(Checkpoint("t", state))
    loaded = checkpointer.load_checkpoint("t")
    loaded.state["items"].append("three")
    checkpointer.save_checkpoint(Checkpoint("t", loaded.state))
    assert [(checkpointer.load_checkpoint("t", n)).state["items"] for n in (1, 2, 3)] == [
        [LONG],
        [LONG, "two"],
        [LONG, "two", "three"],
    ]


def test_equal_values_of_other_types_are_changes(checkpointer: Checkpointer) -> None:
    for value in (1, True, 1.0):
        checkpointer.save_checkpoint(Checkpoint("t", {"v": value, "long": [value] * 50}))
    for version, kind in ((1, int), (2, bool), (3, float)):
        loaded = (checkpointer.load_checkpoint("t", version)).state
        assert (type(loaded["v"]), type(loaded["long"][0])) == (kind, kind)


def test_a_channel_that_goes_and_comes_back_is_there_and_not_there(checkpointer: Checkpointer) -> None:
    states: list[dict[str, Any]] = [{"a": LONG, "b": LONG}, {"b": LONG}, {}, {"a": LONG}]
    for state in states:
        checkpointer.save_checkpoint(Checkpoint("t", state))
    assert [(checkpointer.load_checkpoint("t", n)).state for n in (1, 2, 3, 4)] == states


def test_an_explicit_version_that_exists_is_a_duplicate_and_changes_nothing(
    checkpointer: Checkpointer,
) -> None:
    for n in (1, 2, 3):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": n}))
    with pytest.raises(DuplicateError, match="checkpoint 3 of thread 't' already exists"):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": "other"}, version=3))
    with pytest.raises(DuplicateError, match="checkpoint 1 of thread 't'"):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": "other"}, version=1))
    assert (checkpointer.load_checkpoint("t", 3)).state == {"n": 3}
    assert versions(checkpointer, "t") == [3, 2, 1]
    assert (checkpointer.save_checkpoint(Checkpoint("t", {}))).version == 4


def test_explicit_versions_may_leave_gaps_and_fill_them(checkpointer: Checkpointer) -> None:
    assert (checkpointer.save_checkpoint(Checkpoint("t", {"n": 5}, version=5))).parent_version is None
    assert (checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}, version=2))).parent_version is None
    assert (checkpointer.save_checkpoint(Checkpoint("t", {"n": 9}, version=9))).parent_version == 5
    assert (checkpointer.save_checkpoint(Checkpoint("t", {"n": 10}))).version == 10
    assert versions(checkpointer, "t") == [10, 9, 5, 2]
    assert (checkpointer.load_checkpoint("t", 2)).state == {"n": 2}


def test_the_latest_is_the_highest_version_whatever_the_clocks_say(checkpointer: Checkpointer) -> None:
    now = datetime.now(UTC)
    checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}, timestamp=now))
    checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}, timestamp=now - timedelta(days=1)))
    latest = checkpointer.latest("t")
    assert latest is not None
    assert (latest.version, latest.state) == (2, {"n": 2})


def test_what_is_not_there_is_not_found_and_named(checkpointer: Checkpointer) -> None:
    with pytest.raises(NotFoundError, match="no checkpoint of thread 'ghost'"):
        checkpointer.load_checkpoint("ghost")
    checkpointer.save_checkpoint(Checkpoint("t", {}))
    with pytest.raises(NotFoundError, match="no checkpoint 2 of thread 't'"):
        checkpointer.load_checkpoint("t", 2)
    with pytest.raises(NotFoundError, match="no checkpoint 1 of thread 't', namespace 'sub'"):
        checkpointer.load_checkpoint("t", 1, namespace="sub")
    assert checkpointer.latest("ghost") is None
    assert checkpointer.list_checkpoints("ghost") == []


def test_a_save_that_expects_another_latest_is_a_conflict_that_names_both(
    checkpointer: Checkpointer,
) -> None:
    assert (checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}), expected_version=0)).version == 1
    assert (checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}), expected_version=1)).version == 2
    for expected in (0, 1, 3):
        with pytest.raises(ConflictError) as caught:
            checkpointer.save_checkpoint(Checkpoint("t", {"n": 3}), expected_version=expected)
        assert (caught.value.expected, caught.value.actual) == (expected, 2)
    with pytest.raises(ConflictError, match="thread 'new' is none, not 7"):
        checkpointer.save_checkpoint(Checkpoint("new", {}), expected_version=7)
    assert versions(checkpointer, "t") == [2, 1]
    assert [found.thread_id for found in checkpointer.list_threads()] == ["t"]


def test_lists_are_newest_first_and_go_on_at_the_cursor(checkpointer: Checkpointer) -> None:
    for n in range(1, 8):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": n}, metadata={"n": n} if n > 1 else {}))
    page = checkpointer.list_checkpoints("t", limit=3)
    assert [found.version for found in page] == [7, 6, 5]
    page = checkpointer.list_checkpoints("t", limit=3, before=page[-1].version)
    assert [found.version for found in page] == [4, 3, 2]
    page = checkpointer.list_checkpoints("t", limit=3, before=page[-1].version)
    assert [(found.version, found.metadata, found.parent_version) for found in page] == [(1, {}, None)]


def test_threads_are_listed_by_id_with_a_cursor(checkpointer: Checkpointer) -> None:
    names = ["B", "a", "b", "é", "\uffee", "😀"]
    for name in reversed(names):
        checkpointer.save_checkpoint(Checkpoint(name, {}))
    checkpointer.save_checkpoint(Checkpoint("b", {}, namespace="sub", version=7))
    page = checkpointer.list_threads(limit=4)
    assert [found.thread_id for found in page] == names[:4]
    assert [found.versions for found in page] == [{"": 1}, {"": 1}, {"": 1, "sub": 7}, {"": 1}]
    assert all(found.created_at <= found.updated_at <= datetime.now(UTC) for found in page)
    assert [found.thread_id for found in checkpointer.list_threads(after="é")] == names[4:]
    assert checkpointer.list_threads(after="😀") == []


def test_deleting_a_checkpoint_never_breaks_another_that_shares_its_pieces(
    checkpointer: Checkpointer,
) -> None:
    states = [{"shared": LONG, "own": f"{n}" * 50, "twin": f"{n % 2}" * 60} for n in range(6)]
    for state in states:
        checkpointer.save_checkpoint(Checkpoint("t", state))
    for gone in (1, 4, 6):
        assert checkpointer.delete_checkpoint("t", gone) is True
        assert checkpointer.delete_checkpoint("t", gone) is False
    for kept in (2, 3, 5):
        assert (checkpointer.load_checkpoint("t", kept)).state == states[kept - 1]
    saved = checkpointer.save_checkpoint(Checkpoint("t", states[5]))
    assert (saved.version, saved.parent_version) == (7, 5)
    assert (checkpointer.load_checkpoint("t")).state == states[5]
    assert versions(checkpointer, "t") == [7, 5, 3, 2]


def test_a_save_after_the_delete_of_what_it_builds_on_is_whole(checkpointer: Checkpointer) -> None:
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2, "n": 1}
    checkpointer.save_checkpoint(Checkpoint("t", state))
    checkpointer.delete_checkpoint("t", 1)
    checkpointer.save_checkpoint(Checkpoint("t", {**state, "n": 2}))
    assert (checkpointer.load_checkpoint("t")).state == {**state, "n": 2}
    checkpointer.delete_thread("t")
    checkpointer.save_checkpoint(Checkpoint("t", {**state, "n": 3}))
    assert (checkpointer.load_checkpoint("t")).state == {**state, "n": 3}


def test_after_the_latest_is_deleted_the_one_before_is_the_latest_and_its_number_is_not_given_again(
    checkpointer: Checkpointer,
) -> None:
    for n in (1, 2):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": n}))
    checkpointer.delete_checkpoint("t", 2)
    latest = checkpointer.latest("t")
    assert latest is not None
    assert latest.version == 1
    saved = checkpointer.save_checkpoint(Checkpoint("t", {"n": 3}), expected_version=1)
    assert (saved.version, saved.parent_version) == (3, 1)
    for version in (1, 3):
        checkpointer.delete_checkpoint("t", version)
    assert checkpointer.latest("t") is None
    assert (checkpointer.list_threads())[0].versions == {"": 0}
    assert (checkpointer.save_checkpoint(Checkpoint("t", {}), expected_version=0)).version == 4


def test_a_delete_never_reaches_another_thread_or_namespace(checkpointer: Checkpointer) -> None:
    for thread in ("a", "ab", "A"):
        for namespace in ("", "sub"):
            for _ in range(2):
                checkpointer.save_checkpoint(Checkpoint(thread, {"v": LONG}, namespace=namespace))
    assert checkpointer.delete_checkpoint("a", 3) is False
    assert checkpointer.delete_checkpoint("b", 1) is False
    assert checkpointer.delete_checkpoint("a", 1, namespace="other") is False
    assert checkpointer.delete_checkpoint("a", 1, namespace="sub") is True
    assert versions(checkpointer, "a") == [2, 1]
    assert checkpointer.delete_thread("a") == 3
    assert checkpointer.delete_thread("a") == 0
    assert [found.thread_id for found in checkpointer.list_threads()] == ["A", "ab"]
    for thread in ("A", "ab"):
        for namespace in ("", "sub"):
            assert (checkpointer.load_checkpoint(thread, 1, namespace=namespace)).state == {"v": LONG}
    assert (checkpointer.save_checkpoint(Checkpoint("a", {}))).version == 1


def test_sixteen_writers_on_one_thread_get_versions_without_holes_or_doubles(
    checkpointer: Checkpointer,
) -> None:
    def saver(n: int) -> Callable[[], Any]:
        return lambda: checkpointer.save_checkpoint(Checkpoint("t", {"n": n, "own": f"{n} " * 30, "same": LONG}))

    saved = [one for _ in range(4) for one in together([saver(n) for n in range(16)])]
    assert sorted(one.version for one in saved) == list(range(1, 65))
    for one in saved:
        assert (checkpointer.load_checkpoint("t", one.version)).state == one.state
        assert one.parent_version == (one.version - 1 or None)


def test_of_writers_that_expect_the_same_version_exactly_one_wins_each_round(
    checkpointer: Checkpointer,
) -> None:
    def attempt(n: int, expected: int) -> bool:
        try:
            checkpointer.save_checkpoint(Checkpoint("t", {"n": n, "v": LONG}), expected_version=expected)
        except ConflictError:
            return False
        return True

    def attempts(expected: int) -> list[Callable[[], Any]]:
        return [lambda n=n: attempt(n, expected) for n in range(8)]  # type: ignore[misc]

    for expected in range(6):
        assert sum(together(attempts(expected))) == 1
    assert versions(checkpointer, "t") == [6, 5, 4, 3, 2, 1]


def test_saves_beside_deletes_stay_whole(checkpointer: Checkpointer) -> None:
    def save(worker: int) -> None:
        for n in range(15):
            state = {"same": LONG, "turn": f"{n % 3}" * 50, "own": f"{worker}/{n} " * 20}
            saved = checkpointer.save_checkpoint(Checkpoint("t", state))
            kept[saved.version or 0] = state

    def delete() -> None:
        for _ in range(25):
            for found in (checkpointer.list_checkpoints("t", limit=3))[1:]:
                checkpointer.delete_checkpoint("t", found.version)

    kept: dict[int, dict[str, Any]] = {}
    together([lambda: save(1), lambda: save(2), delete, lambda: save(3), delete])
    assert sorted(kept) == list(range(1, 46))
    for version in versions(checkpointer, "t"):
        assert (checkpointer.load_checkpoint("t", version)).state == kept[version]


BAD_IDS: list[Any] = ["", "a\0b", "\ud800", "x" * 1025, "x" * 10_000, "é" * 513, 7, None, b"t"]


def calls_with_id(checkpointer: Checkpointer, bad: Any) -> list[Callable[[], Any]]:
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


def test_a_bad_id_is_refused_by_every_call(checkpointer: Checkpointer) -> None:
    for bad in BAD_IDS:
        for call in calls_with_id(checkpointer, bad):
            with pytest.raises(ValidationError, match=r"thread id|namespace|node"):
                call()
    assert checkpointer.list_threads() == []


def test_an_id_that_is_too_long_is_told_the_limit(checkpointer: Checkpointer) -> None:
    with pytest.raises(ValidationError, match="10,000 bytes in UTF-8, more than the limit of 1,024"):
        checkpointer.save_checkpoint(Checkpoint("x" * 10_000, {}))


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


def test_an_odd_id_is_an_id_like_any_other(checkpointer: Checkpointer) -> None:
    for odd in ODD_IDS:
        checkpointer.save_checkpoint(Checkpoint("other", {"v": LONG}, namespace=odd))
        saved = checkpointer.save_checkpoint(Checkpoint(odd, {"v": LONG}, namespace=odd, node=odd))
        assert checkpointer.load_checkpoint(odd, namespace=odd) == saved
    assert [found.thread_id for found in checkpointer.list_threads()] == sorted([*ODD_IDS, "other"])
    for odd in ODD_IDS:
        assert checkpointer.delete_thread(odd) == 1
    assert [found.versions for found in checkpointer.list_threads()] == [dict.fromkeys(ODD_IDS, 1)]


def test_the_longest_ids_fit_together(checkpointer: Checkpointer) -> None:
    # Of hexadecimal digests, which PostgreSQL can't compress into an index entry.
    thread, namespace = (
        "".join(hashlib.sha256(f"{which}{n}".encode()).hexdigest() for n in range(16)) for which in "ab"
    )
    checkpointer.save_checkpoint(Checkpoint(thread, {"v": LONG}, namespace=namespace, node=thread))
    assert (checkpointer.load_checkpoint(thread, 1, namespace=namespace)).state == {"v": LONG}


BAD_VERSIONS: list[Any] = [0, -1, True, 1.0, "1", 2**62 + 1, 10**5000]


def calls_with_version(checkpointer: Checkpointer, bad: Any) -> list[Callable[[], Any]]:
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


def test_a_bad_version_is_refused_by_every_call(checkpointer: Checkpointer) -> None:
    checkpointer.save_checkpoint(Checkpoint("t", {}))
    for bad in BAD_VERSIONS:
        for call in calls_with_version(checkpointer, bad):
            with pytest.raises(ValidationError, match=r"version|limit"):
                call()
    assert versions(checkpointer, "t") == [1]


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


def test_metadata_that_json_would_change_is_refused(checkpointer: Checkpointer) -> None:
    for bad in BAD_METADATA:
        with pytest.raises(ValidationError):
            checkpointer.save_checkpoint(Checkpoint("t", {}, metadata=bad))
    assert checkpointer.list_threads() == []


def test_metadata_nested_too_deeply_is_refused(checkpointer: Checkpointer) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(ValidationError, match="nested deeper"):
        checkpointer.save_checkpoint(Checkpoint("t", {}, metadata=deep))
    while deep:  # taken apart from outside, for its own destructor would recurse
        deep = deep.pop("a")


BAD_STATES: list[Any] = [None, [], "state", 7, {1: "int key"}, {"a": object()}, {"a": lambda: None}]


def test_a_state_that_cannot_be_stored_is_refused(checkpointer: Checkpointer) -> None:
    for bad in BAD_STATES:
        with pytest.raises(ValidationError):
            checkpointer.save_checkpoint(Checkpoint("t", bad))
    assert checkpointer.list_threads() == []


def test_a_value_that_cannot_be_stored_is_named_by_its_channel(checkpointer: Checkpointer) -> None:
    with pytest.raises(ValidationError, match=r"state\['tools'\]"):
        checkpointer.save_checkpoint(Checkpoint("t", {"fine": 1, "tools": [{"run": object()}]}))


def test_a_timestamp_without_a_zone_or_beyond_the_calendar_is_refused(checkpointer: Checkpointer) -> None:
    first = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    for bad in (datetime(2024, 1, 1), first, "2024-01-01", 5):  # noqa: DTZ001 - the point
        with pytest.raises(ValidationError, match="timestamp"):
            checkpointer.save_checkpoint(Checkpoint("t", {}, timestamp=bad))  # type: ignore[arg-type]


def test_what_is_no_checkpoint_is_refused(checkpointer: Checkpointer) -> None:
    with pytest.raises(ValidationError, match="takes a Checkpoint, not dict"):
        checkpointer.save_checkpoint({"thread_id": "t"})  # type: ignore[arg-type]


class Point:
    """A class of a user."""

    def __init__(self, x: int) -> None:
        self.x = x


def test_a_class_of_the_user_needs_a_serializer_that_knows_it(manager: DatabaseManager) -> None:
    manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    serializer = Serializer()
    serializer.register(Point, "point", lambda point: point.x, Point)
    knowing: list[Checkpointer] = [
        MemoryCheckpointer(serializer=serializer),
        DatabaseCheckpointer(manager, "main", serializer=serializer),
    ]
    for checkpointer in knowing:
        checkpointer.save_checkpoint(Checkpoint("t", {"at": Point(3)}))
        assert (checkpointer.load_checkpoint("t")).state["at"].x == 3
    with pytest.raises(ValidationError, match="Point"):
        DatabaseCheckpointer(manager, "main").save_checkpoint(Checkpoint("t", {"at": Point(3)}))


# What those on a SQL database promise besides


@pytest.fixture
def stored(manager: DatabaseManager, database: Database) -> DatabaseCheckpointer:
    """A checkpointer on the connection ``main``, its tables made."""
    checkpointer = DatabaseCheckpointer(manager, "main")
    checkpointer.latest("t")
    return checkpointer


def test_what_was_saved_is_read_back_by_another_connection(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    saved = stored.save_checkpoint(Checkpoint("t", RICH, metadata={"a": 1}))
    other = DatabaseCheckpointer(manager, second(manager, database))
    assert other.load_checkpoint("t") == saved


def test_the_columns_hold_the_content_under_its_hash(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"long": [LONG], "short": 7}, metadata={"source": "loop"}))
    row = database.fetch_one("SELECT metadata, manifest, refs FROM holdfast_checkpoints")
    pieces = database.fetch_all("SELECT hash, data FROM holdfast_checkpoint_pieces ORDER BY hash")
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


def test_a_save_stores_only_the_channels_that_changed(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    state: dict[str, Any] = {f"c{n}": f"{n}" * 50 for n in range(10)}
    fresh = DatabaseCheckpointer(manager, "main")
    counts = []
    for n in range(5):
        state["c3"] = f"changed {n} " * 10
        (stored if n < 3 else fresh).save_checkpoint(Checkpoint("t", state))
        counts.append(database.fetch_value("SELECT count(*) FROM holdfast_checkpoint_pieces"))
    assert counts == [10, 11, 12, 13, 14]
    stored.save_checkpoint(Checkpoint("t", state))
    assert database.fetch_value("SELECT count(*) FROM holdfast_checkpoint_pieces") == 14


def test_a_piece_that_is_known_to_be_stored_is_not_sent(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    """A piece taken away by hand, behind the checkpointers' backs, stays away until somebody sends it."""
    state = {"a": LONG, "b": LONG * 2}
    stored.save_checkpoint(Checkpoint("t", state))
    reader = DatabaseCheckpointer(manager, "main")
    reader.latest("t")
    database.execute("DELETE FROM holdfast_checkpoint_pieces")
    count = "SELECT count(*) FROM holdfast_checkpoint_pieces"
    reader.save_checkpoint(Checkpoint("t", {**state, "n": 1}))
    assert database.fetch_value(count) == 0
    reader.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3}))
    assert database.fetch_value(count) == 1
    reader.save_checkpoint(Checkpoint("t", {**state, "d": LONG * 4, "e": LONG * 5}))
    assert database.fetch_value(count) == 3
    DatabaseCheckpointer(manager, "main").save_checkpoint(Checkpoint("t", state))
    assert database.fetch_value(count) == 5


def test_a_text_that_is_the_same_object_or_only_equal_comes_back(stored: DatabaseCheckpointer) -> None:
    texts = ["text " * 20, b"bytes" * 20, "text " * 21]
    for text in (texts[0], texts[0], texts[1], texts[1], "text " * 20, texts[2], texts[0]):
        stored.save_checkpoint(Checkpoint("t", {"v": text, "same": LONG}))
    loaded = [(stored.load_checkpoint("t", n)).state["v"] for n in range(1, 8)]
    assert loaded == [texts[0], texts[0], texts[1], texts[1], texts[0], texts[2], texts[0]]


def test_each_call_is_one_request(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    def requests(call: Callable[[], Any]) -> int:
        before = manager.stats()["main"].requests
        call()
        return manager.stats()["main"].requests - before

    state: dict[str, Any] = {"a": LONG, "b": LONG * 2, "n": 0}

    def save(**changes: Any) -> None:
        state.update(changes)
        stored.save_checkpoint(Checkpoint("t", state))

    assert requests(save) == 1  # a new thread
    assert requests(save) == 1  # nothing changed
    assert requests(lambda: save(n=1)) == 1
    assert requests(lambda: save(a=LONG * 3)) == 1
    assert requests(lambda: save(a=LONG * 4, b=LONG * 5, c=LONG * 6)) == 1
    expecting = Checkpoint("t", state)
    assert requests(lambda: stored.save_checkpoint(expecting, expected_version=5)) == 1
    assert requests(lambda: stored.save_checkpoint(Checkpoint("t", state, version=9))) == 1
    assert requests(lambda: stored.load_checkpoint("t")) == 1
    assert requests(lambda: stored.load_checkpoint("t", 2)) == 1
    assert requests(lambda: stored.latest("ghost")) == 1
    assert requests(lambda: stored.list_checkpoints("t")) == 1
    assert requests(lambda: stored.list_threads()) == 1
    assert requests(lambda: stored.delete_checkpoint("t", 1)) == 1
    assert requests(lambda: stored.delete_thread("t")) == 1


def test_a_delete_gives_back_every_piece_that_nobody_needs(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    for n in range(4):
        stored.save_checkpoint(Checkpoint("t", {"same": LONG, "own": f"{n}" * 50, "pair": f"{n // 2}" * 60}))
    count = "SELECT count(*) FROM holdfast_checkpoint_pieces"
    assert database.fetch_value(count) == 7
    stored.delete_checkpoint("t", 1)
    assert database.fetch_value(count) == 6
    stored.delete_checkpoint("t", 2)
    assert database.fetch_value(count) == 4
    stored.delete_thread("t")
    for table in ("pieces", "threads"):
        assert database.fetch_value(f"SELECT count(*) FROM holdfast_checkpoint_{table}") == 0
    assert database.fetch_value("SELECT count(*) FROM holdfast_checkpoints") == 0


def test_what_another_process_deleted_or_saved_is_noticed_and_sent_again(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    other = DatabaseCheckpointer(manager, second(manager, database))
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2}
    stored.save_checkpoint(Checkpoint("t", state))
    other.delete_thread("t")
    assert (stored.save_checkpoint(Checkpoint("t", state))).version == 1
    assert (other.load_checkpoint("t")).state == state
    other.delete_checkpoint("t", 1)
    assert (stored.save_checkpoint(Checkpoint("t", {**state, "n": 1}))).version == 2
    assert (other.load_checkpoint("t", 2)).state == {**state, "n": 1}
    other.save_checkpoint(Checkpoint("t", {"c": LONG}))
    other.delete_checkpoint("t", 2)
    assert (stored.save_checkpoint(Checkpoint("t", {**state, "n": 2}))).version == 4
    assert (other.load_checkpoint("t", 4)).state == {**state, "n": 2}
    other.delete_thread("t")
    with pytest.raises(ConflictError) as caught:
        stored.save_checkpoint(Checkpoint("t", state), expected_version=4)
    assert caught.value.actual == 0


def test_a_save_of_another_process_is_a_conflict_for_who_expects_the_version_before(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    other = DatabaseCheckpointer(manager, second(manager, database))
    other.save_checkpoint(Checkpoint("t", {"a": LONG}))
    with pytest.raises(ConflictError) as caught:
        stored.save_checkpoint(Checkpoint("t", {"a": LONG}), expected_version=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)


def test_saves_and_deletes_of_two_processes_stay_whole(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    other = DatabaseCheckpointer(manager, second(manager, database))
    kept: dict[int, dict[str, Any]] = {}

    def save(checkpointer: Checkpointer, worker: int) -> None:
        for n in range(20):
            state = {"same": LONG, "turn": f"{n % 2}" * 50, "own": f"{worker}/{n} " * 20}
            saved = checkpointer.save_checkpoint(Checkpoint("t", state))
            kept[saved.version or 0] = state

    def delete() -> None:
        for _ in range(20):
            for found in (other.list_checkpoints("t", limit=3))[1:]:
                other.delete_checkpoint("t", found.version)

    together([lambda: save(stored, 1), lambda: save(other, 2), delete])
    assert sorted(kept) == list(range(1, 41))
    reader = DatabaseCheckpointer(manager, "main")
    for version in versions(reader, "t"):
        assert (reader.load_checkpoint("t", version)).state == kept[version]


def test_a_thread_put_back_by_hand_to_an_older_time_is_noticed(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    """As after a failover or a restored backup: the last commits, and their pieces, are gone."""
    stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    stamp = database.fetch_value("SELECT stamp FROM holdfast_checkpoint_threads")
    stored.save_checkpoint(Checkpoint("t", {"a": LONG * 2}))
    database.execute("DELETE FROM holdfast_checkpoints WHERE version = 2")
    database.execute(
        "DELETE FROM holdfast_checkpoint_pieces WHERE hash NOT IN (SELECT refs FROM holdfast_checkpoints)"
    )
    database.execute(
        "UPDATE holdfast_checkpoint_threads SET latest = 1, counter = 1, stamp = :stamp", {"stamp": stamp}
    )
    assert (stored.save_checkpoint(Checkpoint("t", {"a": LONG * 2, "n": 1}))).version == 2
    assert (stored.load_checkpoint("t")).state == {"a": LONG * 2, "n": 1}


def test_a_save_joins_the_transaction_and_goes_with_it(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2}
    stored.save_checkpoint(Checkpoint("t", state))
    with pytest.raises(RuntimeError, match="undo"):
        with database.transaction():
            stored.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3, "n": 0}))
            stored.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3}))
            stored.save_checkpoint(Checkpoint("new", {**state, "c": LONG * 3}))
            assert (stored.load_checkpoint("t")).state == {**state, "c": LONG * 3}
            stored.delete_checkpoint("t", 1)
            raise RuntimeError("undo")
    other = DatabaseCheckpointer(manager, second(manager, database))
    assert versions(other, "t") == [1]
    assert other.latest("new") is None
    # Pieces that were rolled back are not believed stored.
    for thread in ("t", "new"):
        stored.save_checkpoint(Checkpoint(thread, {**state, "c": LONG * 3, "n": 1}))
        assert (other.load_checkpoint(thread)).state == {**state, "c": LONG * 3, "n": 1}
    with database.transaction():
        stored.save_checkpoint(Checkpoint("t", {**state, "n": 2}))
        stored.delete_thread("new")
    assert (other.load_checkpoint("t")).state == {**state, "n": 2}
    assert other.latest("new") is None


def test_a_refused_save_leaves_the_transaction_usable(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"n": 1}))
    with database.transaction():
        with pytest.raises(DuplicateError):
            stored.save_checkpoint(Checkpoint("t", {"n": 0}, version=1))
        with pytest.raises(ConflictError):
            stored.save_checkpoint(Checkpoint("t", {"n": 0}), expected_version=7)
        stored.save_checkpoint(Checkpoint("t", {"n": 2}))
    assert (stored.load_checkpoint("t")).state == {"n": 2}


def test_tenants_with_equal_ids_never_meet(manager: DatabaseManager, database: Database) -> None:
    one = DatabaseCheckpointer(manager, "main", tenant="one")
    two = DatabaseCheckpointer(manager, "main", tenant="two")
    one.save_checkpoint(Checkpoint("t", {"who": "one" * 20, "same": LONG}))
    one.save_checkpoint(Checkpoint("t", {"who": "one" * 30, "same": LONG}))
    assert two.list_threads() == []
    assert two.latest("t") is None
    assert two.delete_checkpoint("t", 1) is False
    assert two.delete_thread("t") == 0
    assert (two.save_checkpoint(Checkpoint("t", {"who": "two" * 20, "same": LONG}))).version == 1
    assert two.delete_thread("t") == 1
    assert (one.load_checkpoint("t", 2)).state == {"who": "one" * 30, "same": LONG}
    assert versions(one, "t") == [2, 1]


@pytest.mark.parametrize("bad", ["", "\0", "x" * 513, 7, None], ids=repr)
def test_a_bad_tenant_is_refused(manager: DatabaseManager, bad: Any) -> None:
    manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    with pytest.raises(ValidationError, match="tenant"):
        DatabaseCheckpointer(manager, "main", tenant=bad)


def test_a_closed_manager_says_so(stored: DatabaseCheckpointer, manager: DatabaseManager) -> None:
    manager.close()
    for call in (
        lambda: stored.save_checkpoint(Checkpoint("t", {})),
        lambda: stored.load_checkpoint("t"),
        lambda: stored.list_checkpoints("t"),
        lambda: stored.delete_thread("t"),
    ):
        with pytest.raises(ClosedError):
            call()


def test_without_migrating_a_missing_migration_is_named(
    manager: DatabaseManager, database: Database
) -> None:
    checkpointer = DatabaseCheckpointer(manager, "main", migrate=False)
    with pytest.raises(MigrationError, match="checkpoint/0001_checkpoints"):
        checkpointer.save_checkpoint(Checkpoint("t", {}))


def test_a_damaged_piece_is_named_with_its_channel_and_the_others_stay_readable(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"good": LONG}))
    stored.save_checkpoint(Checkpoint("t", {"good": LONG, "bad": LONG * 2}))
    key = hashlib.sha256(Serializer().dumps(LONG * 2)).digest()[:16]
    for damage in (b"\0" + Serializer().dumps(LONG * 2)[:-1], b"\x63" + Serializer().dumps(LONG * 2), b""):
        values = {"data": damage, "hash": key}
        database.execute("UPDATE holdfast_checkpoint_pieces SET data = :data WHERE hash = :hash", values)
        with pytest.raises(CorruptError, match=rf"checkpoint 2 of thread 't': channel 'bad': piece {key.hex()}"):
            DatabaseCheckpointer(manager, "main").load_checkpoint("t")
    database.execute("DELETE FROM holdfast_checkpoint_pieces WHERE hash = :hash", {"hash": key})
    with pytest.raises(CorruptError, match=rf"channel 'bad': piece {key.hex()} is missing"):
        DatabaseCheckpointer(manager, "main").load_checkpoint("t")
    assert (stored.load_checkpoint("t", 1)).state == {"good": LONG}


def test_a_damaged_manifest_is_never_read_as_another_state(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"a": LONG, "b": LONG * 2, "n": 7}))
    manifest = bytes(database.fetch_value("SELECT manifest FROM holdfast_checkpoints"))
    damaged = [b"", manifest[:-1], manifest + b"\0", b"\x02" + manifest[1:]]
    damaged += [manifest[:at] + bytes((manifest[at] ^ 1,)) + manifest[at + 1 :] for at in range(len(manifest))]
    for wrong in damaged:
        database.execute("UPDATE holdfast_checkpoints SET manifest = :wrong", {"wrong": wrong})
        with pytest.raises(CorruptError, match="checkpoint 1 of thread 't': its manifest"):
            DatabaseCheckpointer(manager, "main").load_checkpoint("t")
