"""How large a database and its tables are, and how far the number of a table's rows can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RowsAre = Literal["counted", "estimated", "at least", "unknown"]

COUNTED_ROWS = 100_000
"""So many rows of a table are counted where nothing tells their number; what is more is ``at least`` that many."""
COUNT_SECONDS = 2.0
"""How long counting one table may take."""
NO_SIZES = "the SQLite library of this Python tells no sizes of tables (it has no dbstat): the fullest come first"
TOO_LARGE = "to read every page took too long, so the sizes of tables are unknown: the fullest come first (--timeout)"


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table: its bytes with its indexes, None where nobody tells, and its rows, None where they are ``unknown``."""

    name: str
    bytes: int | None
    rows: int | None
    rows_are: RowsAre


@dataclass(frozen=True, slots=True)
class DatabaseSize:
    """A database: its bytes, and its tables, the largest first; ``note`` says why that order is another one."""

    bytes: int
    tables: tuple[TableSize, ...]
    note: str | None = None


def fullest_first(table: TableSize) -> tuple[int, str]:
    """Return by what tables are ordered that have no sizes: their rows, unknown ones first, for they are many."""
    return (-(2**63) if table.rows is None else -table.rows, table.name)
