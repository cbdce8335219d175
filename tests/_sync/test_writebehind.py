# Generated from ../_async/test_writebehind.py by tests/unasync.py: edit that one.
"""Write-behind: what was added is written in batches and in order, within bounds, and kept while it can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from persistence import (
    DatabaseManager,
    KeyValueStore,
    WriteBehind,
    Backoff,
    ClosedError,
    DeadlineError,
    PersistenceError,
    SQLiteConfig,
    UnavailableError,
    ValidationError,
)
from persistence.embedded import EmbeddedRedis
from tests._sync.side import Started, together
from tests._sync.test_monitor import until

QUICK = Backoff(base=0.001, cap=0.001)


class Shelf:
    """Keeps the batches it is handed, and refuses them while it is shut."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.refused: list[list[Any]] = []
        self.shut = False

    def write(self, items: list[Any]) -> None:
        if self.shut:
            self.refused.append(items)
            raise OSError("the shelf is shut")
        self.batches.append(items)


def test_items_are_written_in_order_in_batches_of_the_size_and_none_is_left() -> None:
    shelf = Shelf()
    with WriteBehind[int](shelf.write, size=10, age=60) as writer:
        for number in range(95):
            assert writer.add(number) is True
    assert [number for batch in shelf.batches for number in batch] == list(range(95))
    assert max(map(len, shelf.batches)) == 10
    assert len(shelf.batches) == 10
    assert (writer.written, writer.dropped, writer.coalesced, writer.pending) == (95, 0, 0, [])


def test_an_old_item_is_written_though_nothing_follows() -> None:
    shelf = Shelf()
    with WriteBehind[str](shelf.write, size=10, age=0.02) as writer:
        writer.add("a")
        until(lambda: shelf.batches)
        assert shelf.batches == [["a"]]
    assert shelf.batches == [["a"]]


def test_many_who_add_at_once_lose_nothing_and_wait_for_room() -> None:
    shelf = Shelf()
    with WriteBehind[int](shelf.write, size=7, age=0.01, capacity=10) as writer:

        def add(base: int) -> None:
            for number in range(100):
                writer.add(base + number)

        assert together(*[lambda base=base: add(base) for base in (0, 100, 200)]) == [None] * 3  # type: ignore[misc]
        writer.flush()
        taken = [number for batch in shelf.batches for number in batch]
    assert sorted(taken) == list(range(300))
    assert [number for number in taken if number < 100] == list(range(100))


def test_of_values_with_one_key_the_last_that_waits_is_written_in_the_place_of_the_first() -> None:
    shelf = Shelf()
    with WriteBehind[tuple[str, int]](shelf.write, size=100, age=60, key=lambda item: item[0]) as writer:
        for number in range(50):
            assert writer.add(("a", number))
            assert writer.add((f"b{number % 2}", number))
        assert writer.pending == [("a", 49), ("b0", 48), ("b1", 49)]
    assert shelf.batches == [[("a", 49), ("b0", 48), ("b1", 49)]]
    assert (writer.written, writer.coalesced) == (3, 97)


def test_a_value_under_way_is_written_before_the_later_one_of_its_key() -> None:
    shelf = Shelf()
    shelf.shut = True
    writer = WriteBehind[tuple[str, int]](
        shelf.write,
        size=2,
        age=60,
        capacity=3,
        when_full="drop",
        key=lambda item: item[0],
        backoff=Backoff(base=60, cap=60),
    )
    writer.start()
    writer.add(("a", 1))
    with pytest.raises(OSError, match="shut"):
        writer.flush()
    assert writer.add(("a", 2))
    assert writer.add(("b", 1))
    assert writer.add(("c", 1)) is False
    assert writer.add(("a", 3))  # it takes no room
    assert writer.pending == [("a", 1), ("a", 3), ("b", 1)]
    shelf.shut = False
    writer.close()
    assert shelf.refused == [[("a", 1)]]
    assert shelf.batches == [[("a", 1)], [("a", 3), ("b", 1)]]
    assert (writer.written, writer.coalesced, writer.dropped) == (3, 1, 1)


def test_an_error_is_raised_by_the_next_call_and_the_batch_is_written_again_by_itself() -> None:
    shelf = Shelf()
    shelf.shut = True
    with WriteBehind[int](shelf.write, size=2, age=60, backoff=QUICK) as writer:
        writer.add(0)
        writer.add(1)
        until(lambda: len(shelf.refused) >= 3)  # more often than anybody asked
        with pytest.raises(OSError, match="shut"):
            writer.add(2)
        assert writer.pending == [0, 1]
        shelf.shut = False
        until(lambda: shelf.batches)
        assert writer.add(2)  # an error that was overcome is not told
    assert shelf.batches == [[0, 1], [2]]
    assert all(batch == [0, 1] for batch in shelf.refused)


def test_a_close_that_fails_keeps_what_is_left_and_may_be_tried_again() -> None:
    shelf = Shelf()
    shelf.shut = True
    writer = WriteBehind[int](shelf.write, age=60, backoff=QUICK)
    writer.start()
    for number in range(5):
        writer.add(number)
    with pytest.raises(OSError, match="shut"):
        writer.close()
    assert writer.pending == [0, 1, 2, 3, 4]
    for call in (writer.flush, lambda: writer.add(5)):
        with pytest.raises(ClosedError):
            call()
    shelf.shut = False
    writer.start()
    writer.close()
    writer.close()
    assert shelf.batches == [[0, 1, 2, 3, 4]]


def test_a_full_buffer_waits_for_room_no_longer_than_its_timeout() -> None:
    shelf = Shelf()
    shelf.shut = True
    patient = Backoff(base=60, cap=60)
    writer = WriteBehind[int](shelf.write, size=2, age=60, capacity=2, timeout=0.1, backoff=patient)
    writer.start()
    assert writer.add(1)
    assert writer.add(2)
    until(lambda: shelf.refused)
    with pytest.raises(OSError, match="shut"):
        writer.add(3)
    with pytest.raises(DeadlineError, match="full all the time"):
        writer.add(3)
    waiting = Started(lambda: writer.add(4))
    shelf.shut = False
    writer.flush()
    assert waiting.result()
    writer.close()
    assert shelf.batches == [[1, 2], [4]]


def test_a_server_that_dies_and_comes_back_has_everything(manager: DatabaseManager, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis").start()
    manager.add_redis("cache", server.config())
    values = KeyValueStore(manager, "cache")

    def write(items: list[tuple[str, int]]) -> None:
        values.put_many(dict(items))

    with WriteBehind[tuple[str, int]](write, size=10, age=60, backoff=QUICK) as writer:
        for number in range(10):
            writer.add((f"k{number}", number))
        writer.flush()
        server.stop()
        writer.add(("late", 10))
        with pytest.raises(UnavailableError):
            writer.flush()
        assert writer.pending == [("late", 10)]
        server = EmbeddedRedis(tmp_path / "redis").start()
    assert (writer.written, values.get("late")) == (11, 10)
    server.stop()


def test_a_writer_that_cannot_be_and_an_item_that_cannot_be_are_refused(
    manager: DatabaseManager, tmp_path: Path
) -> None:
    shelf = Shelf()
    wrong: Any
    for wrong in (
        {"size": 0},
        {"size": True},
        {"age": 0},
        {"age": float("nan")},
        {"age": "1"},
        {"size": 10, "capacity": 9},
        {"when_full": "wait"},
        {"timeout": None},
    ):
        with pytest.raises(ValidationError):
            WriteBehind(shelf.write, **wrong)
    writer = WriteBehind[Any](shelf.write, key=lambda item: item)
    with pytest.raises(ClosedError, match="doesn't run"):
        writer.add(1)
    with writer:
        with pytest.raises(ValidationError, match="runs already"):
            writer.start()
        with pytest.raises(ValidationError, match="list, which is not hashable"):
            writer.add([])
    assert shelf.batches == []
    # What it writes to may be closed before it is: that is told, and nothing is gone.
    manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    values = KeyValueStore(manager, "main")
    behind = WriteBehind[dict[str, Any]](lambda items: values.put_many(items[0]), size=1)
    behind.start()
    behind.add({"a": 1})
    behind.flush()
    manager.remove("main")
    behind.add({"b": 2})
    with pytest.raises(PersistenceError, match="main"):
        behind.close()
    assert behind.pending == [{"b": 2}]
