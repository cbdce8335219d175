"""How a manifest is laid out: its entries, and the numbered blocks that they refer to (docs/formats.md).

A manifest has an entry for the list of its channels and one for each channel: the bytes of a small one, the number of
a piece, or a channel in parts. A number is ``nth << 20 | slot``: the nth piece of the block in that slot of ``refs``. A
ref is ``versions ago << 8 | ordinal``. From one version to the next all refs grow alike, and entries stay as they are
but for the channels that changed: their slots are taken by the new block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from checkpoint.blocks import LAST_ORDINAL, NOTHING_ADDED, Added, Place, frame, gather
from checkpoint.growth import Stored

IN_PARTS = 1
"""What the entry of a channel in several pieces begins with."""
MOST_SLOTS = 2**20
LARGEST_REF = 2**31 - 1
"""A ref is a signed integer of 32 bits: a piece that was saved 2**23 versions ago is stored again."""

Entry = int | bytes | list[Any]


class Layout(NamedTuple):
    """The layout of a version: its refs, how many numbers are in each slot, and its entries, the list's first."""

    version: int
    refs: list[int]
    users: list[int]
    entries: list[Entry]

    def place(self, number: int) -> Place:
        """Return where the piece of a number lies."""
        ref = self.refs[number % MOST_SLOTS]
        return Place(self.version - (ref >> 8), ref & LAST_ORDINAL, number // MOST_SLOTS)

    def at(self, version: int) -> Layout:
        """Return the same layout, which refers to no other version, as that of another version."""
        return self._replace(version=version)


def lay_out(channels: Iterable[Stored], known: Mapping[bytes, Place], version: int) -> tuple[Layout, Added]:
    """Return the layout of channels, the list of them first, and what has to be added for it.

    ``known`` says where those pieces lie that are stored already.
    """
    maker = _Maker(Layout(version, [], [], []), known)
    for stored in channels:
        maker.entries.append(None)
        maker.set(len(maker.entries) - 1, stored)
    return maker.finish()


def lay_out_changes(
    before: Layout, changed: Mapping[int, Stored], known: Mapping[bytes, Place], version: int
) -> tuple[Layout, Added] | None:
    """Return the layout that differs from an earlier one in some entries only; None where slots would stay unused."""
    step = version - before.version << 8
    if step <= 0 or max(before.refs, default=0) + step > LARGEST_REF:
        return None
    simple = _lay_out_one(before, changed, known, version, step)
    if simple is not None:
        return simple
    maker = _Maker(before, known, step)
    maker.version = version
    for place in changed:
        maker.release(place)
    for place, stored in changed.items():
        maker.set(place, stored)
    found = maker.finish()
    return None if 0 in maker.users else found


def _lay_out_one(
    before: Layout, changed: Mapping[int, Stored], known: Mapping[bytes, Place], version: int, step: int
) -> tuple[Layout, Added] | None:
    """Do it for the commonest save, whose one new piece takes the slot of the one before; None for any other.

    What ``_Maker`` does of it takes twice as long, most of that in calls.
    """
    refs = [ref + step for ref in before.refs]
    entries = [*before.entries]
    added = NOTHING_ADDED
    for place, stored in changed.items():
        entry = entries[place]
        if not stored.parts and type(entry) is bytes:
            entries[place] = stored.head
            continue
        if added is not NOTHING_ADDED or not stored.is_whole or stored.parts[0].name or type(entry) is not int:
            return None
        slot = entry % MOST_SLOTS
        framed = frame(stored.parts[0])  # which names it
        name = stored.parts[0].name
        if before.users[slot] != 1 or name in known:
            return None
        added = Added({name: (0, 0)}, framed, [])
        refs[slot] = 0
        entries[place] = slot
    return Layout(version, refs, before.users, entries), added


class _Maker:
    """A layout in the making."""

    def __init__(self, before: Layout, known: Mapping[bytes, Place], step: int = 0) -> None:
        self.version = before.version
        self.refs = [ref + step for ref in before.refs]
        self.users = [*before.users]
        self.entries: list[Any] = [*before.entries]
        self._known = known
        self._frames: dict[bytes, bytes] = {}
        self._waiting: dict[int, Stored] = {}

    def release(self, place: int) -> None:
        """Give up the slots of an entry."""
        for number in numbers_of(self.entries[place]):
            self.users[number % MOST_SLOTS] -= 1

    def set(self, place: int, stored: Stored) -> None:
        """Make an entry of a channel, now or, where it has new pieces, when they have got their blocks."""
        if not stored.parts:
            self.entries[place] = stored.head
            return
        self._waiting[place] = stored
        for part in stored.parts:
            if not part.name or (part.name not in self._frames and self._ref_of(part.name) is None):
                framed = frame(part)  # which names it, if it is new
                if self._ref_of(part.name) is None:
                    self._frames[part.name] = framed

    def finish(self) -> tuple[Layout, Added]:
        added = gather(self._frames) if self._frames else NOTHING_ADDED
        for place, stored in self._waiting.items():
            numbers = [self._number(part.name, added) for part in stored.parts]
            self.entries[place] = numbers[0] if stored.is_whole else [IN_PARTS, stored.head, stored.skip, *numbers]
        return Layout(self.version, self.refs, self.users, self.entries), added

    def _ref_of(self, name: bytes) -> int | None:
        place = self._known.get(name)
        if place is None:
            return None
        ref = self.version - place.version << 8 | place.ordinal
        return ref if LAST_ORDINAL < ref <= LARGEST_REF else None

    def _number(self, name: bytes, added: Added) -> int:
        own = added.places.get(name)
        if own is not None:
            ref, nth = own
        else:
            ref, nth = self._ref_of(name) or 0, self._known[name].nth
        slot = self.refs.index(ref) if ref in self.refs else self._slot_for(ref)
        self.users[slot] += 1
        return nth * MOST_SLOTS + slot

    def _slot_for(self, ref: int) -> int:
        """Return a slot for a new ref: one that is given up, where there is any."""
        if 0 in self.users:
            slot = self.users.index(0)
            self.refs[slot] = ref
        else:
            slot = len(self.refs)
            self.refs.append(ref)
            self.users.append(0)
        return slot


def count_users(refs: Sequence[int], entries: Iterable[Entry]) -> list[int]:
    """Return how many numbers are in each slot."""
    users = [0] * len(refs)
    for entry in entries:
        for number in numbers_of(entry):
            users[number % MOST_SLOTS] += 1
    return users


def numbers_of(entry: Entry) -> Sequence[int]:
    """Return the numbers of an entry's pieces."""
    if isinstance(entry, list):
        return entry[3:]
    return () if isinstance(entry, bytes) else (entry,)
