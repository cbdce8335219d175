"""Timing several ways of doing the same, in turns, so that a machine whose speed drifts treats them alike."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Any


def in_turns(ways: Mapping[str, Callable[[], Any]], *, rounds: int, calls: int) -> dict[str, float]:
    """Return the median seconds a call of each way; each round runs ``calls`` of each, in random order."""
    return blocks_in_turns({name: block_of(way) for name, way in ways.items()}, rounds=rounds, calls=calls)


def block_of(way: Callable[[], Any]) -> Callable[[int], float]:
    """Return what makes so many calls and returns the seconds that they took."""

    def run(calls: int) -> float:
        started = perf_counter()
        for _ in range(calls):
            way()
        return perf_counter() - started

    return run


def blocks_in_turns(ways: Mapping[str, Callable[[int], float]], *, rounds: int, calls: int) -> dict[str, float]:
    """Do what ``in_turns`` does, for ways that time their calls themselves, such as those of another process."""
    for way in ways.values():
        way(20)
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    gc.disable()
    try:
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                times[name].append(ways[name](calls) / calls)
            gc.collect()
    finally:
        gc.enable()
    return {name: median(found) for name, found in times.items()}


def calls_in_turns(ways: Mapping[str, Callable[[], Any]], *, rounds: int, calls: int) -> dict[str, list[float]]:
    """Do what ``in_turns`` does, and return the seconds of each single call, ascending."""
    times: dict[str, list[float]] = {name: [] for name in ways}

    def of(way: Callable[[], Any], found: list[float]) -> Callable[[int], float]:
        def run(calls: int) -> float:
            for _ in range(calls):
                started = perf_counter()
                way()
                found.append(perf_counter() - started)
            return 0.0

        return run

    blocks_in_turns({name: of(way, times[name]) for name, way in ways.items()}, rounds=rounds, calls=calls)
    return {name: sorted(found[20:]) for name, found in times.items()}


async def in_turns_async(
    ways: Mapping[str, Callable[[], Awaitable[Any]]], *, rounds: int, calls: int
) -> dict[str, float]:
    """Do what ``in_turns`` does, for coroutines."""
    for way in ways.values():
        for _ in range(20):
            await way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    gc.disable()
    try:
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                way = ways[name]
                started = perf_counter()
                for _ in range(calls):
                    await way()
                times[name].append((perf_counter() - started) / calls)
            gc.collect()
            await asyncio.sleep(0)
    finally:
        gc.enable()
    return {name: median(found) for name, found in times.items()}


def report(title: str, found: Mapping[str, float], *, floor: str, bound: float | None = None) -> None:
    """Print the medians in microseconds and each one's ratio to the floor."""
    print(f"\n{title}")
    for name, seconds in found.items():
        ratio = seconds / found[floor]
        wanted = f"   (bound {bound:g})" if bound is not None and name != floor else ""
        print(f"  {name:<44} {seconds * 1e6:>10.1f} us   x{ratio:.2f}{wanted}")
