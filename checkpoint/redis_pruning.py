"""What a prune deletes: which checkpoints go, and with them which blocks that no other needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from persistence.errors import CorruptError

_LINE = re.compile(rb"[-\d]+ (?P<refs>[-\d,]+) (?P<created>\d{18}) [-\d]+ (?P<tag>[-t]) ")


class Line(NamedTuple):
    """What a checkpoint needs, and what a rule for pruning asks of it.

    ``refs`` is None where its record is damaged or missing.
    """

    version: int
    refs: list[int] | None
    created: bytes
    is_tagged: bool

    def blocks(self) -> list[tuple[int, int]]:
        """Return version and ordinal of each block that it needs."""
        return [(self.version - (ref >> 8), ref & 255) for ref in self.refs or ()]


class DamagedError(CorruptError):
    """The record of a checkpoint is damaged or missing."""

    def __init__(self, version: int) -> None:
        super().__init__("its record is damaged or missing", hint=f"delete checkpoint {version}")
        self.version = version


class Batch(NamedTuple):
    """Checkpoints that go together, and the blocks that nobody needs then, as their fields are named."""

    versions: list[int]
    blocks: list[bytes]


def read_line(version: bytes, line: bytes) -> Line:
    """Return what the first line of a record says."""
    found = _LINE.match(line)
    if found is None:
        return Line(int(version), None, b"", False)
    refs = [] if found["refs"] == b"-" else [*map(int, found["refs"].split(b","))]
    return Line(int(version), refs, found["created"], found["tag"] == b"t")


def choose(lines: Sequence[Line], keep_last: int, cutoff: bytes | None, keep_tagged: bool) -> list[int]:
    """Return the versions that a prune deletes, oldest first; ``lines`` are all of a namespace, oldest first."""
    return [
        line.version
        for line in lines[:-keep_last]
        if (cutoff is None or line.created < cutoff) and not (keep_tagged and line.is_tagged)
    ]


def plan(lines: Sequence[Line], gone: Sequence[int], size: int) -> list[Batch]:
    """Return in which batches to delete versions: each block goes with the last of them that needs it.

    Raises:
        DamagedError: one that stays is damaged, and so nobody knows what it needs.
    """
    number = {version: place // size for place, version in enumerate(gone)}
    needed: set[tuple[int, int]] = set()
    last: dict[tuple[int, int], int] = {}
    for line in lines:
        place = number.get(line.version)
        if place is None:
            if line.refs is None:
                raise DamagedError(line.version)
            needed.update(line.blocks())
        else:
            last.update(dict.fromkeys(line.blocks(), place))
    batches = [Batch(list(gone[start : start + size]), []) for start in range(0, len(gone), size)]
    for block, place in last.items():
        if block not in needed:
            batches[place].blocks.append(b"%d.%d" % block)
    return batches
