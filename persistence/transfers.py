"""What a copy from one database to another must know without asking either: tables, statements, reports.

Where the tables of the two sides differ, ``copy_planning`` tells how; what becomes of a value, ``copied_columns``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from persistence.copied_columns import (
    Column,
    CopiedColumn,
    Derived,
    RawRow,
    Route,
    derived_column,
    measure,
    same_column,
    unfit,
)
from persistence.copy_planning import Before, CopyPlan
from persistence.dialect import Kind, compile_statement, quote_identifier
from persistence.errors import CapabilityError, MigrationError

BATCH_BYTES = 4 * 2**20
"""About how much a batch holds."""
BATCH_ROWS = 1000
MOST_DIFFERENCES = 100
"""So many differences are told; a copy that differs more is wrong as a whole."""
LINKS = " (references)"
"""Ends the name of a second pass over a table, which sets the columns that refer to the table itself."""

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


Tables = dict[str, dict[str, Column]]


def tables_from_rows(rows: Iterable[RawRow]) -> Tables:
    """Return the columns by table that the rows of ``list_copy_columns`` describe."""
    found: Tables = {}
    for row in rows:
        column = Column(row["column"], row["type"].lower(), bool(row["generated"]), row["place"])
        found.setdefault(row["table"], {})[column.name] = column
    return found


@dataclass(frozen=True, slots=True)
class Numbered:
    """A column that the writer numbers: behind what the statement ``last`` gives, by chance up to 2 ** ``gap``."""

    column: str
    last: str
    gap: int


@dataclass(frozen=True, slots=True)
class TablePair:
    """A table to copy: what stands after FROM in the source and its columns, and the table of the target.

    ``name`` is under which progress and reports name it. ``shown`` stands after FROM where the copy is read again (left
    out: the target); ``beside`` are columns of it that the target's table has not, and statements behind the rows
    write. ``made`` is what the package must know to make the table elsewhere.
    """

    name: str
    package: str
    source: str
    columns: Mapping[str, Column]
    target: str
    derived: Mapping[str, Derived] = field(default_factory=dict)
    shown: str | None = None
    beside: Mapping[str, Column] = field(default_factory=dict)
    numbered: Numbered | None = None
    made: Mapping[str, Any] | None = None

    @property
    def read_again(self) -> str:
        """What stands after FROM where the target is read."""
        return quote_identifier(self.target) if self.shown is None else self.shown

    def unfit(self, plan: CopyPlan, chosen: str | None = None) -> str | None:
        """Return the statement that finds a row of PostgreSQL with a value that SQLite can't hold, and its column.

        It looks among the rows that ``chosen`` is true of. None: each value has a form there.

        Raises:
            CapabilityError: SQLite has nothing for the type of a column.
        """
        found = {}
        for name, column in self.columns.items():
            told = name in self.derived or (self.target, name) in plan.derived
            if not (told or column.generated or f"{self.target}.{name}" in plan.left_out):
                try:
                    same_column(column, column, ("postgresql", "sqlite"))
                except CapabilityError as exc:
                    exc.message = f"{self.name}: {exc.message}"
                    raise
                if (condition := unfit(column)) is not None:
                    found[name] = condition
        if not found:
            return None
        cases = " ".join(f"WHEN {condition} THEN '{name}'" for name, condition in found.items())
        keys = ", ".join(quote_identifier(name) for name, each in self.columns.items() if each.place is not None)
        return (
            f'SELECT CAST(row({keys}) AS text) AS key, CASE {cases} END AS "column" FROM {self.source} AS copied'
            f" WHERE ({' OR '.join(found.values())}) AND {chosen or 'true'} LIMIT 1"
        )


@dataclass(frozen=True, slots=True)
class TableCopy:
    """A table on its way, with its statements; ``links`` are columns that refer to rows of the same table."""

    pair: TablePair
    route: Route
    key: tuple[str, ...]
    columns: tuple[CopiedColumn, ...]
    links: tuple[str, ...] = ()
    before: Before | None = None
    after: str | None = None
    triggers: frozenset[str] = frozenset()
    second: bool = False
    chosen: str | None = None

    @property
    def name(self) -> str:
        """Under which its progress is recorded."""
        return self.pair.name + (LINKS if self.second else "")

    def second_pass(self) -> TableCopy:
        """Return what sets the links, once every row is there that they refer to."""
        kept = tuple(each for each in self.columns if each.name in (*self.key, *self.links))
        return replace(self, columns=kept, second=True, before=None, after=None)

    def select(self, *, shown: bool = False, after: bool = False) -> str:
        """Return the statement that reads a batch in the order of the key; ``shown``: from the target."""
        columns = [
            f"{expression} AS {quote_identifier(each.name)}"
            for each in self.columns
            if (expression := each.shown if shown else each.read) is not None
        ]
        return f"SELECT {', '.join(columns)} {self._behind(shown, after)} ORDER BY {self._order()} LIMIT :size"

    def measure(self, *, shown: bool = False, after: bool = False) -> str | None:
        """Return the statement that tells how many of the next rows have ``:bytes`` together; None: they are small."""
        side = 1 if shown else 0
        sizes = [measure(each.name, each.types[side], self.route[side]) for each in self.columns]
        found = [size for size in sizes if size is not None]
        if not found:
            return None
        sums = f"sum({' + '.join(found)}) OVER (ORDER BY {self._order()} ROWS UNBOUNDED PRECEDING) AS bytes"
        rows = f"SELECT {sums} {self._behind(shown, after)} ORDER BY {self._order()} LIMIT :size"
        return f"SELECT count(*) FROM ({rows}) AS measured WHERE measured.bytes <= :bytes"

    def _order(self) -> str:
        return ", ".join(f"copied.{quote_identifier(name)}" for name in self.key)

    def _behind(self, shown: bool, after: bool) -> str:
        """Return FROM and WHERE of a statement on rows of one side, which may be those behind a key."""
        conditions = [] if self.chosen is None else [self.chosen]
        if after:
            conditions.append(f"({self._order()}) > ({', '.join(self._key_parameters(shown))})")
        if self.second:
            links = [each.shown if shown else each.read for each in self.columns if each.name in self.links]
            conditions.append(f"({' OR '.join(f'{link} IS NOT NULL' for link in links)})")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"FROM {self.pair.read_again if shown else self.pair.source} AS copied{where}"

    def _asked(self, shown: bool) -> list[tuple[str | None, Callable[[Any], Any]]]:
        by_name = {each.name: each for each in self.columns}
        return [by_name[name].asked[1 if shown else 0] for name in self.key]

    def _key_parameters(self, shown: bool) -> list[str]:
        return [_parameter(f"key_{place}", cast) for place, (cast, _) in enumerate(self._asked(shown))]

    def key_values(self, raw: Sequence[Any], *, shown: bool = False) -> dict[str, Any]:
        """Return the parameters that a batch after a key takes."""
        asked = zip(raw, self._asked(shown), strict=True)
        return {f"key_{place}": make(value) for place, (value, (_, make)) in enumerate(asked)}

    def key_of(self, row: RawRow) -> tuple[Any, ...]:
        """Return a row's key in its plain form."""
        return tuple(row[name] for name in self.key)

    def _written(self, number: int) -> str:
        return _parameter(f"c{number}", self.columns[number].cast)

    def _is_written(self, column: CopiedColumn) -> bool:
        return self.second or (column.name not in self.links and column.name not in self.pair.beside)

    def write(self, *, merge: bool) -> str:
        """Return the statement that writes a row; with ``merge`` it leaves alone what is there."""
        table = quote_identifier(self.pair.target)
        if self.second:
            places = {each.name: self._written(number) for number, each in enumerate(self.columns)}
            sets = ", ".join(f"{quote_identifier(name)} = {places[name]}" for name in self.links)
            found = [f"{quote_identifier(name)} = {places[name]}" for name in self.key]
            found += [f"{quote_identifier(name)} IS NULL" for name in self.links]
            return f"UPDATE {table} SET {sets} WHERE {' AND '.join(found)}"
        chosen = [(number, each) for number, each in enumerate(self.columns) if self._is_written(each)]
        names = [quote_identifier(each.name) for _, each in chosen]
        values = [self._written(number) for number, _ in chosen]
        if self.pair.numbered is not None:
            names.append(quote_identifier(self.pair.numbered.column))
            values.append(":numbered")
        # What the server would number keeps its number.
        overriding = " OVERRIDING SYSTEM VALUE" if self.route[1] == "postgresql" else ""
        conflict = " ON CONFLICT DO NOTHING" if merge else ""
        return f"INSERT INTO {table} ({', '.join(names)}){overriding} VALUES ({', '.join(values)}){conflict}"

    def parameters(self, row: RawRow, number: int | None = None) -> dict[str, Any]:
        """Return what the statement that writes takes of a row, which may be given a number."""
        found = {f"c{place}": each.make(row) for place, each in enumerate(self.columns) if self._is_written(each)}
        return found if number is None or self.second else {**found, "numbered": number}

    def values_after(self, row: RawRow, number: int | None = None) -> dict[str, Any]:
        """Return what the statement behind the rows takes of a row."""
        wanted = compile_statement(self.after or "", self.route[1]).names
        made = {each.name: each.make(row) for each in self.columns if each.name in wanted}
        if self.pair.numbered is not None and self.pair.numbered.column in wanted:
            made[self.pair.numbered.column] = number
        return made

    def differing(self, raw: RawRow, shown: RawRow) -> list[str]:
        """Return the columns in which a row of the source differs from that of the target."""
        return [each.name for each in self.columns if each.same(each.made(raw)) != each.same(shown[each.name])]


def wanted(text: str, kind: Kind, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the given parameters that a statement names."""
    names = compile_statement(text, kind).names
    return {name: value for name, value in given.items() if name in names}


def _parameter(name: str, cast: str | None) -> str:
    return f":{name}" if cast is None else f"CAST(:{name} AS {cast})"


def table_copy(
    pair: TablePair, columns: Mapping[str, Column], plan: CopyPlan, route: Route, *, older: bool = False
) -> TableCopy:
    """Return how a table is copied; ``older``: the source may lack columns, which get what the target gives them.

    Raises:
        MigrationError: one side has a column that the other hasn't, and the plan doesn't say what becomes of it.
        CapabilityError: SQLite has nothing for the type of a column.
    """
    derived = {**{name: each for (table, name), each in plan.derived.items() if table == pair.target}, **pair.derived}
    columns = {**columns, **pair.beside}
    written = {name: each for name, each in columns.items() if not each.generated}
    given = {pair.numbered.column} if pair.numbered is not None else set()
    lonely = [
        name
        for name in (pair.columns.keys() ^ columns.keys()) - derived.keys() - given
        if f"{pair.target}.{name}" not in plan.left_out
        and not (older and name in columns)
        and not (columns[name].generated if name in columns else pair.columns[name].generated)
    ]
    if lonely:
        raise MigrationError(
            f"{pair.name}: only one side has the columns {', '.join(sorted(lonely))}",
            hint=f"{pair.package}/copy_plans.py must say what becomes of them",
        )
    copied = [
        derived_column(each, derived[name], route, source=pair.columns.get(name))
        if name in derived
        else same_column(pair.columns[name], each, route)
        for name, each in written.items()
        if name in derived
        or (name in pair.columns and name not in given and f"{pair.target}.{name}" not in plan.left_out)
    ]
    places = {name: each.place for name, each in columns.items() if each.place is not None}
    key = plan.keys.get(pair.target) or tuple(sorted(places, key=lambda name: places[name] or 0))
    if not key or any(name not in pair.columns for name in key):
        raise MigrationError(
            f"{pair.name} has no key that both sides have", hint=f"{pair.package}/copy_plans.py names it"
        )
    before, after = plan.before.get(pair.target), plan.after.get(pair.target)
    return TableCopy(pair, route, key, tuple(copied), before=before, after=after, triggers=plan.triggers)


def with_links(copied: TableCopy, links: tuple[str, ...]) -> TableCopy:
    """Return the same with columns that refer to rows of the same table: they are set once all rows are there."""
    return replace(copied, links=links) if links else copied


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

    def __str__(self) -> str:
        return f"{self.table} {list(self.key)} {self.what}"


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy is: the table and how many of its rows were gone through."""

    table: str
    rows: int
    done: bool

    def __str__(self) -> str:
        return f"{self.table}: {self.rows:,} rows{', all' if self.done else ''}"
