"""Chains of audit events: each entry's hash is over its content, its number and the hash of the one before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from persistence.dialect import Dialect, from_json, to_micros
from persistence.errors import ValidationError
from sessions.events import COLUMNS

GENESIS = bytes(32)
"""What stands before the first entry of a chain."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainHead:
    """The newest entry of a chain of audit events: its number, from 1, and its hash."""

    chain: str
    seq: int
    hash: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainReport:
    """What ``verify`` found: how many entries are whole, and where and why the chain breaks (None: nowhere).

    It is true when the chain is whole.
    """

    chain: str
    entries: int
    broken_at: int | None = None
    reason: str | None = None

    def __bool__(self) -> bool:
        return self.broken_at is None


def content_of(row: Mapping[str, Any]) -> bytes:
    """Return the bytes of an audit event that its hash is over, in the one form in which they are ever written."""
    value, tags = row["value"], from_json(row["tags"])
    parts = [row["tenant_id"], row["chain"], to_micros(row["at"]), row["id"], row["kind"], row["service"], row["name"]]
    # -0.0 + 0.0 is 0.0, which is what either database may give back for it.
    parts += [None if value is None else value + 0.0, row["level"], row["message"], row["correlation"]]
    return _encode([*parts, _without_signed_zeros(tags or {})]).encode()


def _without_signed_zeros(value: Any) -> Any:
    if type(value) is float:
        return value + 0.0
    if type(value) is dict:
        return {key: _without_signed_zeros(item) for key, item in value.items()}
    if type(value) is list:
        return [_without_signed_zeros(item) for item in value]
    return value


def next_hash(previous: bytes, seq: int, content: bytes) -> bytes:
    """Return the hash of entry ``seq`` of a chain: SHA-256 over the one before, the number in 8 bytes, the content."""
    return hashlib.sha256(previous + seq.to_bytes(8, "big") + content).digest()


def chained(rows: Iterable[tuple[Any, ...]], seq: int, previous: bytes) -> list[tuple[Any, ...]]:
    """Return the rows of one chain with numbers and hashes, after the entry ``seq`` that has the hash ``previous``."""
    done = []
    for row in rows:
        seq += 1
        previous = next_hash(previous, seq, content_of(dict(zip(COLUMNS, row, strict=True))))
        done.append((*row[:-2], seq, previous))
    return done


def head_from_row(row: dict[str, Any], dialect: Dialect) -> ChainHead:
    """Return the head that a row holds."""
    return ChainHead(chain=row["chain"], seq=row["seq"], hash=row["hash"])


class ChainWalk:
    """Goes along a chain, entry by entry, up to its head, and stops at the first that doesn't fit."""

    def __init__(self, chain: str, head: ChainHead | None, anchor: ChainHead | None) -> None:
        """Begin before the first entry.

        Raises:
            ValidationError: the anchor is none, or of another chain.
        """
        if anchor is not None and (type(anchor) is not ChainHead or anchor.chain != chain):
            raise ValidationError("the anchor is no head of this chain", hint="pass what chain_head() gave")
        self.seq = 0
        self._chain = chain
        self._last = 0 if head is None else head.seq
        self._noted = [
            (place, why)
            for place, why in (
                (anchor, "it is another than the anchor's: the chain was written anew"),
                (head, "it is another than the head's: the end was written anew"),
            )
            if place is not None
        ]
        self._anchored = 0 if anchor is None else anchor.seq
        self._previous = GENESIS
        self._broken: tuple[int, str] | None = None
        self.is_over = False

    def look_at(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Look at the next entries, in their order; none says that the chain ends here."""
        for row in rows:
            if self.seq >= self._last and self._last:
                break  # appended since
            problem = self._problem(row)
            if problem is not None:
                self._break(*problem)
                return
            self.seq, self._previous = row["chain_seq"], row["hash"]
        if not rows or (self._last and self.seq >= self._last):
            self._end()

    def _problem(self, row: Mapping[str, Any]) -> tuple[int, str] | None:
        wanted, found = self.seq + 1, row["chain_seq"]
        if not self._last:
            return wanted, "it has no head, which every append writes"
        if found != wanted:
            what = "it is missing" if found > wanted else "there are several with its number"
            return (wanted if found > wanted else found), what
        if row["hash"] != next_hash(self._previous, found, content_of(row)):
            return found, "its hash fits neither it nor the one before: it was changed, moved or put in"
        for place, why in self._noted:
            if place.seq == found and place.hash != row["hash"]:
                return found, why
        return None

    def _end(self) -> None:
        self.is_over = True
        if self.seq < self._last:
            self._break(self.seq + 1, "it is missing: the end was cut off")
        elif self.seq < self._anchored:
            self._break(self.seq + 1, "it is missing: the anchor is further on")

    def _break(self, seq: int, reason: str) -> None:
        self.is_over, self._broken = True, (seq, reason)

    def report(self) -> ChainReport:
        """Return what was found."""
        broken_at, reason = self._broken or (None, None)
        entries = self.seq if broken_at is None else min(self.seq, broken_at - 1)
        return ChainReport(chain=self._chain, entries=entries, broken_at=broken_at, reason=reason)
