# Generated from ../_async/sqlite_link.py by tests/unasync.py: edit that one.
"""What a connection to SQLite does for databases and transactions, in the threads of its database.

Deadlines are held by SQLite's progress handler, which looks at the clock as a statement runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from time import monotonic
from typing import Any, TypeVar, TypeVarTuple

from persistence._sync.compat import Threads
from persistence._sync.executor import NO_HINTS, FailedPart, Hints, Link, Row, returns_no_rows, too_late
from persistence.copying import check_rows
from persistence.dialect import Statement, compile_statement, quote_identifier, split_statements, sqlite_value
from persistence.fields import milliseconds

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_Binding = Callable[[Sequence[Any]], Any]
_PLAIN = frozenset((str, int, bytes, type(None), bool))
_NAME = itemgetter(0)
_PROGRESS_STEPS = 20_000
COPY_ROWS = 1000
"""How many rows of a copy are held at a time."""


def _bind(values: Sequence[Any]) -> Sequence[Any]:
    if _PLAIN.issuperset(map(type, values)):
        return values
    return [value if type(value) in _PLAIN else sqlite_value(value) for value in values]


def _named(statement: Statement, values: Sequence[Any]) -> dict[str, Any]:
    """Return the parameters by their names: of a sequence, Python 3.14 takes none but those for bare ``?``."""
    return dict(zip(statement.names, _bind(values), strict=True))


def _rows(description: Sequence[Sequence[Any]], fetched: Iterable[Any]) -> list[Row]:
    names = tuple(map(_NAME, description))
    return [dict(zip(names, row)) for row in fetched]  # noqa: B905 - strict=True costs a third more


class SQLiteLink(Link):
    """One connection; its calls run in the threads of the database."""

    def __init__(self, raw: sqlite3.Connection, threads: Threads, busy_timeout: float, in_memory: bool) -> None:
        self.raw = raw
        self._threads = threads
        self._busy_timeout = busy_timeout
        self._in_memory = in_memory
        self._deadline = float("inf")
        self._shortened = self._interrupted = self._closed = False
        self._raised: BaseException | None = None
        self._watch()

    def _watch(self) -> None:
        looks = self._looks()
        next(looks)
        self.raw.set_progress_handler(looks.__next__, _PROGRESS_STEPS)

    def _looks(self) -> Iterator[bool]:
        """Tell at each look whether the statement is to end, and keep what the handler of a signal raises at one.

        SQLite drops what its progress handler raises, and ends the statement. A signal is handled before the first line
        of a function, where nothing of it can catch that; of a generator that goes on, it is within the ``try``.
        """
        try:
            yield False
            while True:
                yield self._interrupted or monotonic() >= self._deadline
        except GeneratorExit:
            raise
        except BaseException as exc:
            self._raised = exc

    def is_alive(self) -> bool:
        return not self._closed

    def is_usable(self) -> bool:
        return not self._closed  # an interrupted statement is undone, and the connection goes on

    def is_free(self) -> bool:
        return not self._closed and not self.raw.in_transaction

    def recover(self) -> bool:
        # A file's connection is discarded instead, which undoes too. A database in memory would go with it.
        if self._in_memory and not self._closed and self.raw.in_transaction:
            self._settle()
            self.raw.execute("ROLLBACK")
            self.raw.execute("PRAGMA query_only = OFF")
        return self.is_free()

    def discard(self) -> None:
        self._closed = True
        self.raw.close()

    def interrupt(self) -> None:
        self._interrupted = True
        if not self._closed:
            self.raw.interrupt()

    def _in_thread(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            return self._threads.run(self.interrupt, call, *args)
        except Exception:
            if self._raised is None:
                raise
            raise self._raised from None
        finally:
            if self._raised is not None:  # which ended the looks
                self._raised = None  # its traceback holds this frame, and this frame the link
                if not self._closed:
                    self._watch()
            self._interrupted = False  # not before: an interruption may come before the thread has begun

    def _until(self, deadline: float) -> None:
        self._deadline = deadline
        left = deadline - monotonic()
        if left < self._busy_timeout:
            self._shortened = True
            self.raw.execute(f"PRAGMA busy_timeout = {milliseconds(left)}")

    def _settle(self) -> None:
        self._deadline = float("inf")
        if self._shortened and not self._closed:
            self._shortened = False
            self.raw.execute(f"PRAGMA busy_timeout = {milliseconds(self._busy_timeout)}")

    def run(
        self, statement: Statement, values: Sequence[Any], rows: int | None, deadline: float, hints: Hints
    ) -> tuple[list[Row], int]:
        return self._in_thread(self._run, statement, values, rows, deadline)

    def _run(
        self, statement: Statement, values: Sequence[Any], rows: int | None, deadline: float
    ) -> tuple[list[Row], int]:
        self._until(deadline)
        try:
            return self._step(statement, values, rows)
        finally:
            self._settle()

    def _step(self, statement: Statement, values: Sequence[Any], rows: int | None) -> tuple[list[Row], int]:
        cursor = self.raw.execute(statement.text, _named(statement, values))
        description = cursor.description
        if rows == 0:
            if description is not None:
                cursor.fetchall()  # a statement with RETURNING takes effect as it is stepped through
            return [], 0 if statement.reads else max(cursor.rowcount, 0)
        if description is None:
            raise returns_no_rows()
        if rows is None or not statement.reads:
            fetched = cursor.fetchall()
        else:
            fetched = cursor.fetchmany(rows)
            cursor.close()  # or it would keep its snapshot
        return _rows(description, fetched), max(cursor.rowcount, 0)  # -1 of a statement that only reads

    def run_batch(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], alone: bool, deadline: float, hints: Hints
    ) -> list[list[Row]]:
        return self._in_thread(self._run_batch, calls, alone, deadline)

    def _run_batch(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], alone: bool, deadline: float
    ) -> list[list[Row]]:
        self._until(deadline)
        try:
            if alone:
                self.raw.execute("BEGIN" if all(each.reads for each, _ in calls) else "BEGIN IMMEDIATE")
            found = [self._part(f"calls[{number}]", *call) for number, call in enumerate(calls)]
            if alone:
                self.raw.execute("COMMIT")
            return found
        except BaseException:
            self._deadline, self._interrupted = float("inf"), False
            if alone and self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
            raise
        finally:
            self._settle()

    def _part(self, name: str, statement: Statement, values: Sequence[Any]) -> list[Row]:
        try:
            cursor = self.raw.execute(statement.text, _named(statement, values))
            return _rows(cursor.description or (), cursor.fetchall())
        except Exception as exc:
            raise FailedPart(name, exc) from exc

    def run_many(self, statement: Statement, values: Sequence[Sequence[Any]], deadline: float) -> int:
        if statement.returns:
            return self._in_thread(self._run_each, statement, values, deadline)
        bind = partial(_named, statement)
        return self._insert(statement.text, values, bind, "parameters", 0, deadline)

    def _run_each(self, statement: Statement, values: Sequence[Sequence[Any]], deadline: float) -> int:
        # executemany takes the first row only of what RETURNING gives, and from Python 3.12 on refuses the next call.
        self._until(deadline)
        try:
            return sum([len(self._part(f"parameters[{n}]", statement, each)) for n, each in enumerate(values)])
        finally:
            self._settle()

    def _insert(
        self, text: str, values: Sequence[Sequence[Any]], bind: _Binding, what: str, first: int, deadline: float
    ) -> int:
        return self._in_thread(self._run_many, text, values, bind, what, first, deadline)

    def _run_many(
        self, text: str, values: Sequence[Sequence[Any]], bind: _Binding, what: str, first: int, deadline: float
    ) -> int:
        current = first

        def bound() -> Iterator[Any]:
            nonlocal current
            for current, each in enumerate(values, first):  # noqa: B007 - the handler below names the current one
                yield bind(each)

        self._until(deadline)
        try:
            return max(self.raw.executemany(text, bound()).rowcount, 0)
        except Exception as exc:
            raise FailedPart(f"{what}[{current}]", exc) from exc
        finally:
            self._settle()

    def copy_into(
        self, table: str, columns: Sequence[str], rows: Iterator[Sequence[Any]], alone: bool, deadline: float
    ) -> int:
        names = ", ".join(quote_identifier(column) for column in columns)
        insert = f"INSERT INTO {quote_identifier(table)} ({names}) VALUES"
        text = f"{insert} ({', '.join('?' * len(columns))})"
        done = 0
        if alone:
            self.script("BEGIN IMMEDIATE", deadline)
        try:
            while batch := list(islice(rows, COPY_ROWS)):
                check_rows(batch, len(columns), done)
                self._insert(text, batch, _bind, "rows", done, deadline)
                done += len(batch)
                if monotonic() >= deadline:
                    raise too_late()
            if not done:  # a table or a column that isn't there is told all the same
                explained = compile_statement(f"EXPLAIN {insert} ({', '.join(['NULL'] * len(columns))})", "sqlite")
                self.run(explained, (), 0, deadline, NO_HINTS)
            if alone:
                self.script("COMMIT", deadline)
        except BaseException:
            if alone:
                self.roll_back(float("inf"))
            raise
        return done

    def script(self, text: str, deadline: float) -> None:
        self._in_thread(self._script, text, deadline)

    def _script(self, text: str, deadline: float) -> None:
        self._until(deadline)
        try:
            for statement in split_statements(text) if ";" in text else (text,):
                self.raw.execute(statement)
            if self._in_memory and text in ("COMMIT", "ROLLBACK"):
                self.raw.execute("PRAGMA query_only = OFF")  # a read-only transaction had set it
        finally:
            self._settle()

    def through(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Run what takes the whole connection; it goes on to its end."""
        self._threads.run(let_it_end, work, self.raw)

    def roll_back(self, deadline: float) -> None:
        if self.raw.in_transaction:
            self.script("ROLLBACK", deadline)


def let_it_end() -> None:
    """Interrupt a call of which nothing may be left half done: do nothing."""
