"""A worker is stopped from a signal handler: in the thread that is at whatever it is at."""

from __future__ import annotations

import signal
from time import monotonic

from sessions._sync.task_worker import Bell


def test_a_bell_that_a_signal_rings_never_waits_for_who_was_interrupted() -> None:
    bell, rung = Bell(), []

    def ring(number: int, frame: object) -> None:
        bell.ring()
        rung.append(number)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        until = monotonic() + 0.4
        while monotonic() < until:
            bell.ring()
            seen = bell.rung
            bell.wait(seen, 20)  # the next signal ends it
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(rung) > 100
