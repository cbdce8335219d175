"""What an outbox keeps, and what a relay tells of its work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from persistence.dialect import from_micros
from persistence.keyvalues import pack, unpack
from persistence.validation import storable

ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """Something to be delivered: the ``number``-th of its key, counted from 1, and how often that was tried before."""

    topic: str
    key: str
    number: int
    payload: Any
    created_at: datetime
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item that was given up, with the error of the last try."""

    topic: str
    key: str
    number: int
    payload: Any
    created_at: datetime
    died_at: datetime
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """How much waits: items, keys that have some, and dead letters; ``oldest`` is when the oldest item was put."""

    pending: int
    keys: int
    dead: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class RelayReport:
    """What a relay did: items delivered, tries that failed, items given up; ``left`` items wait still (flush only)."""

    delivered: int = 0
    failed: int = 0
    dead: int = 0
    left: int = 0

    def __add__(self, other: RelayReport) -> RelayReport:
        return RelayReport(
            self.delivered + other.delivered, self.failed + other.failed, self.dead + other.dead, other.left
        )


@dataclass(slots=True)
class Settled:
    """How the delivery of one claimed key ended: ``done`` is the number of its last item that is over."""

    key: str
    fence: int
    done: int
    attempts: int = 0
    delay: float = 0.0
    dead: int | None = None
    error: str | None = None
    delivered: int = 0


def pack_payload(payload: object) -> bytes:
    """Return a payload as it is stored; bytes and JSON values come back equal.

    Raises:
        ValidationError: what is read back would not be equal to it.
    """
    packed = pack(payload)
    return packed if isinstance(packed, bytes) else b"j%d" % packed


def item_from_row(topic: str, row: Mapping[str, Any]) -> OutboxItem:
    """Return the item that a row holds."""
    return OutboxItem(
        topic, row["key"], row["number"], unpack(bytes(row["payload"])), _moment(row["created_at"]), row["attempts"]
    )


def dead_from_row(topic: str, row: Mapping[str, Any]) -> DeadLetter:
    """Return the dead letter that a row holds."""
    return DeadLetter(
        topic,
        row["key"],
        row["number"],
        unpack(bytes(row["payload"])),
        _moment(row["created_at"]),
        _moment(row["died_at"]),
        row["attempts"],
        row["error"],
    )


def status_from_row(row: Mapping[str, Any]) -> OutboxStatus:
    """Return the status that a row holds."""
    oldest = row["oldest"]
    return OutboxStatus(row["pending"], row["keys"], row["dead"], None if oldest is None else _moment(oldest))


def _moment(stored: Any) -> datetime:
    return from_micros(stored) if isinstance(stored, int) else stored


def told(error: Exception) -> str:
    """Return an error as a dead letter shows it."""
    return storable(f"{type(error).__name__}: {error}", ERROR_CHARACTERS)
