"""Redis splits: writers go on at a master that its replica no longer hears, while the replica is promoted elsewhere.

The network between the two servers fails for real; the writers reach the old master all the time. When the network is
back the old master follows the new one and forgets what it alone had, as Sentinel and a cluster have it do. What was
acknowledged is then compared with what is there; the figures are printed (``pytest -rP``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
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
from tests.redis_servers import RedisPair, wait_until

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
WRITERS = 6
ROUNDS = 10 if FULL else 1
SECONDS = 0.5 if FULL else 0.2


@dataclass(frozen=True, slots=True)
class Writer:
    """Which of its writes were acknowledged, and the errors of the others."""

    acknowledged: list[int] = field(default_factory=list)
    errors: list[PersistenceError] = field(default_factory=list)

    def write_on(self, write: Callable[[int], object], stop: Event) -> None:
        """Write one number after the other."""
        number = 0
        while not stop.is_set():
            number += 1
            try:
                write(number)
            except PersistenceError as exc:
                self.errors.append(exc)
                sleep(0.001)  # a master that is a replica now refuses at once
            else:
                self.acknowledged.append(number)


def split(pair: RedisPair, write: Callable[[int, int], object], min_replicas: int) -> list[Writer]:
    """Return what each writer was told before, while and after the servers were apart."""
    stop, writers = Event(), [Writer() for _ in range(WRITERS)]

    def are_told_apart() -> bool:
        if min_replicas:
            return any(isinstance(exc, NotReplicatedError) for each in writers for exc in each.errors)
        return all(len(each.acknowledged) > before for each, before in zip(writers, together, strict=True))

    with ThreadPoolExecutor(WRITERS) as threads:
        running = [threads.submit(each.write_on, partial(write, n), stop) for n, each in enumerate(writers)]
        try:
            sleep(SECONDS)
            wait_until(lambda: all(each.acknowledged for each in writers), "each writer is acknowledged a write")
            pair.between.mode = "black hole"
            together = [len(each.acknowledged) for each in writers]
            sleep(SECONDS)
            wait_until(are_told_apart, "the writers meet the split")
            pair.promote()
            sleep(SECONDS)
            pair.follow(0, pair.ports[1])
            sleep(SECONDS / 4)
        finally:
            stop.set()
        for each in running:
            each.result(30)
    return writers


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

        writers = split(pair, write, min_replicas)
        acknowledged = [each.acknowledged for each in writers]
        errors = [exc for each in writers for exc in each.errors]
        assert all(isinstance(exc, UnavailableError | ReadOnlyError) for exc in errors), {repr(e) for e in errors}
        assert any(isinstance(exc, NotReplicatedError) for exc in errors) == bool(min_replicas)
        there: list[set[int]] = []
        for writer, numbers in enumerate(acknowledged):
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
