"""What a database has of tables, columns, keys and indexes, and how that differs from what it should have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from persistence.dialect import tokens
from persistence.migrations import Migration

DifferenceKind = Literal[
    "missing table",
    "missing column",
    "unexpected column",
    "changed column",
    "missing index",
    "changed index",
    "invalid index",
    "missing constraint",
    "changed constraint",
]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be; ``expected`` and ``actual`` are None where there is nothing."""

    kind: DifferenceKind
    table: str
    name: str | None = None
    expected: str | None = None
    actual: str | None = None

    def __str__(self) -> str:
        where = self.table if self.name is None else f"{self.table}.{self.name}"
        if self.expected is not None and self.actual is not None:
            return f"{self.kind} {where}: {self.actual} for {self.expected}"
        return f"{self.kind} {where}"


@dataclass(slots=True)
class Table:
    """A table: the description of each column, index and constraint by name."""

    columns: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)
    invalid: set[str] = field(default_factory=set)


Schema = dict[str, Table]


def schema_from_rows(
    columns: Iterable[Mapping[str, Any]],
    indexes: Iterable[Mapping[str, Any]],
    constraints: Iterable[Mapping[str, Any]],
    *,
    own: str | None = None,
) -> Schema:
    """Return the tables that the catalogue's rows describe; the name of the schema, ``own``, is left out of texts."""
    found: Schema = {}
    for row in columns:
        required = " NOT NULL" if row["required"] else ""
        default = "" if row["default"] is None else f" DEFAULT {_plain(row['default'], own)}"
        found.setdefault(row["table"], Table()).columns[row["column"]] = f"{row['type']}{required}{default}"
    for row in indexes:
        table = found.setdefault(row["table"], Table())
        table.indexes[row["name"]] = _plain(row["definition"], own)
        if not row["valid"]:
            table.invalid.add(row["name"])
    for row in constraints:
        found.setdefault(row["table"], Table()).constraints[row["name"]] = _plain(row["definition"], own)
    return found


def _plain(text: str, own: str | None) -> str:
    """Return a definition without the schema's name and without differences of white space."""
    if own is not None:
        text = re.sub(rf'(?<![\w"])(?:{re.escape(own)}|"{re.escape(own)}")\.', "", text)
    return " ".join(text.split())


def differences(expected: Schema, actual: Schema) -> tuple[Difference, ...]:
    """Return how the expected tables differ from the actual ones, by table and name.

    Tables, indexes and constraints that nobody expects are left alone; a column that nobody expects is told, as it may
    refuse rows.
    """
    found: list[Difference] = []
    for name, table in sorted(expected.items()):
        there = actual.get(name)
        if there is None:
            found.append(Difference("missing table", name))
            continue
        found += _compare(name, "column", table.columns, there.columns)
        found += [
            Difference("unexpected column", name, column, actual=there.columns[column])
            for column in sorted(there.columns.keys() - table.columns.keys())
        ]
        found += _compare(name, "index", table.indexes, there.indexes)
        found += [Difference("invalid index", name, index) for index in sorted(there.invalid & table.indexes.keys())]
        found += _compare(name, "constraint", table.constraints, there.constraints)
    return tuple(found)


def _compare(
    table: str, what: Literal["column", "index", "constraint"], expected: dict[str, str], actual: dict[str, str]
) -> Iterable[Difference]:
    missing: dict[str, DifferenceKind] = {
        "column": "missing column",
        "index": "missing index",
        "constraint": "missing constraint",
    }
    changed: dict[str, DifferenceKind] = {
        "column": "changed column",
        "index": "changed index",
        "constraint": "changed constraint",
    }
    for name, description in sorted(expected.items()):
        if name not in actual:
            yield Difference(missing[what], table, name, expected=description)
        elif actual[name] != description:
            yield Difference(changed[what], table, name, expected=description, actual=actual[name])


def made_tables(migrations: Iterable[Migration]) -> set[str]:
    """Return the tables that migrations make and leave, by the names in their statements, partitions left out.

    What a function or a block of PostgreSQL makes is not seen, nor what a migration in Python does.
    """
    found: set[str] = set()
    for migration in migrations:
        for text in migration.up:
            words = [token.text for token in tokens(text) if token.kind in ("word", "quoted")]
            verbs = [word.upper() for word in words[:8]]
            names = [word for word in words[2:] if word.upper() not in ("IF", "NOT", "EXISTS")]
            if verbs[:2] == ["CREATE", "TABLE"] and "PARTITION" not in verbs:
                found.add(names[0].strip('"'))
            elif verbs[:2] == ["DROP", "TABLE"]:
                found.discard(names[0].strip('"'))
            elif verbs[:2] == ["ALTER", "TABLE"] and [word.upper() for word in names[1:3]] == ["RENAME", "TO"]:
                found.discard(names[0].strip('"'))
                found.add(names[3].strip('"'))
    return found
