"""Notices of channels: what a subscriber gets, how a channel is named on a server, and the queue in between."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass

from persistence.errors import ValidationError
from persistence.validation import check_text

PAYLOAD_BYTES = 7999
"""The longest payload that PostgreSQL's NOTIFY carries, in bytes of UTF-8."""
CHANNEL_BYTES = 1024
"""The longest name of a channel in bytes of UTF-8."""

_IDENTIFIER_BYTES = 63


@dataclass(frozen=True, slots=True)
class Notice:
    """What a subscription gives: a payload and the channel that it was published on.

    ``missed`` says instead that notices may have been lost here, of any channel of the subscription: the connection
    broke, or the reader was too slow. Its channel and payload are empty; whoever follows a channel looks once at what
    the notices would have told.
    """

    channel: str
    payload: str
    missed: bool = False


MISSED = Notice("", "", missed=True)


def check_channel(channel: object) -> str:
    """Return a channel's name: any text of 1 to 1,024 bytes without a NUL."""
    return check_text("the channel", channel, limit=CHANNEL_BYTES, may_be_empty=False)


def check_payload(payload: object, connection: str, kind: str) -> str:
    """Return a payload: any text without a NUL, on PostgreSQL of at most 7,999 bytes.

    Raises:
        ValidationError: it is no such text.
    """
    text = check_text("the payload", payload)
    if kind != "redis" and len(text) * 4 > PAYLOAD_BYTES and (size := len(text.encode())) > PAYLOAD_BYTES:
        raise ValidationError(
            f"the payload has {size:,} bytes in UTF-8, more than the {PAYLOAD_BYTES:,} of PostgreSQL's NOTIFY",
            hint="store it, and publish its id",
            operation="publish",
            connection=connection,
        )
    return text


def identifier_of(channel: str) -> str:
    """Return the name of a channel on PostgreSQL: itself where it fits an identifier, or else a hash of it.

    A name that looks like a hash is hashed too, so that no two channels ever share an identifier.
    """
    encoded = channel.encode()
    if len(encoded) <= _IDENTIFIER_BYTES and not channel.startswith("#"):
        return channel
    return "#" + hashlib.sha256(encoded).hexdigest()[: _IDENTIFIER_BYTES - 1]


class NoticeQueue:
    """Notices that have come and were not read yet, at most ``size`` of them.

    What comes beyond that is dropped, and one notice that says so follows those that are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: deque[Notice] = deque()
        self._missed = False

    def put(self, notice: Notice) -> None:
        """Add a notice, or remember that there was no room for it."""
        if self._missed or len(self._waiting) >= self._size:
            self._missed = True
        else:
            self._waiting.append(notice)

    def miss(self) -> None:
        """Remember that notices may have been lost after those that are here."""
        self._missed = True

    def take(self) -> Notice | None:
        """Return the oldest; after the last one before a loss, the one that says so; None when there is nothing."""
        if self._waiting:
            return self._waiting.popleft()
        if self._missed:
            self._missed = False
            return MISSED
        return None
