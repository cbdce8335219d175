# Generated from ../_async/recurring.py by tests/unasync.py: edit that one.
"""The frame of what is done turn after turn beside its caller, who starts it, and stops it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from persistence._sync.compat import Background
from persistence.errors import ClosedError, DeadlineError, ValidationError
from persistence.fields import Duration
from persistence.retry import Backoff
from persistence.validation import check_timeout

GRACE = 30.0
"""How many seconds what is under way has to end, unless it is told."""

_log = logging.getLogger("persistence.recurring")
_AFTER_ERRORS = Backoff(base=0.1, cap=60.0)


class Recurring(ABC):
    """Runs from ``start`` until ``stop``, or for the time of an ``with`` block; a closed manager ends it too.

    A turn that fails is logged (``persistence.recurring``) and tried again, ever later from 0.1 s to a minute.
    """

    def __init__(self, title: str, grace: Duration = GRACE) -> None:
        self._title = title
        self._grace = check_timeout("grace", grace)
        self._background = Background(f"holdfast-{title}".replace(" ", "-"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it runs in the background: it was started, not stopped, and the manager was not closed.

        Also whether it goes on though it was told to stop, as the error of ``stop`` said.
        """
        return self._background.is_running

    def start(self) -> None:
        """Run in the background, beginning now; does nothing where it does already.

        Raises:
            ValidationError: it was told to stop, and what was under way then has not ended.
        """
        if self._background.is_stopping:
            raise ValidationError(
                f"the {self._title} was told to stop, and has not ended: {self._under_way()}",
                hint="make what it calls end: give it a timeout of its own",
            )
        if not self._background.is_running:
            self._background.start(self._run)

    def stop(self) -> None:
        """Run no more, and return once what is under way has ended; does nothing where it doesn't run.

        Raises:
            DeadlineError: it had not ended within ``grace`` seconds. It says what was under way, and was cancelled.
        """
        if not self._background.stop(self._grace):
            raise self._unended()

    def _unended(self) -> DeadlineError:
        return DeadlineError(
            f"the {self._title} had not ended {self._grace:g} s after it was told to stop: {self._under_way()}",
            hint=f"{self._background.fate}; give what it calls a timeout of its own, or it a longer grace",
            operation="stop",
        )

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
                _log.exception("%s: a turn failed; the next is in %.1f s", self._title, pause)
            if not self._background.pause(pause):
                return

    @abstractmethod
    def _turn(self) -> float:
        """Do what is to be done now, and return after how many seconds to do so again.

        Raises:
            ClosedError: there is nothing left to do it with; it ends.
        """

    def _under_way(self) -> str:
        """Return what it does now, also when that was cancelled, and what is left undone where it doesn't end."""
        return "a turn"
