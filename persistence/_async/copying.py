"""COPY FROM STDIN: many rows from any iterable, in bounded memory.

Protocol: after COPY the server takes data until it is told the end; then it answers once. A failure of ours is told to
it as such, so that it undoes the rows; its own failure it says at once, and what is sent after that goes nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from time import monotonic
from typing import Any

from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult

from persistence._async.compat import sleep
from persistence._async.executor import FailedPart
from persistence._async.wire import FATAL_ERROR, AsyncWireConnection, sending
from persistence.copying import CopyRows
from persistence.dialect import quote_identifier

PIECE_BYTES = 128 * 1024
"""About how much is put into COPY's form before it is sent."""
PIECE_ROWS = 1000
WAITING_BYTES = 1024 * 1024
"""How much may wait in libpq for a server that is slower than we are."""
MESSAGE_BYTES = 4 * 1024 * 1024
"""How much libpq is given at a time."""


async def copy_rows(
    raw: AsyncWireConnection, table: str, columns: Sequence[str], rows: Iterator[Sequence[Any]], deadline: float
) -> int:
    """Append rows to a table and return how many the server stored.

    Raises:
        ValidationError: a row can't be stored, and is named (``rows[7]``).
        FailedPart: the server refused a row.
        DeadlineError: it was not over by ``deadline`` (monotonic seconds). The connection is closed.
    """
    target, names = quote_identifier(table), ", ".join(quote_identifier(column) for column in columns)
    described = await _ask(raw, f"SELECT {names} FROM {target} LIMIT 0", ExecStatus.TUPLES_OK, deadline)
    form = CopyRows(columns, [described.ftype(number) for number in range(described.nfields)], raw.adapters)
    kind = "binary" if form.binary else "text"
    copy = f"COPY {target} ({names}) FROM STDIN (FORMAT {kind}, ENCODING 'UTF8')"
    await _ask(raw, copy, ExecStatus.COPY_IN, deadline)
    try:
        await _send(raw, form, rows, deadline)
    except Exception:
        if raw.pgconn.status == ConnStatus.OK:
            raw.pgconn.put_copy_end(b"the rows ended in an error")
            await raw.exchange(deadline)
        raise
    raw.pgconn.put_copy_end()
    result = (await raw.exchange(deadline))[0]
    if result.status != ExecStatus.COMMAND_OK:
        raise _failure(raw, result, table)
    return result.command_tuples or 0


async def _ask(raw: AsyncWireConnection, text: str, expected: int, deadline: float) -> PGresult:
    result = (await raw.query(text, deadline))[0]
    if result.status != expected:
        raise raw.failure(result)
    return result


async def _send(raw: AsyncWireConnection, form: CopyRows, rows: Iterator[Sequence[Any]], deadline: float) -> None:
    raw.stop_watching()
    raw.deadline = deadline
    out, done, size, waiting = form.start(), 0, 50, 0
    while batch := list(islice(rows, size)):
        before = len(out)
        form.add(batch, done, out)
        done += len(batch)
        # As many rows as make about a piece, whether they are of ten bytes or of a megabyte.
        size = max(1, min(PIECE_ROWS, PIECE_BYTES * len(batch) // (len(out) - before)))
        if len(out) >= PIECE_BYTES:
            waiting = await _put(raw, out, waiting)
            out = bytearray()
            await sleep(0)
        if monotonic() >= deadline:
            await raw.give_up()
    out += form.end()
    await _put(raw, out, waiting)


async def _put(raw: AsyncWireConnection, data: bytearray, waiting: int) -> int:
    """Give data to libpq, which sends what the socket takes; return how many bytes wait for it to take more."""
    view = memoryview(data)
    for start in range(0, len(data), MESSAGE_BYTES):
        message = view[start : start + MESSAGE_BYTES]
        while raw.pgconn.put_copy_data(message) == 0:
            await raw.wait(sending(raw.pgconn))
        waiting = waiting + len(message) if raw.pgconn.flush() else 0
        if waiting > WAITING_BYTES:
            await raw.wait(sending(raw.pgconn))
            waiting = 0
    return waiting


def _failure(raw: AsyncWireConnection, result: PGresult, table: str) -> Exception:
    failure = raw.failure(result)
    if result.status == FATAL_ERROR:
        # The server counts lines from 1. What comes after the number repeats the value.
        found = re.search(rf"^COPY {re.escape(table)}, \D*(\d+)", failure.diag.context or "", re.M)
        if found:
            return FailedPart(f"rows[{int(found[1]) - 1}]", failure)
    return failure
