"""Transactions that can't all be right at the same time: run again until each has committed, and the sum is right.

The same work without retries is the control: there, some of it must fail.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from persistence import (
    Backoff,
    DatabaseManager,
    DeadlockError,
    PersistenceError,
    PostgreSQLConfig,
    PostgreSQLDatabase,
    SerializationError,
    Transaction,
)

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
WORKERS = 8
TRANSACTIONS = 2_000 if FULL else 200
ROUNDS = 50 if FULL else 4
PATIENT = Backoff(retries=200, base=0.001, cap=0.05)
NEVER = Backoff(retries=0)


@pytest.fixture
def main(postgresql_config: PostgreSQLConfig) -> Iterator[PostgreSQLDatabase]:
    with DatabaseManager() as manager:
        database = manager.add_postgresql("main", replace(postgresql_config, max_connections=WORKERS))
        database.execute("CREATE TABLE accounts (id integer PRIMARY KEY, balance bigint NOT NULL)")
        database.execute_many("INSERT INTO accounts (id, balance) VALUES (:id, 0)", [{"id": id} for id in (1, 2)])
        yield database


def at_once(count: int, call: Callable[[int], None]) -> list[PersistenceError]:
    """Make the calls numbered 0 to ``count - 1`` by eight workers and return what failed."""

    def attempt(number: int) -> PersistenceError | None:
        try:
            call(number)
        except PersistenceError as exc:
            return exc
        return None

    with ThreadPoolExecutor(WORKERS) as workers:
        return [error for error in workers.map(attempt, range(count)) if error is not None]


def balances(database: PostgreSQLDatabase) -> list[int]:
    return [row["balance"] for row in database.fetch_all("SELECT balance FROM accounts ORDER BY id")]


def test_two_hundred_serializable_transactions_that_conflict_all_commit_and_the_sum_is_right(
    main: PostgreSQLDatabase,
) -> None:
    tries = 0
    counting = threading.Lock()

    def add(transaction: Transaction) -> None:
        nonlocal tries
        with counting:
            tries += 1
        assert transaction.fetch_value("SHOW transaction_isolation") == "serializable"
        total = transaction.fetch_value("SELECT sum(balance)::bigint FROM accounts")
        transaction.execute("UPDATE accounts SET balance = :total + 1 WHERE id = 1", {"total": total})

    failed = at_once(
        TRANSACTIONS, lambda _: main.run_transaction(add, isolation="serializable", backoff=PATIENT, timeout=30)
    )
    assert failed == []
    assert balances(main) == [TRANSACTIONS, 0]
    print(f"{TRANSACTIONS} transactions took {tries} tries")
    assert tries > TRANSACTIONS  # they did conflict

    once = at_once(TRANSACTIONS, lambda _: main.run_transaction(add, isolation="serializable", backoff=NEVER))
    assert once != []  # the control
    assert {type(error) for error in once} == {SerializationError}
    assert balances(main) == [2 * TRANSACTIONS - len(once), 0]


def test_deadlocks_are_found_and_run_again_and_nothing_is_done_twice(main: PostgreSQLDatabase) -> None:
    def cross(meeting: threading.Barrier, number: int, tries: list[int], backoff: Backoff) -> None:
        def work(transaction: Transaction) -> None:
            tries.append(number)
            first = tries.count(number) == 1
            transaction.execute("SET LOCAL deadlock_timeout = '20ms'")
            for id in (1, 2) if number else (2, 1):
                transaction.execute("UPDATE accounts SET balance = balance + 1 WHERE id = :id", {"id": id})
                if first:
                    meeting.wait(20)  # each has its first row before either wants its second
                    first = False

        main.run_transaction(work, backoff=backoff)

    for done in range(1, ROUNDS + 1):
        tries: list[int] = []
        meeting = threading.Barrier(2)
        assert at_once(2, lambda number: cross(meeting, number, tries, PATIENT)) == []  # noqa: B023
        assert len(tries) >= 3  # one of the two was the victim
        assert balances(main) == [2 * done, 2 * done]

    meeting, tries = threading.Barrier(2), []
    failed = at_once(2, lambda number: cross(meeting, number, tries, NEVER))
    assert [type(error) for error in failed] == [DeadlockError]  # the control
    assert balances(main) == [2 * ROUNDS + 1, 2 * ROUNDS + 1]
