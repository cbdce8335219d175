"""What CachedCheckpointer keeps in Redis of a thread: its latest blocks, under the stamp that they belong to.

An entry is one hash: ``stamp``, and the blocks that the checkpoint of that stamp needs, as PostgreSQL has them, under
``version.ordinal``. The stamp is the random number that each save and delete writes into the thread's head. PostgreSQL
compares it with the head's as it is read, so an entry that is behind, or of a future that a restore undid, matches
nothing and is never read as a state.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from checkpoint.blocks import LAST_ORDINAL
from persistence.scripts import packaged_script

log = logging.getLogger(__name__)
"""Says once that Redis is not to be had, and once that it is back."""

STAMP = b"stamp"

STORE = packaged_script("checkpoint", "store_latest")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What a CachedCheckpointer's Redis did since it was made.

    ``hits`` are loads of the latest whose blocks came from Redis, ``misses`` those that PostgreSQL had to send,
    ``stores`` the entries written. ``errors`` are calls of Redis that failed, ``skipped`` those not made because it had
    just failed; ``is_down`` says whether that is so now.
    """

    hits: int = 0
    misses: int = 0
    stores: int = 0
    errors: int = 0
    skipped: int = 0
    is_down: bool = False


class Entry(NamedTuple):
    """What Redis has of a thread."""

    stamp: int
    blocks: Mapping[bytes, bytes]

    def blocks_of(self, version: int, refs: Sequence[int]) -> list[bytes] | None:
        """Return the blocks of a version in the order of its refs, None when one isn't there."""
        found = [self.blocks.get(field) for field in fields_of(version, refs)]
        blocks = [block for block in found if block is not None]
        return blocks if len(blocks) == len(found) else None


def as_entry(found: Mapping[bytes, bytes] | None) -> Entry | None:
    """Return an entry as Redis gave it, None when there is none."""
    stamp = (found or {}).get(STAMP, b"")
    return Entry(int(stamp), found or {}) if stamp.isdigit() else None


def fields_of(version: int, refs: Sequence[int]) -> list[bytes]:
    """Return the fields of the blocks that a version refers to."""
    return [b"%d.%d" % (version - (ref >> 8), ref & LAST_ORDINAL) for ref in refs]


def key_of(tenant: str, thread_id: str, namespace: str) -> str:
    """Return the key of a thread's entry; it shows no id, and is of one length."""
    named = b"\0".join(part.encode() for part in (tenant, thread_id, namespace))
    return f"holdfast:checkpoints:cached:{hashlib.sha256(named).hexdigest()[:40]}"
