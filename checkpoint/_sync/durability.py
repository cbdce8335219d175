# Generated from ../_async/durability.py by tests/unasync.py: edit that one.
"""How durable a save is when it returns, and the checkpoints that are held back until the end of a workflow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Self

from checkpoint.held import HeldBack
from checkpoint.records import Checkpoint, Durability
from checkpoint.serializer import Serializer
from checkpoint.states import serialize_state
from persistence.errors import ValidationError


class Held(ABC):
    """The part of a checkpointer that holds checkpoints back until ``flush``: the last of each thread and namespace."""

    _serializer: Serializer
    _durability: Durability = "sync"
    _place: str | None

    def flush(self) -> list[Checkpoint]:
        """Save what ``durability="exit"`` held back, and return it as saved, in the order of the first saves.

        After a failure what was not saved is still held, and a next flush tries again. What is held when the
        checkpointer is dropped, or the program ends, is lost, which a ``ResourceWarning`` tells.
        """
        saved = []
        for place in list(self._held()):
            checkpoint = self._held().get(place)
            if checkpoint is not None:
                saved.append(self.save_checkpoint(checkpoint, durability="sync"))
        return saved

    def discard_held(self) -> int:
        """Drop what ``durability="exit"`` held back, unsaved, and return how many checkpoints that were."""
        held = self._held()
        count = len(held)
        held.clear()
        return count

    def close(self) -> None:
        """Save what is held back. The connection is the manager's, and stays open."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def save_checkpoint(
        self, checkpoint: Checkpoint, *, expected_version: int | None = None, durability: Durability | None = None
    ) -> Checkpoint: ...

    def _held(self) -> HeldBack:
        """Return what is held back, by thread and namespace; made on first use."""
        held: HeldBack | None = self.__dict__.get("_held_back")
        return self.__dict__.setdefault("_held_back", HeldBack(self._place)) if held is None else held

    def _hold(self, checkpoint: Checkpoint, expected_version: int | None) -> Checkpoint:
        """Keep a copy of a checkpoint in place of the one held before, and return the checkpoint as it was given."""
        if checkpoint.version is not None or expected_version is not None:
            raise ValidationError(
                'a checkpoint saved with durability="exit" gets its version when it is flushed',
                hint="leave version and expected_version out",
            )
        channels = serialize_state(checkpoint.state, self._serializer)
        state = {channel: self._serializer.read_back(data) for channel, data in channels.items()}
        self._held()[checkpoint.thread_id, checkpoint.namespace] = replace(checkpoint, state=state)
        return checkpoint
