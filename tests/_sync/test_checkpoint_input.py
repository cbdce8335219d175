# Generated from ../_async/test_checkpoint_input.py by tests/unasync.py: edit that one.
"""What every checkpointer refuses before it writes, and the odd input that it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from checkpoint import Checkpointer, DatabaseCheckpointer, MemoryCheckpointer, Checkpoint, Serializer
from persistence import DatabaseManager, SQLiteConfig, ValidationError
from tests._sync.checkpoints import LONG, fresh, versions

pytestmark = pytest.mark.tables("checkpoint")

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
        fresh(manager).save_checkpoint(Checkpoint("t", {"at": Point(3)}))


def test_a_state_of_ten_thousand_keys_comes_back_and_so_does_a_change_of_one(
    checkpointer: Checkpointer,
) -> None:
    state: dict[str, Any] = {f"key {number}": number for number in range(10_000)}
    checkpointer.save_checkpoint(Checkpoint("t", state))
    checkpointer.save_checkpoint(Checkpoint("t", {**state, "key 7": "changed"}))
    assert (checkpointer.load_checkpoint("t", 1)).state == state
    assert (checkpointer.load_checkpoint("t")).state == {**state, "key 7": "changed"}
