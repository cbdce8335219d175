# Generated from ../_async/link.py by tests/unasync.py: edit that one.
"""What a pooled PostgreSQL connection does for databases and transactions: statements, batches of them, scripts.

Parameters and rows go through psycopg's own dumpers and loaders, so every type that psycopg knows works. A statement is
sent with its text until it has been run ``prepare_threshold`` times; then it is prepared, in the same round trip that
runs it. One that was prepared for tables which have changed since is refused by the server; outside a transaction it is
then run anew, unprepared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from persistence._sync.copying import copy_rows
from persistence._sync.executor import FailedPart, Hints, Link, Row, returns_no_rows
from persistence._sync.wire import WireConnection
from persistence.dialect import Statement
from persistence.errors import ValidationError
from persistence.prepared import KnownStatement, KnownStatements, Shape
from persistence.sockets import shut_down

MAX_PARAMETERS = 65_535
MANY = 1000
MANY_BYTES = 4 * 1024 * 1024
"""How many sets of parameters, and about how many bytes of them, are under way at a time."""

_ALIVE = (TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR)
# Plain numbers, because libpq's answers are: comparing with a member of an IntEnum is slower.
_TUPLES_OK = int(ExecStatus.TUPLES_OK)
_FINE = (_TUPLES_OK, int(ExecStatus.COMMAND_OK), int(ExecStatus.EMPTY_QUERY))
_DATA_VERBS = frozenset(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "MERGE"))
_AUTO = [PyFormat.AUTO] * 100
_OUTDATED = {b"0A000": b"RevalidateCachedQuery", b"26000": b"FetchPreparedStatement"}
"""The errors of a prepared statement that has gone or no longer fits, and where the server raises them."""


class Call(NamedTuple):
    """A statement with its parameters as the server takes them."""

    text: str
    values: Sequence[Any] | None
    types: tuple[int, ...]
    formats: Any
    known: KnownStatement | None
    due: bool
    """Whether it is to be prepared now."""


class PostgreSQLLink(Link):
    """One pooled connection."""

    def __init__(self, raw: WireConnection) -> None:
        self.raw = raw
        self._pgconn = raw.pgconn
        self._tls = raw.pgconn.ssl_in_use
        self._known = KnownStatements()
        self._schema_changed = False
        self._renew()

    def adopt(self, adapters: AdaptersMap) -> None:
        """Take up the server's types as they are now."""
        self.raw._adapters = AdaptersMap(adapters)
        self._renew()

    def _renew(self) -> None:
        self._encoding = self.raw.info.encoding
        self._transformer = Transformer(self.raw)
        self._known.forget_all()

    def is_alive(self) -> bool:
        """Tell from the socket alone: a server has nothing to say on an idle connection but goodbye."""
        if self.raw.is_silent():
            return True
        if not self._tls:
            return False
        try:  # TLS may have a session ticket for us
            self._pgconn.consume_input()
        except psycopg.Error:
            return False
        return self.raw.is_silent()

    def discard(self) -> None:
        self.raw.hang_up()

    def interrupt(self) -> None:
        try:
            descriptor = self._pgconn.socket
        except psycopg.Error:
            return  # it is closed
        shut_down(descriptor)

    def is_usable(self) -> bool:
        return self._pgconn.transaction_status in _ALIVE

    def is_free(self) -> bool:
        return self._pgconn.transaction_status == TransactionStatus.IDLE

    def recover(self) -> bool:
        return self.is_free()  # what is open would need a round trip

    def run(
        self, statement: Statement, values: Sequence[Any], rows: int | None, deadline: float, hints: Hints
    ) -> tuple[list[Row], int]:
        call = self._call(statement.text, values, hints.prepare)
        known = call.known
        if call.due:
            results = (self._pipeline([call], deadline, hints.binary))[0]
        else:
            self._send(call, hints.binary)
            results = self.raw.exchange(deadline, hints.meanwhile)
        failed = _failed(results)
        if failed is not None:
            if self._must_run_anew(failed, call):
                return self.run(statement, values, rows, deadline, hints._replace(prepare=False))
            raise self.raw.failure(failed)
        if known is not None and not known.name and len(results) == 1:
            known.uses += 1
        if statement.verb not in _DATA_VERBS:
            self._take_note(results)
        result = results[0]
        if rows == 0:
            return [], 0 if statement.reads else _count(result)
        if result.status != _TUPLES_OK:
            raise returns_no_rows()
        return self._rows(result, known, rows, hints.binary), result.ntuples

    def run_batch(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], alone: bool, deadline: float, hints: Hints
    ) -> list[list[Row]]:
        queued = [self._convert(f"calls[{n}]", each[0].text, each[1], hints.prepare) for n, each in enumerate(calls)]
        answers = self._pipeline(queued, deadline, hints.binary)
        for number, (results, call) in enumerate(zip(answers, queued, strict=False)):
            failed = _failed(results)
            if failed is not None:
                if self._must_run_anew(failed, call):
                    return self.run_batch(calls, alone, deadline, hints._replace(prepare=False))
                raise FailedPart(f"calls[{number}]", self.raw.failure(failed))
        found = []
        for results, call, (statement, _) in zip(answers, queued, calls, strict=True):
            if call.known is not None and not call.known.name:
                call.known.uses += 1
            if statement.verb not in _DATA_VERBS:
                self._take_note(results)
            (result,) = results
            has_rows = result.status == _TUPLES_OK
            found.append(self._rows(result, call.known, None, hints.binary) if has_rows else [])
        return found

    def run_many(self, statement: Statement, values: Sequence[Sequence[Any]], deadline: float) -> int:
        affected = start = 0
        while start < len(values):
            queued = self._convert_some(statement.text, values, start)
            for number, results in enumerate(self._pipeline(queued, deadline, False), start):
                failed = _failed(results)
                if failed is not None:
                    raise FailedPart(f"parameters[{number}]", self.raw.failure(failed))
                affected += _count(results[0])
            start += len(queued)
        return affected

    def _convert_some(self, text: str, values: Sequence[Sequence[Any]], start: int) -> list[Call]:
        queued: list[Call] = []
        size = 0
        for number in range(start, min(start + MANY, len(values))):
            call = self._convert(f"parameters[{number}]", text, values[number], True)
            queued.append(call)
            size += sum(map(len, filter(None, call.values or ())))
            if size > MANY_BYTES:
                break
        return queued

    def copy_into(
        self, table: str, columns: Sequence[str], rows: Iterator[Sequence[Any]], alone: bool, deadline: float
    ) -> int:
        return copy_rows(self.raw, table, columns, rows, deadline)

    def script(self, text: str, deadline: float) -> None:
        results = self.raw.query(text, deadline)
        failed = _failed(results)
        if failed is not None:
            raise self.raw.failure(failed)
        self._take_note(results)

    def commit_and_tell(self, query: str, deadline: float) -> str | None:
        """Commit, and return the text that a query gives thereafter, in one round trip; None should that fail."""
        results = self.raw.query(f"COMMIT; {query}", deadline)
        failed = _failed(results[:1])
        if failed is not None:
            raise self.raw.failure(failed)
        self._take_note(results[:1])
        told = results[-1]
        found = told.get_value(0, 0) if told.status == _TUPLES_OK and told.ntuples else None
        return None if found is None else found.decode()

    def roll_back(self, deadline: float) -> None:
        if self._pgconn.transaction_status != TransactionStatus.IDLE:
            self.script("ROLLBACK", deadline)

    def _call(self, text: str, values: Sequence[Any], prepare: bool | None) -> Call:
        if values:
            transformer, count = self._transformer, len(values)
            if count > MAX_PARAMETERS:
                raise ValidationError(f"{count:,} parameters are more than PostgreSQL's limit of {MAX_PARAMETERS:,}")
            dumped = transformer.dump_sequence(values, _AUTO if count <= len(_AUTO) else [PyFormat.AUTO] * count)
            types, formats = transformer.types or (), transformer.formats
        else:
            dumped, types, formats = None, (), None
        threshold = self.raw.prepare_threshold
        if threshold is None or prepare is False:
            return Call(text, dumped, types, formats, None, False)
        known = self._known.find(text, types)
        due = not known.name and (known.uses >= threshold or prepare is True)
        return Call(text, dumped, types, formats, known, due)

    def _convert(self, part: str, text: str, values: Sequence[Any], prepare: bool | None) -> Call:
        try:
            return self._call(text, values, prepare)
        except Exception as exc:
            raise FailedPart(part, exc) from exc

    def _send(self, call: Call, binary: bool) -> None:
        text, values, types, formats, known, _ = call
        try:
            if known is not None and known.name:
                self._pgconn.send_query_prepared(known.name, values, formats, binary)
            elif values is None and not binary and not self._pgconn.pipeline_status:
                self._pgconn.send_query(text.encode(self._encoding))  # the only way for several statements at once
            else:
                self._pgconn.send_query_params(text.encode(self._encoding), values, types, formats, binary)
        except psycopg.Error:
            self.raw.stop_watching()
            raise

    def _pipeline(self, calls: Sequence[Call], deadline: float, binary: bool) -> list[list[PGresult]]:
        """Run statements in one round trip, and prepare those that are due; return the results of each.

        What follows a failure was not run.
        """
        pgconn, raw = self._pgconn, self.raw
        fresh: dict[int, KnownStatement] = {}  # what this pipeline prepares, by the place of the answer
        sent = 0
        raw.begin_pipeline()
        try:
            for call in calls:
                known = call.known
                if known is not None and call.due and not known.name:
                    fresh[sent], known.name = known, self._known.new_name()
                    pgconn.send_prepare(known.name, call.text.encode(self._encoding), call.types)
                    sent += 1
                self._send(call, binary)
                sent += 1
            self._close_stale()
            answers = raw.exchange_pipeline(deadline)
        except BaseException:
            raw.end_pipeline()
            self._doubt(fresh.values())
            raise
        found = self._without_preparations(answers[:sent], fresh)
        for results in answers[sent:]:
            failed = _failed(results)
            if failed is not None and all(_failed(each) is None for each in found):
                raise raw.failure(failed)  # the commit at the end failed
        if len(found) < len(calls) and (not found or _failed(found[-1]) is None):
            raise psycopg.OperationalError("the connection was lost")
        return found

    def _without_preparations(
        self, answers: list[list[PGresult]], fresh: dict[int, KnownStatement]
    ) -> list[list[PGresult]]:
        """Return the answers to the statements; where one could not be prepared, that is its answer."""
        found: list[list[PGresult]] = []
        refused: list[PGresult] | None = None
        for place, results in enumerate(answers):
            known = fresh.get(place)
            if known is None:
                found.append(refused or results)
                refused = None
            elif _failed(results) is not None:
                known.name, refused = b"", results
            elif known.forgotten:
                self._known.stale.append(known.name)
        return found

    def _doubt(self, fresh: Iterable[KnownStatement]) -> None:
        """Count as not prepared what nobody answered for: the server may have read it or not."""
        for known in fresh:
            self._known.stale.append(known.name)
            known.name = b""

    def _close_stale(self) -> None:
        # Where libpq is too old (before 17) to say it, the names go with the connection.
        if self._known.stale and psycopg.capabilities.has_send_close_prepared():
            for name in self._known.stale:
                self._pgconn.send_close_prepared(name)
            self._known.stale.clear()

    def _must_run_anew(self, failed: PGresult, call: Call) -> bool:
        """Tell whether a prepared statement failed only because it was prepared; forget it when that may be so."""
        if call.known is None or not call.known.name:
            return False
        state = failed.error_field(DiagnosticField.SQLSTATE) or b""
        if state == b"26000":
            self._known.forget_all()
        elif state in _OUTDATED or state.startswith(b"XX"):
            self._known.forget(call.text, call.types)
        return (
            failed.error_field(DiagnosticField.SOURCE_FUNCTION) == _OUTDATED.get(state, b"")
            and self._pgconn.transaction_status == TransactionStatus.IDLE
        )

    def _take_note(self, results: Sequence[PGresult]) -> None:
        """Forget what was prepared when a statement changed what it may have been prepared for."""
        for result in results:
            status = result.command_status or b""
            if status.startswith((b"DROP", b"ALTER", b"DISCARD", b"DEALLOCATE")):
                self._schema_changed = True
                self._known.forget_all()
            elif status.startswith(b"CREATE"):
                self._schema_changed = True
            elif self._schema_changed and status == b"ROLLBACK":
                self._known.forget_all()
            elif status in (b"SET", b"RESET") and self.raw.info.encoding != self._encoding:
                self._renew()
        if self._schema_changed and self._pgconn.transaction_status == TransactionStatus.IDLE:
            self._schema_changed = False

    def _rows(self, result: PGresult, known: KnownStatement | None, rows: int | None, binary: bool) -> list[Row]:
        count = result.ntuples if rows is None else min(rows, result.ntuples)
        if not count:
            return []
        shape = None if known is None or not known.name else known.shapes[binary]
        if shape is not None:
            names, loaders = shape.names, shape.loaders
            loaders.set_pgresult(result, set_loaders=False)
        else:
            names = [(result.fname(n) or b"").decode(self._encoding) for n in range(result.nfields)]
            loaders = self._transformer
            if known is not None and known.name:
                loaders = Transformer(self.raw)
                known.shapes[binary] = Shape(names, loaders)
            loaders.set_pgresult(result)
        if count == 1:
            found = [dict(zip(names, loaders.load_row(0, tuple), strict=True))]
        else:
            found = [dict(zip(names, row, strict=True)) for row in loaders.load_rows(0, count, tuple)]
        loaders.set_pgresult(None, set_loaders=False)  # an idle connection keeps no large result
        return found


def _failed(results: Sequence[PGresult]) -> PGresult | None:
    for result in results:
        if result.status not in _FINE:
            return result
    return None


def _count(result: PGresult) -> int:
    return result.ntuples if result.status == _TUPLES_OK else result.command_tuples or 0
