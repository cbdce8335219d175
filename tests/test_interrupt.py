"""Ctrl-C in the middle of a statement: it ends on the server too, and the connection goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic
from types import FrameType

import pytest

from persistence import DatabaseManager, PostgreSQLConfig


@pytest.fixture
def interrupted_soon() -> Iterator[None]:
    """A KeyboardInterrupt in 0.2 s."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_an_interrupted_statement_ends_and_its_connection_goes_on(
    postgresql_config: PostgreSQLConfig, in_transaction: bool, interrupted_soon: None
) -> None:
    with DatabaseManager() as manager:
        main = manager.add_postgresql("main", replace(postgresql_config, max_connections=1))
        pid = main.fetch_value("SELECT pg_backend_pid()")
        started = monotonic()
        with pytest.raises(KeyboardInterrupt):
            if in_transaction:
                with main.transaction():
                    main.fetch_value("SELECT pg_sleep(30)")
            else:
                main.fetch_value("SELECT pg_sleep(30)")
        assert monotonic() - started < 2
        assert main.fetch_value("SELECT pg_backend_pid()") == pid
        assert main.stats().in_use == 0
