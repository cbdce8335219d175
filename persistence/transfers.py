"""What a copy from one database to another must know without asking either: tables, values, statements, reports.

A value is read in a plain form (a time as microseconds, what PostgreSQL alone has as its text), made into what the
target's column takes, and written by a cast to the column's type. Packages whose tables differ between SQLite and
PostgreSQL say how in ``COPY_PLANS`` of their module ``copy_plans``, a ``CopyPlan`` by route. Nothing is left out in
silence: a column that only one side has is told by the plan, or the copy is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import numpy as np

from persistence.dialect import Kind, from_micros, quote_identifier
from persistence.errors import MigrationError

Route = tuple[Kind, Kind]
"""The kinds of the source and of the target."""
BATCH_BYTES = 4 * 2**20
"""About how much a batch holds."""
BATCH_ROWS = 1000
MOST_DIFFERENCES = 100
"""So many differences are told; a copy that differs more is wrong as a whole."""
LINKS = " (references)"
"""Ends the name of a second pass over a table, which sets the columns that refer to the table itself."""

RawRow = Mapping[str, Any]

# Not in sql/: the table is there only where a copy has been made, and belongs to no line of migrations.
CREATE_PROGRESS = """
CREATE TABLE IF NOT EXISTS holdfast_copies (
    source text NOT NULL, name text NOT NULL, last_key text, copied bigint NOT NULL, done integer NOT NULL,
    PRIMARY KEY (source, name)
)
"""
READ_PROGRESS = (
    "SELECT name, last_key, copied, done FROM holdfast_copies WHERE source = :source ORDER BY name LIMIT 100000"
)
FORGET_PROGRESS = "DELETE FROM holdfast_copies WHERE source = :source"
BEGIN_TABLE = """
INSERT INTO holdfast_copies (source, name, last_key, copied, done) VALUES (:source, :name, NULL, 0, 0)
ON CONFLICT (source, name) DO NOTHING
"""
REOPEN_TABLE = "UPDATE holdfast_copies SET done = 0 WHERE source = :source AND name = :name"
# By compare and set, so that of two copies at once one fails and undoes its batch.
RECORD_BATCH = """
UPDATE holdfast_copies SET last_key = :last_key, copied = copied + :copied, done = :done
WHERE source = :source AND name = :name AND done = 0 AND coalesce(last_key, '') = :before
"""


@dataclass(frozen=True, slots=True)
class Derived:
    """A column that is made in a way of its own, from the source's row.

    ``shown`` is the expression that reads it from the target, with ``…`` for its name; ``same`` makes what was made and
    what is read comparable.
    """

    make: Callable[[RawRow], Any]
    shown: str = "…"
    same: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, slots=True)
class Before:
    """A statement that runs before a batch is written, once for each different set of parameters of its rows."""

    sql: str
    values: Callable[[RawRow], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """How a package's tables are copied where those of the two sides differ.

    ``left_out`` names tables (``t``) of the source and columns (``t.c``) of either side that need no copy; ``derived``
    is by table and column; ``keys`` are unique columns that both sides have, in place of the target's primary key.
    """

    left_out: frozenset[str] = frozenset()
    derived: Mapping[tuple[str, str], Derived] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    before: Mapping[str, Before] = field(default_factory=dict)


def plan_of(package: str, route: Route) -> CopyPlan:
    """Return a package's plan for a route; one that says nothing where it has none."""
    if find_spec(package) is None or find_spec(f"{package}.copy_plans") is None:
        return CopyPlan()
    plans = cast("Mapping[Route, CopyPlan]", import_module(f"{package}.copy_plans").COPY_PLANS)
    return plans.get(route, CopyPlan())


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogue tells it; ``place`` is its place in the primary key."""

    name: str
    type: str
    generated: bool = False
    place: int | None = None


Tables = dict[str, dict[str, Column]]


def tables_from_rows(rows: Iterable[RawRow]) -> Tables:
    """Return the columns by table that the rows of ``list_copy_columns`` describe."""
    found: Tables = {}
    for row in rows:
        column = Column(row["column"], row["type"].lower(), bool(row["generated"]), row["place"])
        found.setdefault(row["table"], {})[column.name] = column
    return found


@dataclass(frozen=True, slots=True)
class TablePair:
    """A table to copy: what stands after FROM in the source and its columns, and the table of the target.

    ``name`` is under which progress and reports name it.
    """

    name: str
    package: str
    source: str
    columns: Mapping[str, Column]
    target: str
    derived: Mapping[str, Derived] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopiedColumn:
    """A column on its way: the expressions that read it on both sides and write it, and what becomes of its value."""

    name: str
    read: str | None
    make: Callable[[RawRow], Any]
    cast: str | None
    shown: str
    made: Callable[[RawRow], Any]
    same: Callable[[Any], Any]
    value: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class TableCopy:
    """A table on its way, with its statements; ``links`` are columns that refer to rows of the same table."""

    pair: TablePair
    route: Route
    key: tuple[str, ...]
    columns: tuple[CopiedColumn, ...]
    links: tuple[str, ...] = ()
    before: Before | None = None
    second: bool = False

    @property
    def name(self) -> str:
        """Under which its progress is recorded."""
        return self.pair.name + (LINKS if self.second else "")

    def second_pass(self) -> TableCopy:
        """Return what sets the links, once every row is there that they refer to."""
        kept = tuple(each for each in self.columns if each.name in (*self.key, *self.links))
        return replace(self, columns=kept, second=True, before=None)

    def select(self, *, shown: bool = False, after: bool = False) -> str:
        """Return the statement that reads a batch in the order of the key; ``shown``: from the target."""
        columns = [
            f"{expression} AS {quote_identifier(each.name)}"
            for each in self.columns
            if (expression := each.shown if shown else each.read) is not None
        ]
        order = ", ".join(f"copied.{quote_identifier(name)}" for name in self.key)
        conditions = []
        if after:
            conditions.append(f"({order}) > ({', '.join(self._key_parameters(shown))})")
        if self.second:
            conditions.append(f"({' OR '.join(f'{quote_identifier(name)} IS NOT NULL' for name in self.links)})")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        source = quote_identifier(self.pair.target) if shown else self.pair.source
        return f"SELECT {', '.join(columns)} FROM {source} AS copied{where} ORDER BY {order} LIMIT :size"

    def _key_parameters(self, shown: bool) -> list[str]:
        kind = self.route[1 if shown else 0]
        by_name = {each.name: each for each in self.columns}
        return [
            f"CAST(:key_{place} AS {by_name[name].cast})" if kind == "postgresql" else f":key_{place}"
            for place, name in enumerate(self.key)
        ]

    def key_values(self, raw: Sequence[Any], *, shown: bool = False) -> dict[str, Any]:
        """Return the parameters that a batch after a key takes."""
        by_name = {each.name: each for each in self.columns}
        is_plain = self.route[1 if shown else 0] == "sqlite"
        return {
            f"key_{place}": value if is_plain else by_name[name].value(value)
            for place, (name, value) in enumerate(zip(self.key, raw, strict=True))
        }

    def key_of(self, row: RawRow) -> tuple[Any, ...]:
        """Return a row's key in its plain form."""
        return tuple(row[name] for name in self.key)

    def _written(self, number: int) -> str:
        cast = self.columns[number].cast
        return f":c{number}" if cast is None else f"CAST(:c{number} AS {cast})"

    def write(self, *, merge: bool) -> str:
        """Return the statement that writes a row; with ``merge`` it leaves alone what is there."""
        table = quote_identifier(self.pair.target)
        if self.second:
            places = {each.name: self._written(number) for number, each in enumerate(self.columns)}
            sets = ", ".join(f"{quote_identifier(name)} = {places[name]}" for name in self.links)
            found = [f"{quote_identifier(name)} = {places[name]}" for name in self.key]
            found += [f"{quote_identifier(name)} IS NULL" for name in self.links]
            return f"UPDATE {table} SET {sets} WHERE {' AND '.join(found)}"
        chosen = [(number, each) for number, each in enumerate(self.columns) if each.name not in self.links]
        names = ", ".join(quote_identifier(each.name) for _, each in chosen)
        values = ", ".join(self._written(number) for number, _ in chosen)
        # What the server would number keeps its number.
        overriding = " OVERRIDING SYSTEM VALUE" if self.route[1] == "postgresql" else ""
        conflict = " ON CONFLICT DO NOTHING" if merge else ""
        return f"INSERT INTO {table} ({names}){overriding} VALUES ({values}){conflict}"

    def parameters(self, row: RawRow) -> dict[str, Any]:
        """Return what the statement that writes takes of a row."""
        return {
            f"c{number}": each.make(row)
            for number, each in enumerate(self.columns)
            if self.second or each.name not in self.links
        }

    def differing(self, raw: RawRow, shown: RawRow) -> list[str]:
        """Return the columns in which a row of the source differs from that of the target."""
        return [each.name for each in self.columns if each.same(each.made(raw)) != each.same(shown[each.name])]


def table_copy(pair: TablePair, columns: Mapping[str, Column], plan: CopyPlan, route: Route) -> TableCopy:
    """Return how a table is copied.

    Raises:
        MigrationError: one side has a column that the other hasn't, and the plan doesn't say what becomes of it.
    """
    derived = {**{name: each for (table, name), each in plan.derived.items() if table == pair.target}, **pair.derived}
    written = {name: each for name, each in columns.items() if not each.generated}
    lonely = [
        name
        for name in (pair.columns.keys() ^ columns.keys()) - derived.keys()
        if f"{pair.target}.{name}" not in plan.left_out
        and not (columns[name].generated if name in columns else pair.columns[name].generated)
    ]
    if lonely:
        raise MigrationError(
            f"{pair.name}: only one side has the columns {', '.join(sorted(lonely))}",
            hint=f"{pair.package}/copy_plans.py must say what becomes of them",
        )
    copied = [
        _derived(pair, each, derived[name], route) if name in derived else _same(pair.columns[name], each, route)
        for name, each in written.items()
        if name in derived or name in pair.columns
    ]
    places = {name: each.place for name, each in columns.items() if each.place is not None}
    key = plan.keys.get(pair.target) or tuple(sorted(places, key=lambda name: places[name] or 0))
    if not key or any(name not in pair.columns for name in key):
        raise MigrationError(
            f"{pair.name} has no key that both sides have", hint=f"{pair.package}/copy_plans.py names it"
        )
    return TableCopy(pair, route, key, tuple(copied), before=plan.before.get(pair.target))


def with_links(copied: TableCopy, links: tuple[str, ...]) -> TableCopy:
    """Return the same with columns that refer to rows of the same table: they are set once all rows are there."""
    return replace(copied, links=links) if links else copied


def _derived(pair: TablePair, column: Column, derived: Derived, route: Route) -> CopiedColumn:
    name, place = column.name, f"copied.{quote_identifier(column.name)}"
    read = place if name in pair.columns else None
    shown = derived.shown.replace("…", place)
    cast_to = column.type if route[1] == "postgresql" else None
    return CopiedColumn(name, read, derived.make, cast_to, shown, derived.make, derived.same, _as_it_is)


def _same(source: Column, target: Column, route: Route) -> CopiedColumn:
    name = target.name
    place = f"copied.{quote_identifier(name)}"
    value: Callable[[Any], Any] = _as_it_is
    same: Callable[[Any], Any] = _as_it_is
    shown = place
    read = _plain(place, source.type) if route[0] == "postgresql" else place
    if route[1] == "postgresql":
        shown = _plain(place, target.type)
        if target.type == "timestamp with time zone":
            value = _moment
        elif route[0] == "sqlite":
            value, shown, same = _from_sqlite(target.type, place, shown)
    return CopiedColumn(
        name,
        read,
        lambda row: None if row[name] is None else value(row[name]),
        target.type if route[1] == "postgresql" else None,
        shown,
        lambda row: row[name],
        lambda found: None if found is None else same(found),
        value,
    )


_AS_THEY_ARE = (
    "smallint",
    "integer",
    "bigint",
    "boolean",
    "text",
    "character varying",
    "real",
    "double precision",
    "bytea",
)


def _plain(place: str, type: str) -> str:
    """Return the expression that reads a column of PostgreSQL in its plain form."""
    if type in _AS_THEY_ARE:
        return place
    if type == "timestamp with time zone":
        return f"CAST(extract(epoch FROM {place}) * 1000000 AS bigint)"
    return f"CAST({place} AS text)"


def _from_sqlite(type: str, place: str, shown: str) -> tuple[Callable[[Any], Any], str, Callable[[Any], Any]]:
    """Return what is made of SQLite's value, the expression that reads it again, and what makes both comparable."""
    match type:
        case "boolean":
            return bool, shown, bool
        case "interval":
            micros = f"CAST(extract(epoch FROM {place}) * 1000000 AS bigint)"
            return (lambda value: timedelta(microseconds=value)), micros, _as_it_is
        case "jsonb":
            return _as_it_is, shown, _json_value
        case "real[]":
            return _floats, f"CAST(array_to_json({place}) AS text)", _vector_bytes
        case "integer[]" | "bigint[]" | "text[]":
            return json.loads, f"CAST(array_to_json({place}) AS text)", json.loads
        case "double precision" | "real":
            return float, shown, float
    return _as_it_is, shown, _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


def _moment(micros: int) -> Any:
    return from_micros(micros)


def _json_value(text: str) -> Any:
    """Return a JSON value as jsonb tells it apart: 1.0 and 1 are one number, whatever their digits."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def _floats(stored: bytes) -> list[float]:
    return np.frombuffer(stored, "<f4").tolist()  # type: ignore[no-any-return]


def _vector_bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else np.asarray(json.loads(value), "<f4").tobytes()


def in_order(pairs: Sequence[TablePair], references: Iterable[tuple[str, str]]) -> list[TablePair]:
    """Return tables so that each comes behind those that it refers to, and else in the order of their names."""
    wanted: dict[str, set[str]] = {}
    for table, target in references:
        if table != target:
            wanted.setdefault(table, set()).add(target)
    left = sorted(pairs, key=lambda pair: pair.name)
    done: list[TablePair] = []
    while left:
        waiting = {pair.target for pair in left}
        free = next((pair for pair in left if not wanted.get(pair.target, set()) & waiting), left[0])
        left.remove(free)
        done.append(free)
    return done


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """What was copied of a table: its rows, and how many of them were there already (with ``merge``)."""

    name: str
    package: str
    rows: int
    kept: int = 0


@dataclass(frozen=True, slots=True)
class CopyDifference:
    """A row that is not the same on both sides: its key, and what differs (a column, or that it is missing or new)."""

    table: str
    key: tuple[Any, ...]
    what: str


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy is: the table and how many of its rows were gone through."""

    table: str
    rows: int
    done: bool
