"""Calls side by side: none of them goes on once their caller has its answer."""

from __future__ import annotations

import asyncio  # async-only

import pytest

from persistence._async.compat import Parallel
from tests._async.side import sleep


async def test_an_exception_is_raised_after_all_calls_have_ended() -> None:
    ended = []

    async def fails() -> None:
        raise ZeroDivisionError

    async def takes_longer() -> None:
        for _ in range(20):
            await sleep(0)
        ended.append(1)

    parallel = Parallel()
    with pytest.raises(ZeroDivisionError):
        await parallel.run([takes_longer, fails, takes_longer])
    assert ended == [1, 1]
    parallel.close()


# [async-only]
async def test_a_cancelled_caller_waits_until_each_call_has_cleaned_up() -> None:
    began, ended = [], []

    async def cleans_up() -> None:
        began.append(1)
        rounds = 20 * len(began)
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(rounds):
                await sleep(0)
            ended.append(1)

    call = asyncio.create_task(Parallel().run([cleans_up, cleans_up, cleans_up]))
    while len(began) < 3:
        await sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended == [1, 1, 1]


# [/async-only]
