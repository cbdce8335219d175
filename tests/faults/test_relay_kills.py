"""A relay killed again and again, through a sink that fails a third of the time: each item arrives, in order by key."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from persistence import Backoff, DatabaseManager, Outbox, OutboxItem, Relay
from tests.unasync import ROOT

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
ITEMS, KEYS = (10_000, 200) if FULL else (400, 20)
KILLS = 5 if FULL else 2
POISON = {("k3", 5), ("k7", 1)}

# What the sink takes it appends to a file, item by item, before it says so: the file is what the other end has seen.
PROGRAM = """
import random, sys
from persistence import Backoff, DatabaseManager, Outbox, Relay

url, path, seed = sys.argv[1:]
chance = random.Random(int(seed))
poison = {("k3", 5), ("k7", 1)}
with open(path, "a", buffering=1) as taken, DatabaseManager() as manager:
    manager.add("main", url)

    def sink(item):
        if (item.key, item.number) in poison or chance.random() < 0.3:
            raise OSError("no")
        taken.write(f"{item.key} {item.number}\\n")

    backoff = Backoff(retries=25, base=0.001, cap=0.002)
    with Relay(Outbox(manager, "main", "t"), sink, backoff=backoff, lease=1, poll=0.01, side_by_side=1):
        print("ready", flush=True)
        sys.stdin.readline()
"""


def read(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [(line.partition(" ")[0], int(line.partition(" ")[2])) for line in lines]


def test_each_item_arrives_in_order_by_key_and_poison_is_dead(
    url: str, tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    path = tmp_path / "taken"
    with DatabaseManager() as manager:
        manager.add("main", url)
        outbox = Outbox(manager, "main", "t")
        outbox.put_many((f"k{n % KEYS}", n) for n in range(ITEMS))
        for seed in range(KILLS):
            print(f"seed {seed}")
            before = len(read(path))
            program = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, url, str(path), str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            programs.append(program)
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            while len(read(path)) < min(before + 60, ITEMS - len(POISON)):
                assert program.poll() is None
            program.send_signal(signal.SIGKILL)
            program.wait()
        killed = read(path)
        with path.open("a", buffering=1) as taken:

            def sink(item: OutboxItem) -> None:
                if (item.key, item.number) in POISON:
                    raise OSError("no")
                taken.write(f"{item.key} {item.number}\n")

            backoff = Backoff(retries=25, base=0.001, cap=0.002)
            report = Relay(outbox, sink, backoff=backoff, poll=0.05).flush(timeout=120)
        assert report.left == 0
        arrived = read(path)
        assert arrived[: len(killed)] == killed
        expected = {(f"k{n % KEYS}", n // KEYS + 1) for n in range(ITEMS)} - POISON
        assert set(arrived) == expected
        # In order: the first arrivals of a key are its numbers, one after the other; a kill repeats a run of them.
        first: dict[str, list[int]] = {}
        for key, number in arrived:
            seen = first.setdefault(key, [])
            if not seen or number > seen[-1]:
                seen.append(number)
        for key, numbers in first.items():
            assert numbers == sorted(number for each, number in expected if each == key)
        # At the most, what a relay had in hand when it was killed arrives again: 50 keys, 20 items each.
        assert len(arrived) - len(expected) <= KILLS * 50 * 20
        assert {(letter.key, letter.number) for letter in outbox.dead_letters()} == POISON
        assert outbox.status().pending == 0
