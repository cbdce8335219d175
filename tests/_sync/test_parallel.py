# Generated from ../_async/test_parallel.py by tests/unasync.py: edit that one.
"""Calls side by side: none of them goes on once their caller has its answer."""

from __future__ import annotations


import pytest

from persistence._sync.compat import Parallel
from tests._sync.side import sleep


def test_an_exception_is_raised_after_all_calls_have_ended() -> None:
    ended = []

    def fails() -> None:
        raise ZeroDivisionError

    def takes_longer() -> None:
        for _ in range(20):
            sleep(0)
        ended.append(1)

    parallel = Parallel()
    with pytest.raises(ZeroDivisionError):
        parallel.run([takes_longer, fails, takes_longer])
    assert ended == [1, 1]
    parallel.close()


