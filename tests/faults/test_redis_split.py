"""Redis splits: writers go on at a master that its replica no longer hears, while the replica is promoted elsewhere.

The network between the two servers fails for real; the writers reach the old master all the time. When the network is
back the old master follows the new one and forgets what it alone had, as Sentinel and a cluster have it do. What was
acknowledged is then compared with what is there; the figures are printed (``pytest -rP``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from time import sleep

import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import (
    DatabaseManager,
    KeyValueStore,
    NotReplicatedError,
    PersistenceError,
    ReadOnlyError,
    UnavailableError,
)
from tests.redis_servers import RedisPair

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
WRITERS = 6
ROUNDS = 10 if FULL else 1
SECONDS = 0.5 if FULL else 0.2


def write_on(write: Callable[[int], object], stop: Event) -> tuple[list[int], list[PersistenceError]]:
    """Return which writes were acknowledged, and the errors of the others."""
    acknowledged, errors, number = [], [], 0
    while not stop.is_set():
        number += 1
        try:
            write(number)
        except PersistenceError as exc:
            errors.append(exc)
            sleep(0.001)  # a master that is a replica now refuses at once
        else:
            acknowledged.append(number)
    return acknowledged, errors


def split(pair: RedisPair, write: Callable[[int, int], object]) -> tuple[list[list[int]], list[PersistenceError]]:
    """Return what each writer was acknowledged before, while and after the servers were apart."""
    stop = Event()
    with ThreadPoolExecutor(WRITERS) as threads:
        running = [threads.submit(write_on, lambda n, w=w: write(w, n), stop) for w in range(WRITERS)]
        try:
            sleep(SECONDS)
            pair.between.mode = "black hole"
            sleep(SECONDS)
            pair.promote()
            sleep(SECONDS)
            pair.follow(0, pair.ports[1])
            sleep(SECONDS / 4)
        finally:
            stop.set()
        found = [each.result(30) for each in running]
    return [acknowledged for acknowledged, _ in found], [exc for _, errors in found for exc in errors]


def through_a_split(pair: RedisPair, min_replicas: int) -> tuple[int, int]:
    """Return how many values and checkpoints were acknowledged, and how many of them are gone."""
    with DatabaseManager() as manager:
        manager.add_redis("main", pair.config(min_replicas=min_replicas, replica_timeout=0.2))
        values, checkpoints = KeyValueStore(manager, "main"), DatabaseCheckpointer(manager, "main")

        def write(writer: int, number: int) -> None:
            if writer % 2:
                values.put(f"{writer}/{number}", number)
            else:
                checkpoints.save_checkpoint(Checkpoint(f"thread {writer}", {"n": number}, key=str(number)))

        acknowledged, errors = split(pair, write)
        assert all(isinstance(exc, UnavailableError | ReadOnlyError) for exc in errors), {repr(e) for e in errors}
        assert any(isinstance(exc, NotReplicatedError) for exc in errors) == bool(min_replicas)
        there: list[set[int]] = []
        for writer, numbers in enumerate(acknowledged):
            assert numbers
            if writer % 2:
                found = values.get_many([f"{writer}/{number}" for number in numbers])
                there.append({int(name.partition("/")[2]) for name in found})
            else:
                history = checkpoints.list_checkpoints(f"thread {writer}", limit=10_000, states=True)
                there.append({each.state["n"] for each in history})
    lost = sum(len(set(numbers) - kept) for numbers, kept in zip(acknowledged, there, strict=True))
    return sum(map(len, acknowledged)), lost


@pytest.mark.parametrize("min_replicas", [1, 0], ids=["with min_replicas=1", "without (control)"])
def test_what_a_replica_has_before_it_is_acknowledged_is_not_lost_when_the_servers_are_apart(
    tmp_path: Path, min_replicas: int
) -> None:
    total, gone = 0, 0
    for number in range(ROUNDS):
        pair = RedisPair(tmp_path / f"pair-{number}")
        try:
            acknowledged, lost = through_a_split(pair.start(), min_replicas)
        finally:
            pair.stop()
        total, gone = total + acknowledged, gone + lost
        assert (lost == 0) == bool(min_replicas)
    print(f"min_replicas={min_replicas}: {total:,} acknowledged in {ROUNDS} splits, {gone:,} lost")
