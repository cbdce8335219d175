"""Retry schedules: how long to wait before the next try, and which errors deserve one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from persistence.errors import (
    CommitUnknownError,
    ConfigError,
    DeadlockError,
    PersistenceError,
    ReadOnlyError,
    SerializationError,
    UnavailableError,
)
from persistence.validation import LONGEST, check_whole


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Capped exponential backoff with jitter.

    The n-th delay is ``min(cap, base * 2**n)`` seconds, moved by up to ``jitter`` of itself either way, so that
    colliding callers spread out (A. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """

    retries: int = 5
    base: float = 0.01
    cap: float = 2.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        numbers: tuple[object, ...] = (self.base, self.cap, self.jitter)
        if (
            type(self.retries) is not int
            or self.retries < 0
            or not all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers)
            or not 0 < self.base <= self.cap <= LONGEST  # compared so that NaN fits nowhere
            or not 0 <= self.jitter <= 1
        ):
            raise ConfigError(f"{self} can't be a schedule", hint="retries >= 0, 0 < base <= cap, 0 <= jitter <= 1")

    def delay(self, attempt: int) -> float:
        """Return the delay in seconds before the retry number ``attempt``, counted from 0."""
        check_whole("attempt", attempt, least=0)
        delay = min(self.cap, self.base * 2.0 ** min(attempt, 1000))
        return delay * (1 + self.jitter * random.uniform(-1, 1))

    def delays(self) -> Iterator[float]:
        """Yield one delay in seconds for each retry."""
        yield from map(self.delay, range(self.retries))


PASSING = (UnavailableError, SerializationError, DeadlockError, ReadOnlyError, CommitUnknownError)
"""What passes without anybody's doing: a server that is away, has become a replica, or undid what it was asked for."""


def is_transient(error: PersistenceError) -> bool:
    """Tell whether the whole transaction may be run again: it was rolled back by the server, and said so."""
    return isinstance(error, SerializationError | DeadlockError)
