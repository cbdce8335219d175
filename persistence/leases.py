"""Locks: the names they go by, and what a lease says of itself. No I/O."""

from __future__ import annotations

import hashlib

from persistence.validation import check_id


def check_lock(name: object) -> str:
    """Return a lock's name: a text of 1 to 1,024 bytes."""
    return check_id("the lock's name", name)


def advisory_key(tenant: str, name: str) -> int:
    """Return the number of 64 bits that stands for a lock in PostgreSQL: a hash, so that programs agree on it.

    Two names share a number once in 2⁶⁴ pairs; then they wait for each other, and nothing worse.
    """
    digest = hashlib.sha256(f"holdfast\0{tenant}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
