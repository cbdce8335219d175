"""Outbox and relay: what is committed is delivered, at least once and in order by key; what fails waits, or dies."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncOutbox,
    AsyncRelay,
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
from tests._async.side import Started, sleep, together
from tests._async.test_monitor import until

pytestmark = pytest.mark.tables("persistence")

AT_ONCE = Backoff(retries=2, base=0.001, cap=0.001)


class Sink:
    """Keeps what it is handed, and refuses what it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int, Any]] = []
        self.refused: dict[tuple[str, int], int] = {}

    async def __call__(self, item: OutboxItem) -> None:
        left = self.refused.get((item.key, item.number), 0)
        if left:
            self.refused[item.key, item.number] = left - 1
            raise OSError(f"no to {item.payload}")
        self.taken.append((item.key, item.number, item.payload))


@pytest.fixture
def outbox(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncOutbox:
    return AsyncOutbox(manager, "main", "orders")


async def test_items_are_delivered_in_order_by_key_and_then_gone(outbox: AsyncOutbox) -> None:
    assert await outbox.put("a", {"n": 1}) == 1
    assert await outbox.put_many([("b", b"\0\xff"), ("a", [1, None, "\0\ud800"]), ("a", -(2**70)), ("b", 7)]) == [
        1,
        2,
        3,
        2,
    ]
    status = await outbox.status()
    assert (status.pending, status.keys, status.dead) == (5, 2, 0)
    sink = Sink()
    assert await AsyncRelay(outbox, sink).run_once() == RelayReport(delivered=5)
    assert len(sink.taken) == 5
    assert [taken for taken in sink.taken if taken[0] == "a"] == [
        ("a", 1, {"n": 1}),
        ("a", 2, [1, None, "\0\ud800"]),
        ("a", 3, -(2**70)),
    ]
    assert [taken for taken in sink.taken if taken[0] == "b"] == [("b", 1, b"\0\xff"), ("b", 2, 7)]
    status = await outbox.status()
    assert (status.pending, status.keys, status.dead, status.oldest) == (0, 0, 0, None)
    assert await AsyncRelay(outbox, sink).run_once() == RelayReport()
    assert await outbox.put("a", None) == 4  # numbers go on


async def test_what_is_rolled_back_is_never_delivered(outbox: AsyncOutbox, database: AsyncDatabase) -> None:
    await outbox.put("a", "kept")
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            assert await outbox.put("a", "gone") == 2
            raise ZeroDivisionError
    async with database.transaction():
        await outbox.put("a", "kept too")
    sink = Sink()
    await AsyncRelay(outbox, sink).flush()
    assert sink.taken == [("a", 1, "kept"), ("a", 2, "kept too")]


async def test_a_failed_item_holds_back_its_key_and_no_other(outbox: AsyncOutbox) -> None:
    await outbox.put_many([("a", 1), ("a", 2), ("b", 1), ("a", 3)])
    sink = Sink()
    sink.refused["a", 2] = 2
    relay = AsyncRelay(outbox, sink, backoff=Backoff(retries=2, base=3600, cap=3600))
    assert await relay.run_once() == RelayReport(delivered=2, failed=1)
    assert sorted(sink.taken) == [("a", 1, 1), ("b", 1, 1)]
    assert await relay.run_once() == RelayReport()  # it waits for its time
    assert await relay.flush(timeout=0.05) == RelayReport(left=2)
    wait = await outbox.next_due()
    assert wait is not None
    assert 2000 < wait < 5000


async def test_what_fails_too_often_is_a_dead_letter_and_the_key_goes_on(
    outbox: AsyncOutbox, caplog: pytest.LogCaptureFixture
) -> None:
    await outbox.put_many([("a", "s3cret"), ("a", "second")])
    sink = Sink()
    sink.refused["a", 1] = 99
    relay = AsyncRelay(outbox, sink, backoff=AT_ONCE, poll=0.01)
    assert await relay.flush() == RelayReport(delivered=1, failed=3, dead=1)
    assert sink.taken == [("a", 2, "second")]
    [letter] = await outbox.dead_letters()
    assert (letter.key, letter.number, letter.payload, letter.attempts) == ("a", 1, "s3cret", 3)
    assert letter.error == "OSError: no to s3cret"
    assert "s3cret" not in caplog.text
    assert letter.died_at >= letter.created_at
    sink.refused.clear()
    assert await outbox.put_again(letter) == 3
    with pytest.raises(NotFoundError, match="no dead letter 1 of key 'a'"):
        await outbox.put_again(letter)
    assert await relay.flush() == RelayReport(delivered=1)
    assert sink.taken[1:] == [("a", 3, "s3cret")]
    assert await outbox.dead_letters() == []


async def test_an_error_that_no_database_holds_as_it_is_is_kept_all_the_same(outbox: AsyncOutbox) -> None:
    await outbox.put_many([("bad", 1), ("good", 2)])
    taken: list[str] = []

    async def sink(item: OutboxItem) -> None:
        taken.append(item.key)
        if item.key == "bad":
            raise ValueError("no \ud800 or \0 here")

    relay = AsyncRelay(outbox, sink, backoff=Backoff(retries=0))
    assert await relay.run_once() == RelayReport(delivered=1, failed=1, dead=1)
    assert await relay.run_once() == RelayReport()
    assert sorted(taken) == ["bad", "good"]
    assert [letter.error for letter in await outbox.dead_letters()] == ["ValueError: no \\ud800 or \\0 here"]


async def test_dead_letters_are_paged_and_deleted(outbox: AsyncOutbox) -> None:
    await outbox.put_many([(key, n) for key in ("b", "a") for n in (1, 2)])
    sink = Sink()
    sink.refused.update({(key, n): 99 for key in ("a", "b") for n in (1, 2)})
    await AsyncRelay(outbox, sink, backoff=AT_ONCE, poll=0.01).flush()
    first = await outbox.dead_letters(limit=3)
    assert [(each.key, each.number) for each in first] == [("a", 1), ("a", 2), ("b", 1)]
    rest = await outbox.dead_letters(limit=3, after=first[-1])
    assert [(each.key, each.number) for each in rest] == [("b", 2)]
    assert await outbox.delete_dead_letter(rest[0])
    assert not await outbox.delete_dead_letter(rest[0])
    assert (await outbox.status()).dead == 3


async def test_a_relay_that_was_silent_for_its_lease_changes_nothing(outbox: AsyncOutbox) -> None:
    await outbox.put_many([("a", 1), ("a", 2)])
    [(fence, items)] = await outbox.claim(10, 1, 0.0)
    assert [item.number for item in items] == [1]
    sink = Sink()
    assert await AsyncRelay(outbox, sink).run_once() == RelayReport(delivered=2)
    assert await outbox.settle([Settled("a", fence, 1)]) == set()
    assert (await outbox.status()).pending == 0
    assert await outbox.put("a", 3) == 3


async def test_an_item_that_a_relay_had_no_time_for_keeps_its_tries(outbox: AsyncOutbox) -> None:
    await outbox.put("a", 1)
    sink = Sink()
    sink.refused["a", 1] = 2
    for _ in range(2):
        assert (await AsyncRelay(outbox, sink, backoff=Backoff(base=1e-9, cap=1e-9)).run_once()).failed == 1
    assert await AsyncRelay(outbox, sink, lease=1e-6).run_once() == RelayReport()
    [(_, [item])] = await outbox.claim(1, 1, 0)
    assert item.attempts == 2


async def test_a_relay_outlives_a_server_that_became_read_only(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = await manager.add_postgresql("main", postgresql_config)
    outbox, sink = AsyncOutbox(manager, "main", "orders"), Sink()
    await outbox.put("a", 1)
    await database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
    async with AsyncRelay(outbox, sink, poll=0.01) as relay:
        await until(lambda: bool(sink.taken))
        assert relay.is_running
    assert sink.taken == [("a", 1, 1)]
    assert database.stats().errors == 1


async def test_what_one_relay_has_in_hand_no_other_gets(outbox: AsyncOutbox) -> None:
    await outbox.put("a", 1)
    assert len(await outbox.claim(10, 10, 60.0)) == 1
    await outbox.put("a", 2)
    assert await outbox.claim(10, 10, 60.0) == []
    assert await AsyncRelay(outbox, Sink()).flush(timeout=0.05) == RelayReport(left=2)


async def test_topics_and_tenants_are_apart(manager: AsyncDatabaseManager, outbox: AsyncOutbox) -> None:
    others = [AsyncOutbox(manager, "main", "bills"), AsyncOutbox(manager, "main", "orders", tenant="t2")]
    await outbox.put("a", "mine")
    for other in others:
        assert await other.claim(10, 10, 60.0) == []
        assert (await other.status()).pending == 0
        assert await other.put("a", "theirs") == 1
    sink = Sink()
    await AsyncRelay(outbox, sink).flush()
    assert sink.taken == [("a", 1, "mine")]


async def test_many_writers_of_one_key_get_numbers_without_gaps(outbox: AsyncOutbox) -> None:
    async def put(at: int) -> list[int]:
        return [await outbox.put("k", [at, n]) for n in range(5)]

    await outbox.put("k", "first")
    numbers = [number for each in await together(*[lambda at=at: put(at) for at in range(8)]) for number in each]
    assert sorted(numbers) == list(range(2, 42))
    sink = Sink()
    await AsyncRelay(outbox, sink, each=7).flush()
    assert [number for _, number, _ in sink.taken] == list(range(1, 42))
    of_writer: dict[int, list[int]] = defaultdict(list)
    for _, _, payload in sink.taken[1:]:
        of_writer[payload[0]].append(payload[1])
    assert all(order == [0, 1, 2, 3, 4] for order in of_writer.values())


async def test_a_relay_works_in_the_background_until_it_is_stopped(outbox: AsyncOutbox) -> None:
    sink = Sink()
    relay = AsyncRelay(outbox, sink, poll=0.01)
    async with relay:
        relay.start()
        await outbox.put_many([("a", n) for n in range(30)])
        await until(lambda: len(sink.taken) == 30)
        assert relay.is_running
    assert not relay.is_running
    await relay.stop()
    await outbox.put("a", "later")
    assert (await outbox.status()).pending == 1


async def test_keys_that_have_nothing_left_are_forgotten(outbox: AsyncOutbox, database: AsyncDatabase) -> None:
    await outbox.put_many([("a", 1), ("b", 1), ("c", 1)])
    sink = Sink()
    sink.refused["c", 1] = 99
    await AsyncRelay(outbox, sink, backoff=AT_ONCE, poll=0.01).flush()
    await outbox.put("b", 2)
    assert await outbox.forget_keys(idle=3600) == 0
    assert await outbox.forget_keys(idle=0) == 1
    left = await database.fetch_all("SELECT key FROM holdfast_outbox_keys ORDER BY key")
    assert [row["key"] for row in left] == ["b", "c"]  # c has a dead letter
    assert await outbox.put("a", "anew") == 1


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
async def test_what_can_not_be_kept_is_refused_and_nothing_is_put(
    outbox: AsyncOutbox, key: Any, payload: Any, part: str
) -> None:
    with pytest.raises(ValidationError, match=part):
        await outbox.put_many([("good", 1), (key, payload)])
    assert (await outbox.status()).pending == 0


async def test_ids_with_sql_in_them_are_ids(outbox: AsyncOutbox) -> None:
    keys = ["'; DROP TABLE holdfast_outbox; --", '"', "%", "a:b*", "😀" * 200]
    await outbox.put_many([(key, key) for key in keys])
    sink = Sink()
    await AsyncRelay(outbox, sink).flush()
    assert sorted(key for key, _, _ in sink.taken) == sorted(keys)
    with pytest.raises(NotFoundError):
        await outbox.put_again(DeadLetter("orders", keys[0], 1, None, *[None] * 2, 1, "x"))  # type: ignore[arg-type,list-item]


async def test_a_put_and_a_round_of_a_relay_are_one_statement_each(
    manager: AsyncDatabaseManager, database: AsyncDatabase, outbox: AsyncOutbox
) -> None:
    await outbox.put("warm", 1)
    relay = AsyncRelay(outbox, Sink())
    await relay.run_once()
    seen: list[str] = []
    manager.on_statement.append(lambda event: seen.append(event.operation))
    await outbox.put_many([(f"k{n % 7}", n) for n in range(100)])
    assert len(seen) == 1
    await relay.run_once()
    if database.kind == "postgresql":
        assert len(seen) == 3  # claim, settle


async def test_a_closed_manager_says_so(tmp_path: Path) -> None:
    async with AsyncDatabaseManager() as manager:
        await manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "x.db")))
        outbox = AsyncOutbox(manager, "main", "orders")
        await outbox.put("a", 1)
    with pytest.raises(ClosedError):
        await outbox.put("a", 2)
    with pytest.raises(ClosedError):
        await AsyncRelay(outbox, Sink()).run_once()


async def test_flush_waits_for_what_another_relay_has_in_hand_though_its_lease_is_longer(outbox: AsyncOutbox) -> None:
    await outbox.put("a", 1)
    taken: list[Any] = []

    async def slowly(item: OutboxItem) -> None:
        taken.append(item.payload)
        await sleep(0.2)

    other = Started(AsyncRelay(outbox, slowly, lease=600).run_once)
    await until(lambda: taken)
    report = await AsyncRelay(outbox, Sink()).flush(timeout=20)
    assert (report.delivered, report.left) == (0, 0)
    assert (await outbox.status()).pending == 0
    assert (await other.result()).delivered == 1
