# Generated from ../_async/test_outbox.py by tests/unasync.py: edit that one.
"""Outbox and relay: what is committed is delivered, at least once and in order by key; what fails waits, or dies."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from persistence import (
    Database,
    DatabaseManager,
    Outbox,
    Relay,
    Backoff,
    ClosedError,
    DeadLetter,
    NotFoundError,
    OutboxItem,
    PostgreSQLConfig,
    RelayReport,
    SQLiteConfig,
    ValidationError,
)
from persistence.outbox import Settled
from tests._sync.side import Started, sleep, together
from tests._sync.test_monitor import until

pytestmark = pytest.mark.tables("persistence")

AT_ONCE = Backoff(retries=2, base=0.001, cap=0.001)


class Sink:
    """Keeps what it is handed, and refuses what it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int, Any]] = []
        self.refused: dict[tuple[str, int], int] = {}

    def __call__(self, item: OutboxItem) -> None:
        left = self.refused.get((item.key, item.number), 0)
        if left:
            self.refused[item.key, item.number] = left - 1
            raise OSError(f"no to {item.payload}")
        self.taken.append((item.key, item.number, item.payload))


@pytest.fixture
def outbox(manager: DatabaseManager, database: Database) -> Outbox:
    return Outbox(manager, "main", "orders")


def test_items_are_delivered_in_order_by_key_and_then_gone(outbox: Outbox) -> None:
    assert outbox.put("a", {"n": 1}) == 1
    assert outbox.put_many([("b", b"\0\xff"), ("a", [1, None, "\0\ud800"]), ("a", -(2**70)), ("b", 7)]) == [
        1,
        2,
        3,
        2,
    ]
    status = outbox.status()
    assert (status.pending, status.keys, status.dead) == (5, 2, 0)
    sink = Sink()
    assert Relay(outbox, sink).run_once() == RelayReport(delivered=5)
    assert len(sink.taken) == 5
    assert [taken for taken in sink.taken if taken[0] == "a"] == [
        ("a", 1, {"n": 1}),
        ("a", 2, [1, None, "\0\ud800"]),
        ("a", 3, -(2**70)),
    ]
    assert [taken for taken in sink.taken if taken[0] == "b"] == [("b", 1, b"\0\xff"), ("b", 2, 7)]
    status = outbox.status()
    assert (status.pending, status.keys, status.dead, status.oldest) == (0, 0, 0, None)
    assert Relay(outbox, sink).run_once() == RelayReport()
    assert outbox.put("a", None) == 4  # numbers go on


def test_what_is_rolled_back_is_never_delivered(outbox: Outbox, database: Database) -> None:
    outbox.put("a", "kept")
    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            assert outbox.put("a", "gone") == 2
            raise ZeroDivisionError
    with database.transaction():
        outbox.put("a", "kept too")
    sink = Sink()
    Relay(outbox, sink).flush()
    assert sink.taken == [("a", 1, "kept"), ("a", 2, "kept too")]


def test_a_failed_item_holds_back_its_key_and_no_other(outbox: Outbox) -> None:
    outbox.put_many([("a", 1), ("a", 2), ("b", 1), ("a", 3)])
    sink = Sink()
    sink.refused["a", 2] = 2
    relay = Relay(outbox, sink, backoff=Backoff(retries=2, base=3600, cap=3600))
    assert relay.run_once() == RelayReport(delivered=2, failed=1)
    assert sorted(sink.taken) == [("a", 1, 1), ("b", 1, 1)]
    assert relay.run_once() == RelayReport()  # it waits for its time
    assert relay.flush(timeout=0.05) == RelayReport(left=2)
    wait = outbox.next_due()
    assert wait is not None
    assert 2000 < wait < 5000


def test_what_fails_too_often_is_a_dead_letter_and_the_key_goes_on(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.put_many([("a", "s3cret"), ("a", "second")])
    sink = Sink()
    sink.refused["a", 1] = 99
    relay = Relay(outbox, sink, backoff=AT_ONCE, poll=0.01)
    assert relay.flush() == RelayReport(delivered=1, failed=3, dead=1)
    assert sink.taken == [("a", 2, "second")]
    [letter] = outbox.dead_letters()
    assert (letter.key, letter.number, letter.payload, letter.attempts) == ("a", 1, "s3cret", 3)
    assert letter.error == "OSError: no to s3cret"
    assert "s3cret" not in caplog.text
    assert letter.died_at >= letter.created_at
    sink.refused.clear()
    assert outbox.put_again(letter) == 3
    with pytest.raises(NotFoundError, match="no dead letter 1 of key 'a'"):
        outbox.put_again(letter)
    assert relay.flush() == RelayReport(delivered=1)
    assert sink.taken[1:] == [("a", 3, "s3cret")]
    assert outbox.dead_letters() == []


def test_an_error_that_no_database_holds_as_it_is_is_kept_all_the_same(outbox: Outbox) -> None:
    outbox.put_many([("bad", 1), ("good", 2)])
    taken: list[str] = []

    def sink(item: OutboxItem) -> None:
        taken.append(item.key)
        if item.key == "bad":
            raise ValueError("no \ud800 or \0 here")

    relay = Relay(outbox, sink, backoff=Backoff(retries=0))
    assert relay.run_once() == RelayReport(delivered=1, failed=1, dead=1)
    assert relay.run_once() == RelayReport()
    assert sorted(taken) == ["bad", "good"]
    assert [letter.error for letter in outbox.dead_letters()] == ["ValueError: no \\ud800 or \\0 here"]


def test_dead_letters_are_paged_and_deleted(outbox: Outbox) -> None:
    outbox.put_many([(key, n) for key in ("b", "a") for n in (1, 2)])
    sink = Sink()
    sink.refused.update({(key, n): 99 for key in ("a", "b") for n in (1, 2)})
    Relay(outbox, sink, backoff=AT_ONCE, poll=0.01).flush()
    first = outbox.dead_letters(limit=3)
    assert [(each.key, each.number) for each in first] == [("a", 1), ("a", 2), ("b", 1)]
    rest = outbox.dead_letters(limit=3, after=first[-1])
    assert [(each.key, each.number) for each in rest] == [("b", 2)]
    assert outbox.delete_dead_letter(rest[0])
    assert not outbox.delete_dead_letter(rest[0])
    assert (outbox.status()).dead == 3


def test_a_relay_that_was_silent_for_its_lease_changes_nothing(outbox: Outbox) -> None:
    outbox.put_many([("a", 1), ("a", 2)])
    [(fence, items)] = outbox.claim(10, 1, 0.0)
    assert [item.number for item in items] == [1]
    sink = Sink()
    assert Relay(outbox, sink).run_once() == RelayReport(delivered=2)
    assert outbox.settle([Settled("a", fence, 1)]) == set()
    assert (outbox.status()).pending == 0
    assert outbox.put("a", 3) == 3


def test_an_item_that_a_relay_had_no_time_for_keeps_its_tries(outbox: Outbox) -> None:
    outbox.put("a", 1)
    sink = Sink()
    sink.refused["a", 1] = 2
    for _ in range(2):
        assert (Relay(outbox, sink, backoff=Backoff(base=1e-9, cap=1e-9)).run_once()).failed == 1
    assert Relay(outbox, sink, lease=1e-6).run_once() == RelayReport()
    [(_, [item])] = outbox.claim(1, 1, 0)
    assert item.attempts == 2


def test_a_relay_outlives_a_server_that_became_read_only(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", postgresql_config)
    outbox, sink = Outbox(manager, "main", "orders"), Sink()
    outbox.put("a", 1)
    database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
    with Relay(outbox, sink, poll=0.01) as relay:
        until(lambda: bool(sink.taken))
        assert relay.is_running
    assert sink.taken == [("a", 1, 1)]
    assert database.stats().errors == 1


def test_what_one_relay_has_in_hand_no_other_gets(outbox: Outbox) -> None:
    outbox.put("a", 1)
    assert len(outbox.claim(10, 10, 60.0)) == 1
    outbox.put("a", 2)
    assert outbox.claim(10, 10, 60.0) == []
    assert Relay(outbox, Sink()).flush(timeout=0.05) == RelayReport(left=2)


def test_topics_and_tenants_are_apart(manager: DatabaseManager, outbox: Outbox) -> None:
    others = [Outbox(manager, "main", "bills"), Outbox(manager, "main", "orders", tenant="t2")]
    outbox.put("a", "mine")
    for other in others:
        assert other.claim(10, 10, 60.0) == []
        assert (other.status()).pending == 0
        assert other.put("a", "theirs") == 1
    sink = Sink()
    Relay(outbox, sink).flush()
    assert sink.taken == [("a", 1, "mine")]


def test_many_writers_of_one_key_get_numbers_without_gaps(outbox: Outbox) -> None:
    def put(at: int) -> list[int]:
        return [outbox.put("k", [at, n]) for n in range(5)]

    outbox.put("k", "first")
    numbers = [number for each in together(*[lambda at=at: put(at) for at in range(8)]) for number in each]
    assert sorted(numbers) == list(range(2, 42))
    sink = Sink()
    Relay(outbox, sink, each=7).flush()
    assert [number for _, number, _ in sink.taken] == list(range(1, 42))
    of_writer: dict[int, list[int]] = defaultdict(list)
    for _, _, payload in sink.taken[1:]:
        of_writer[payload[0]].append(payload[1])
    assert all(order == [0, 1, 2, 3, 4] for order in of_writer.values())


def test_a_relay_works_in_the_background_until_it_is_stopped(outbox: Outbox) -> None:
    sink = Sink()
    relay = Relay(outbox, sink, poll=0.01)
    with relay:
        relay.start()
        outbox.put_many([("a", n) for n in range(30)])
        until(lambda: len(sink.taken) == 30)
        assert relay.is_running
    assert not relay.is_running
    relay.stop()
    outbox.put("a", "later")
    assert (outbox.status()).pending == 1


def test_keys_that_have_nothing_left_are_forgotten(outbox: Outbox, database: Database) -> None:
    outbox.put_many([("a", 1), ("b", 1), ("c", 1)])
    sink = Sink()
    sink.refused["c", 1] = 99
    Relay(outbox, sink, backoff=AT_ONCE, poll=0.01).flush()
    outbox.put("b", 2)
    assert outbox.forget_keys(idle=3600) == 0
    assert outbox.forget_keys(idle=0) == 1
    left = database.fetch_all("SELECT key FROM holdfast_outbox_keys ORDER BY key")
    assert [row["key"] for row in left] == ["b", "c"]  # c has a dead letter
    assert outbox.put("a", "anew") == 1


@pytest.mark.parametrize(
    ("key", "payload", "part"),
    [
        ("", 1, "the key is empty"),
        ("k\0", 1, "NUL"),
        ("k" * 10_000, 1, "more than the limit"),
        ("k", float("nan"), "nan"),
        ("k", {1: 2}, "JSON has str keys only"),
        ("k", {1}, "is a set"),
        (7, 1, "not a str"),
    ],
)
def test_what_can_not_be_kept_is_refused_and_nothing_is_put(
    outbox: Outbox, key: Any, payload: Any, part: str
) -> None:
    with pytest.raises(ValidationError, match=part):
        outbox.put_many([("good", 1), (key, payload)])
    assert (outbox.status()).pending == 0


def test_ids_with_sql_in_them_are_ids(outbox: Outbox) -> None:
    keys = ["'; DROP TABLE holdfast_outbox; --", '"', "%", "a:b*", "😀" * 200]
    outbox.put_many([(key, key) for key in keys])
    sink = Sink()
    Relay(outbox, sink).flush()
    assert sorted(key for key, _, _ in sink.taken) == sorted(keys)
    with pytest.raises(NotFoundError):
        outbox.put_again(DeadLetter("orders", keys[0], 1, None, *[None] * 2, 1, "x"))  # type: ignore[arg-type,list-item]


def test_a_put_and_a_round_of_a_relay_are_one_statement_each(
    manager: DatabaseManager, database: Database, outbox: Outbox
) -> None:
    outbox.put("warm", 1)
    relay = Relay(outbox, Sink())
    relay.run_once()
    seen: list[str] = []
    manager.on_statement.append(lambda event: seen.append(event.operation))
    outbox.put_many([(f"k{n % 7}", n) for n in range(100)])
    assert len(seen) == 1
    relay.run_once()
    if database.kind == "postgresql":
        assert len(seen) == 3  # claim, settle


def test_a_closed_manager_says_so(tmp_path: Path) -> None:
    with DatabaseManager() as manager:
        manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "x.db")))
        outbox = Outbox(manager, "main", "orders")
        outbox.put("a", 1)
    with pytest.raises(ClosedError):
        outbox.put("a", 2)
    with pytest.raises(ClosedError):
        Relay(outbox, Sink()).run_once()


def test_flush_waits_for_what_another_relay_has_in_hand_though_its_lease_is_longer(outbox: Outbox) -> None:
    outbox.put("a", 1)
    taken: list[Any] = []

    def slowly(item: OutboxItem) -> None:
        taken.append(item.payload)
        sleep(0.2)

    other = Started(Relay(outbox, slowly, lease=600).run_once)
    until(lambda: taken)
    report = Relay(outbox, Sink()).flush(timeout=20)
    assert (report.delivered, report.left) == (0, 0)
    assert (outbox.status()).pending == 0
    assert (other.result()).delivered == 1
