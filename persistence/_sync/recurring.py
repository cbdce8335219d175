# Generated from ../_async/recurring.py by tests/unasync.py: edit that one.
"""The frame of what is done turn after turn beside its caller, who starts it, and stops it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from persistence._sync.compat import Background
from persistence.errors import ClosedError
from persistence.retry import Backoff

_log = logging.getLogger("persistence.recurring")
_AFTER_ERRORS = Backoff(base=0.1, cap=60.0)


class Recurring(ABC):
    """Runs from ``start`` until ``stop``, or for the time of an ``with`` block; a closed manager ends it too.

    A turn that fails is logged (``persistence.recurring``) and tried again, ever later from 0.1 s to a minute.
    """

    def __init__(self, name: str) -> None:
        self._name = name
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
        failures = 0
        while True:
            try:
                pause = self._turn()
                failures = 0
            except ClosedError:
                return
            except Exception:
                pause = _AFTER_ERRORS.delay(failures)
                failures += 1
                _log.exception("%s: a turn failed; the next is in %.1f s", self._name, pause)
            if not self._background.pause(pause):
                return

    @abstractmethod
    def _turn(self) -> float:
        """Do what is to be done now, and return after how many seconds to do so again.

        Raises:
            ClosedError: there is nothing left to do it with; it ends.
        """
