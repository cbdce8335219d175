"""What a migration does that stops a program in use: advice, by the rule of expanding first and contracting later.

The reasons are PostgreSQL's documentation of ALTER TABLE and CREATE INDEX: which of their forms scan or rewrite a table
under a lock that keeps writers or readers out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from persistence.dialect import Kind, tokens
from persistence.migrations import Migration


@dataclass(frozen=True, slots=True)
class Advice:
    """One statement that deserves a second look, and what would be gentler."""

    migration: str
    statement: str
    problem: str
    instead: str


_POSTGRESQL: tuple[Kind, ...] = ("postgresql",)
_BOTH: tuple[Kind, ...] = ("postgresql", "sqlite")
# Pattern, problem, what is gentler, and where.
_RULES: tuple[tuple[str, str, str, tuple[Kind, ...]], ...] = (
    (
        r"\bCREATE (UNIQUE )?INDEX (?!CONCURRENTLY\b)",
        "keeps writers of the table out until the index is whole",
        "CREATE INDEX CONCURRENTLY, in a file that says -- no transaction",
        _POSTGRESQL,
    ),
    (
        r"\bDROP INDEX (?!CONCURRENTLY\b)",
        "waits for every transaction on the table, and keeps all others out meanwhile",
        "DROP INDEX CONCURRENTLY, in a file that says -- no transaction",
        _POSTGRESQL,
    ),
    (
        r"\bADD COLUMN (?:(?!\bDEFAULT\b|,).)*\bNOT NULL\b(?:(?!\bDEFAULT\b|,).)*(?:,|$)",
        "fails where the table has rows",
        "add it with a DEFAULT, or nullable, fill it, and SET NOT NULL in a later migration",
        _BOTH,
    ),
    (
        r"\bALTER (COLUMN )?\S+ (SET DATA )?TYPE\b",
        "rewrites the table while nobody can read it",
        "add a column, write both, fill it in batches, and drop the old one later",
        _POSTGRESQL,
    ),
    (
        r"\bALTER (COLUMN )?\S+ SET NOT NULL\b",
        "reads the whole table while nobody can write to it",
        "ADD CONSTRAINT … CHECK (… IS NOT NULL) NOT VALID, VALIDATE CONSTRAINT, then SET NOT NULL",
        _POSTGRESQL,
    ),
    (
        r"\bADD (CONSTRAINT \S+ )?(FOREIGN KEY|CHECK)\b(?!.*\bNOT VALID\b)",
        "reads the whole table while nobody can write to it",
        "add it NOT VALID, and VALIDATE CONSTRAINT in a later migration",
        _POSTGRESQL,
    ),
    (
        r"\bRENAME\b",
        "breaks programs that still use the old name",
        "add the new one, write both, move the readers, and drop the old one later",
        _BOTH,
    ),
    (
        r"\bDROP (COLUMN|TABLE)\b",
        "breaks programs that still use it, and can't be undone without a backup",
        "drop it once no running version reads or writes it",
        _BOTH,
    ),
)


def advice(migration: Migration, kind: Kind) -> tuple[Advice, ...]:
    """Return what to reconsider in a migration's way up, in its order.

    Statements about tables that the same migration makes are fine as they are. A migration in Python is not read.
    """
    made: set[str] = set()
    found: list[Advice] = []
    for statement in migration.up:
        text = _plain(statement)
        table = re.search(r"\bCREATE TABLE (?:IF NOT EXISTS )?(\S+)", text)
        if table:
            made.add(table[1])
            continue
        touched = re.search(r"\b(?:ALTER TABLE|ON|DROP TABLE) (?:IF EXISTS )?(?:ONLY )?([^\s(]+)", text)
        if touched and touched[1] in made:
            continue
        found += [
            Advice(str(migration), text[:200], problem, instead)
            for pattern, problem, instead, kinds in _RULES
            if kind in kinds and re.search(pattern, text)
        ]
    return tuple(found)


def _plain(statement: str) -> str:
    """Return a statement in capitals, without comments and literals, its white space single."""
    kept = (" " if token.kind in ("comment", "literal", "dollar") else token.text for token in tokens(statement))
    return " ".join("".join(kept).upper().split())
