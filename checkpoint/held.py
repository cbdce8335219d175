"""What ``durability="exit"`` holds back in this process, which says so when it is dropped unsaved, as a file does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from checkpoint.records import Checkpoint, describe

SHOWN = 5
"""So many threads are named by a warning."""

Place = tuple[str, str]
"""A thread and a namespace in it."""


class HeldBack(dict[Place, Checkpoint]):
    """The last checkpoint of each thread and namespace that waits for a flush.

    It is a thing of its own, shared by the copies of a checkpointer: so it is dropped, and tells what is lost, with the
    last of them. A process that was forked while something was held lost nothing of its own.
    """

    __slots__ = ("_pid", "connection")

    def __init__(self, connection: str | None) -> None:
        super().__init__()
        self.connection = connection
        self._pid = os.getpid()

    def of_thread(self, thread_id: str) -> dict[Place, Checkpoint]:
        """Return what is held of a thread now."""
        return {place: checkpoint for place, checkpoint in list(self.items()) if place[0] == thread_id}

    def of_user(self, user_id: str) -> list[str]:
        """Return the threads of which a checkpoint is held that is this user's."""
        held = list(self.items())
        return [
            thread_id
            for (thread_id, namespace), checkpoint in held
            if not namespace and (checkpoint.metadata or {}).get("user_id") == user_id
        ]

    def release(self, place: Place, checkpoint: Checkpoint) -> None:
        """Let go of a checkpoint, unless another one has taken its place."""
        if self.get(place) is checkpoint:
            del self[place]

    # As a default, since a module may be empty by the time that the interpreter ends.
    def __del__(self, _warn: Callable[..., None] = warnings.warn, _pid: Callable[[], int] = os.getpid) -> None:
        if self and self._pid == _pid():
            _warn(_lost(self), ResourceWarning, source=self)


def _lost(held: HeldBack) -> str:
    """Return what is told of the saves that nobody made; nothing of their states."""
    where = f"{held.connection}: " if held.connection else ""
    named = "; ".join(describe(*place) for place in list(held)[:SHOWN])
    more = f"; and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    saves = "1 save" if len(held) == 1 else f"{len(held)} saves"
    return (
        f'{where}{saves} with durability="exit" never flushed: {named}{more}'
        " (flush(), close() or `with` saves them, discard_held() drops them)"
    )
