# Generated from ../_async/recurring.py by tests/unasync.py: edit that one.
"""The frame of what is done turn after turn beside its caller, who starts it, and stops it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from persistence._sync.compat import Background
from persistence.errors import ClosedError


class Recurring(ABC):
    """Runs from ``start`` until ``stop``, or for the time of an ``with`` block; a closed manager ends it too."""

    def __init__(self, name: str) -> None:
        self._background = Background(name)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it runs in the background: it was started, not stopped, and the manager was not closed."""
        return self._background.is_running

    def start(self) -> None:
        """Run in the background, beginning now; does nothing where it does already."""
        if not self._background.is_running:
            self._background.start(self._run)

    def stop(self) -> None:
        """Run no more, and return once what is under way has ended; does nothing where it doesn't run."""
        self._background.stop()

    def _run(self) -> None:
        while True:
            try:
                pause = self._turn()
            except ClosedError:
                return
            if not self._background.pause(pause):
                return

    @abstractmethod
    def _turn(self) -> float:
        """Do what is to be done now, and return after how many seconds to do so again.

        Raises:
            ClosedError: there is nothing left to do it with; it ends.
        """
