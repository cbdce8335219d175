"""The plan by which Citus distributes the tables of a database: ``holdfast citus-plan``.

Every table of ours is distributed by the first column of its primary key, ``tenant_id``, and all are co-located, so
that a tenant's rows lie on one worker and every join, foreign key and upsert stays there. A table without tenants is
small and belongs to all: it becomes a reference table, on every worker. The plan is read from the database as it is, so
that collections with tables of their own and tables of yours that are keyed alike are in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from persistence.dialect import quote_identifier
from persistence.queries import load_queries

COLUMN = "tenant_id"
OURS = "holdfast_"
LOCAL = frozenset(("holdfast_migrations", "holdfast_migrations_begun", "holdfast_events", "holdfast_event_chains"))
"""What stays on the coordinator: migrations are run there, and the event log is partitioned twice."""


@dataclass(frozen=True)
class UniqueKey:
    """A primary key or unique index: its columns in order; an expression has no name."""

    name: str
    columns: tuple[str | None, ...]
    is_primary: bool = False


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key: its columns, and those that each of them refers to."""

    name: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table and its keys; ``kind`` is the type and collation of its tenant column, None where it has none."""

    name: str
    kind: str | None
    unique: tuple[UniqueKey, ...] = ()
    foreign: tuple[ForeignKey, ...] = ()
    is_nested: bool = False
    """Whether its partitions are partitioned themselves."""

    @property
    def is_distributed(self) -> bool:
        """Whether each of its rows is one tenant's."""
        return self.kind is not None

    @property
    def is_ours(self) -> bool:
        """Whether it was made by holdfast."""
        return self.name.startswith(OURS)


@dataclass(frozen=True)
class Plan:
    """The statements to run on the coordinator, in order, and what stands in their way."""

    statements: tuple[str, ...]
    problems: tuple[str, ...]

    def script(self) -> str:
        """Return the statements as a script for psql, to be run as often as one likes."""
        head = (
            "-- Run it on the coordinator, after the migrations and again after those that make tables.\n"
            "-- What is distributed already is left as it is.\n"
        )
        blocked = "".join(f"-- In the way: {problem}\n" for problem in self.problems)
        return head + blocked + "".join(f"{statement};\n" for statement in self.statements)


def plan(tables: Iterable[Table]) -> Plan:
    """Return how to distribute tables: those of ours, and others whose primary key begins with the tenant."""
    wanted = {table.name: table for table in tables if _is_wanted(table)}
    problems = [problem for table in wanted.values() for problem in _problems(table, wanted)]
    statements = []
    first: str | None = None
    for table in _parents_first(wanted):
        name = _literal(table.name)
        if table.is_distributed:
            with_whom = "none" if first is None else first
            call = f"create_distributed_table({name}, '{COLUMN}', colocate_with => {_literal(with_whom)})"
            first = first or table.name
        else:
            call = f"create_reference_table({name})"
        statements.append(
            f"SELECT {call}\n"
            f"WHERE NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = CAST({name} AS regclass))"
        )
    return Plan(tuple(statements), tuple(problems))


def _is_wanted(table: Table) -> bool:
    if table.name in LOCAL:
        return False
    begins = any(key.is_primary and key.columns[:1] == (COLUMN,) for key in table.unique)
    return table.is_ours or (table.is_distributed and begins)


def _problems(table: Table, known: dict[str, Table]) -> Iterable[str]:
    primary = [key for key in table.unique if key.is_primary]
    if not primary:
        yield f"{table.name} has no primary key"
    if table.is_nested:
        yield f"{table.name} is partitioned twice, which Citus can't distribute"
    if table.is_distributed:
        for key in primary:
            if key.columns[0] != COLUMN:
                yield f"the primary key of {table.name} does not begin with {COLUMN}"
        for key in table.unique:
            if COLUMN not in key.columns:
                yield f"{key.name} of {table.name} is unique without {COLUMN}"
        kinds = {each.kind for each in known.values() if each.is_distributed}
        if len(kinds) > 1:
            yield f"{COLUMN} of {table.name} is {table.kind}, which is not the same in all tables"
    for link in table.foreign:
        target = known.get(link.target)
        if target is None:
            yield f"{link.name} of {table.name} refers to {link.target}, which is not distributed"
        elif target.is_distributed and (COLUMN, COLUMN) not in zip(link.columns, link.target_columns, strict=True):
            yield f"{link.name} of {table.name} may lead to another tenant's row of {link.target}"


def _parents_first(known: dict[str, Table]) -> Sequence[Table]:
    """Return reference tables, then the others, each after those that it refers to."""
    ordered: dict[str, Table] = {}

    def add(table: Table, above: tuple[str, ...]) -> None:
        for link in table.foreign:
            if link.target in known and link.target not in above:
                add(known[link.target], (*above, table.name))
        ordered.setdefault(table.name, table)

    for table in sorted(known.values(), key=lambda table: (table.is_distributed, table.name)):
        add(table, (table.name,))
    return sorted(ordered.values(), key=lambda table: table.is_distributed)


def _literal(name: str) -> str:
    quoted = name if name == "none" or (name.isidentifier() and name.islower()) else quote_identifier(name)
    return "'" + quoted.replace("'", "''") + "'"


def read_tables(connection: psycopg.Connection[dict[str, Any]]) -> list[Table]:
    """Return the tables in the search path of a connection, with their keys."""
    queries = load_queries("persistence", "postgresql")
    unique: dict[str, list[UniqueKey]] = {}
    for row in connection.execute(queries.list_unique_keys):
        key = UniqueKey(row["name"], tuple(row["columns"]), row["is_primary"])
        unique.setdefault(row["table_name"], []).append(key)
    foreign: dict[str, list[ForeignKey]] = {}
    for row in connection.execute(queries.list_foreign_keys):
        link = ForeignKey(row["name"], tuple(row["columns"]), row["target"], tuple(row["target_columns"]))
        foreign.setdefault(row["table_name"], []).append(link)
    return [
        Table(
            row["name"],
            row["kind"],
            tuple(unique.get(row["name"], ())),
            tuple(foreign.get(row["name"], ())),
            row["is_nested"],
        )
        for row in connection.execute(queries.list_tables)
    ]
