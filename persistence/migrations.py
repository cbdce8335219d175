"""Migration lines: numbered changes of a schema, each a file with an up and a down part.

A line belongs to one package (or user) and lives in ``<package>/migrations/<kind>/NNNN_name.sql``, where ``-- up`` and
``-- down`` head the two parts. A file never changes once it has been applied anywhere: its checksum (SHA-256 over the
text with LF line ends) is recorded, and a different one is refused.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from persistence.dialect import Kind, split_statements
from persistence.errors import MigrationError

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_PARTS = re.compile(r"^--[ \t]*(up|down)[ \t]*$", re.M)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered change: its statements up and down, and the checksum of its file."""

    line: str
    number: int
    name: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    checksum: str

    def __str__(self) -> str:
        return f"{self.line}/{self.number:04}_{self.name}"


@dataclass(frozen=True, slots=True)
class MigrationLine:
    """A line of migrations: its name, and the folder that holds ``postgresql/`` and ``sqlite/``."""

    name: str
    folder: Traversable | Path

    @classmethod
    def of_package(cls, package: str) -> MigrationLine:
        """Return the line that a package ships in its ``migrations`` folder."""
        return cls(package, files(package).joinpath("migrations"))

    def load(self, kind: Kind) -> tuple[Migration, ...]:
        """Return the migrations for one database, in order.

        Raises:
            MigrationError: a file's name or content can't be read, or a number is missing or doubled.
        """
        return _load(self, kind)


@cache
def _load(line: MigrationLine, kind: Kind) -> tuple[Migration, ...]:
    found = [
        parse_migration(line.name, entry.name, entry.read_text("utf-8"))
        for entry in line.folder.joinpath(kind).iterdir()
        if entry.name.endswith(".sql")
    ]
    found.sort(key=lambda migration: migration.number)
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(numbers) + 1)):
        raise MigrationError(f"line {line.name!r} ({kind}) is numbered {numbers}, not 1, 2, 3, …")
    return tuple(found)


def parse_migration(line: str, filename: str, text: str) -> Migration:
    """Return the migration that a file holds."""
    match = _FILE.fullmatch(filename)
    if not match:
        raise MigrationError(f"{filename!r} is no migration's name", hint="NNNN_what_it_does.sql")
    text = text.replace("\r\n", "\n")
    parts = _PARTS.split(text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    if "up" not in sections or len(parts) > 5:
        raise MigrationError(f"{filename} needs one part headed '-- up' and at most one '-- down'")
    up = tuple(split_statements(sections["up"]))
    if not up:
        raise MigrationError(f"{filename} has no statement to apply")
    return Migration(
        line,
        int(match[1]),
        match[2],
        up,
        tuple(split_statements(sections.get("down", ""))),
        hashlib.sha256(text.encode()).hexdigest(),
    )


def pending(line: str, known: tuple[Migration, ...], applied: dict[int, tuple[str, str]]) -> tuple[Migration, ...]:
    """Return what is still to be applied, in order; ``applied`` holds (name, checksum) by number.

    Raises:
        MigrationError: an applied migration was edited, is unknown here (the database is newer than this program), or
            comes after one that was not applied.
    """
    by_number = {migration.number: migration for migration in known}
    for number, (name, checksum) in sorted(applied.items()):
        ours = by_number.get(number)
        if ours is None:
            raise MigrationError(
                f"{line}/{number:04}_{name} was applied, but this program doesn't know it",
                hint="the database was migrated by a newer version: update this program",
            )
        if ours.checksum != checksum:
            raise MigrationError(
                f"{ours} was applied with other content (checksum {checksum[:12]}…, here {ours.checksum[:12]}…)",
                hint="a migration never changes once applied: restore the file, and add a new one",
            )
    missing = [migration for migration in known if migration.number not in applied]
    if missing and applied and missing[0].number < max(applied):
        raise MigrationError(f"{missing[0]} was never applied, but a later one was", hint="apply it by hand")
    return tuple(missing)
