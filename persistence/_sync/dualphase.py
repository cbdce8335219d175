# Generated from ../_async/dualphase.py by tests/unasync.py: edit that one.
"""The phase of a move between two stores, as the programs that take part share it and know it.

Protocol: a change of the phase names the version of the record that it was read from, so of two at once one fails. Each
program goes by what it read at most ``cache_for`` seconds ago, but asks anew while a switch holds writers up.
"""

from __future__ import annotations

import time
from dataclasses import replace
from time import monotonic

from persistence._sync.compat import sleep
from persistence._sync.keyvalue import KeyValueStore
from persistence.dualwrite import Phase, Standing, standing_of
from persistence.errors import ConflictError, DeadlineError
from persistence.validation import shown


class SharedPhase:
    """The phase of the move ``name``; it lies in ``store``, and is ``old`` until somebody has moved."""

    def __init__(self, name: str, store: KeyValueStore, *, cache_for: float, timeout: float) -> None:
        self._name = name
        self._store = store
        self._key = f"{name}:phase"
        self._cache_for = cache_for
        self._timeout = timeout
        self._known: Standing | None = None

    def read(self) -> Standing:
        """Return it as it is stored now."""
        asked = monotonic()
        item = self._store.get_item(self._key)
        found = Standing("old", 0.0, 0.0, 0, asked) if item is None else standing_of(item.value, item.version, asked)
        self._known = found
        return found

    def read_as(self, phase: Phase) -> Standing:
        """Return it as it is stored now.

        Raises:
            ConflictError: it is another phase, or somebody moves just now.
        """
        standing = self.read()
        if standing.phase != phase:
            raise ConflictError(f"the phase of {shown(self._name)} is {standing.phase}, not {phase}")
        if standing.paused_until > time.time():
            raise ConflictError(f"somebody else moves {shown(self._name)} just now", hint="wait until that has ended")
        return standing

    def known(self) -> Standing:
        """Return it as it was at most ``cache_for`` seconds ago."""
        known = self._known
        return known if known is not None and monotonic() < known.read_at + self._cache_for else self.read()

    def for_writing(self) -> Standing:
        """Return it once no switch holds writers up.

        Raises:
            DeadlineError: one did for too long.
        """
        standing, deadline = self.known(), monotonic() + self._timeout + 1.0
        while standing.paused_until > time.time():
            if monotonic() > deadline:
                raise DeadlineError("a switch held the write up for too long", operation="put")
            sleep(min(self._cache_for, 0.05))
            standing = self.read()
        return standing

    def write(self, standing: Standing) -> Standing:
        """Store what was made of one that was read, and return it.

        Raises:
            ConflictError: somebody else has stored another since.
        """
        try:
            version = self._store.put(self._key, standing.record(), expected_version=standing.version)
        except ConflictError as exc:
            raise ConflictError(
                f"somebody else moved {shown(self._name)} at the same time", hint="look at phase()"
            ) from exc
        self._known = replace(standing, version=version, read_at=monotonic())
        return self._known

    def move(self, phase: Phase, following: Phase) -> None:
        """Go from one phase to another; nobody has to wait for it.

        Raises:
            ConflictError: it is another phase, or somebody else moves at the same time.
        """
        standing = self.read_as(phase)
        self.write(replace(standing, phase=following, since=time.time(), paused_until=0.0))
