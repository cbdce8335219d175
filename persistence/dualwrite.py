"""How far a move between two keyed stores is, and what is told of it. No I/O.

The phases are, in order: ``old`` (only the old store is used), ``old_first`` (both are written, the old one is read),
``new_first`` (both are written, the new one is read) and ``new`` (only the new store is used).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from persistence.errors import CorruptError

Phase = Literal["old", "old_first", "new_first", "new"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Divergence:
    """A key that the store which is written second has otherwise: ``missing``, ``different`` or ``extra`` there."""

    key: str
    kind: Literal["missing", "different", "extra"]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What one batch of a backfill did: keys looked at, keys that were carried over; ``after`` is None at the end."""

    seen: int
    carried: int
    after: str | None


@dataclass(frozen=True, slots=True)
class DualStatus:
    """Where a move is: its phase, whether writers are held up, and how many second writes wait, died or failed.

    ``pending`` and ``dead`` are of the outbox of the store that is written first, 0 where it has none. ``failed``
    counts the recorded failures of direct writes, up to 10,000.
    """

    phase: Phase
    paused: bool
    pending: int
    dead: int
    failed: int


@dataclass(frozen=True, slots=True)
class Standing:
    """The phase as it was read: since when (seconds of the epoch), until when writers wait, and when it was read."""

    phase: Phase
    since: float
    paused_until: float
    version: int
    read_at: float

    def record(self) -> dict[str, Any]:
        """Return what is stored of it."""
        return {"phase": self.phase, "since": self.since, "paused_until": self.paused_until}


def standing_of(stored: object, version: int, read_at: float) -> Standing:
    """Return what a stored record says.

    Raises:
        CorruptError: it is none.
    """
    found = cast("dict[str, Any]", stored) if isinstance(stored, dict) else {}
    phase, since, until = found.get("phase"), found.get("since"), found.get("paused_until")
    if phase not in PHASES or not isinstance(since, int | float) or not isinstance(until, int | float):
        raise CorruptError("what is stored as the phase of a dual write is none")
    return Standing(phase, float(since), float(until), version, read_at)


def is_same(one: object, other: object) -> bool:
    """Tell whether two values are equal and of the same types, so that 1, 1.0 and True are three."""
    if isinstance(one, bytes) or isinstance(other, bytes):
        return type(one) is type(other) and one == other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
