"""Which replica a read goes to: positions in the write-ahead log, lag, and what is known of each replica. No I/O.

A replica's lag is measured against the primary, not asked of the replica alone: one that has lost its primary believes
that it is up to date. The primary's position is noted at each look; the newest of those that a replica has replayed
says up to when it is certainly complete.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from persistence.errors import ValidationError

NOTES = 1000
"""How many positions of the primary are remembered: with one a second, lag is known up to a quarter of an hour."""
MAX_PAUSE = 30.0
"""A replica that is down is looked at ever more seldom, but at least every so many seconds."""

_POSITION = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_position(text: object) -> int:
    """Return a position in the write-ahead log, such as ``16/B374D848``, as a number.

    Raises:
        ValidationError: it is none.
    """
    match = _POSITION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValidationError("after is no position", hint="give what position() returned, such as '16/B374D848'")
    return (int(match[1], 16) << 32) + int(match[2], 16)


class PrimaryLog:
    """When the primary's write-ahead log was where; moments are monotonic seconds."""

    def __init__(self) -> None:
        self._notes: deque[tuple[float, int]] = deque(maxlen=NOTES)

    def note(self, moment: float, position: int) -> None:
        """Remember where the log was; one that went back is another server's, and what was known is void."""
        if self._notes and position < self._notes[-1][1]:
            self._notes.clear()
        if self._notes and position == self._notes[-1][1]:
            self._notes.pop()
        self._notes.append((moment, position))

    def age(self, position: int, now: float) -> float | None:
        """Return for how long at most a server at ``position`` has missed something; None where that isn't known.

        While the primary doesn't answer, its last known position is what there is to have.
        """
        for newer, (moment, known) in enumerate(reversed(self._notes)):
            if known <= position:
                return 0.0 if newer == 0 else now - moment
        return None


@dataclass
class ReplicaState:
    """What is known of one replica; moments are monotonic seconds, ``lag`` is in seconds."""

    is_usable: bool = False
    position: int = 0
    lag: float | None = None
    error: str | None = "nobody has looked at it yet"
    due_at: float = 0.0
    failures: int = 0

    def answered(self, position: int, lag: float | None, limit: float) -> None:
        """Note where it is; it is usable unless it lags beyond ``limit`` seconds."""
        self.position, self.lag, self.failures = position, lag, 0
        self.error = None
        if lag is None:
            self.error = "how far it lags is not known yet"
        elif lag > limit:
            self.error = f"it lags {lag:.1f} s behind, more than max_replica_lag {limit:g} s"
        self.is_usable = self.error is None

    def failed(self, error: str, now: float, interval: float) -> None:
        """Leave it out until it answers; it is asked ever more seldom."""
        self.is_usable, self.lag, self.error = False, None, error
        self.due_at = now + min(interval * 2.0**self.failures, max(interval, MAX_PAUSE))
        self.failures = min(self.failures + 1, 16)


def shortest(*ages: float | None) -> float | None:
    """Return the least of several upper bounds, None where none is known."""
    return min((max(0.0, age) for age in ages if age is not None), default=None)
