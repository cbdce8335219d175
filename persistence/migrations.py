"""Migration lines: numbered changes of a schema, each a file with an up and a down part.

A line belongs to one package (or user) and lives in ``<package>/migrations/<kind>/``: ``NNNN_name.sql``, where
``-- up`` and ``-- down`` head the two parts, or ``NNNN_name.py`` with ``upgrade`` and ``downgrade``. A file never
changes once it has been applied anywhere: its checksum (SHA-256 over the text with LF line ends) is recorded, and a
different one is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from persistence.dialect import Kind, split_statements
from persistence.errors import MigrationError
from persistence.validation import check_whole

PACKAGES = ("persistence", "checkpoint", "vectorstore", "sessions")
"""Who may have a migration line."""

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.(sql|py)")
_NAME = re.compile(r"[a-z0-9_]+")
_PARTS = re.compile(r"^--[ \t]*(up|down)[ \t]*$", re.M)
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.S)
_ALONE = re.compile(r"^--[ \t]*no transaction[ \t]*$", re.M)

Step = tuple[str, Mapping[str, Any] | None]
"""A statement of a migration, and its parameters."""
Steps = Generator[Step, list[dict[str, Any]], None]
"""Yields the steps of a migration; each is answered by its rows."""

TEMPLATES: Mapping[str, str] = {
    "sql": "-- up\n\n-- down\n",
    "py": """\
\"\"\"What it does.\"\"\"


def upgrade():
    rows = yield "SELECT 1 AS one"
    yield "SELECT :one", {"one": rows[0]["one"]}


def downgrade():
    yield "SELECT 1"
""",
}
"""What a new file of each kind holds."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered change: its scripts up and down, and the checksum of its file.

    A migration in Python has functions in their place, which yield statements. ``in_transaction`` is False where a file
    says ``-- no transaction``: its statements run one by one, and it must bear being run again.
    """

    line: str
    number: int
    name: str
    up_script: str
    down_script: str
    checksum: str
    in_transaction: bool = True
    upgrade: Callable[[], Iterable[Any]] | None = None
    downgrade: Callable[[], Iterable[Any]] | None = None

    def __str__(self) -> str:
        return f"{self.line}/{self.number:04}_{self.name}"

    # Split on use: a program that starts and finds nothing due reads every file, and splits none.
    @property
    def up(self) -> tuple[str, ...]:
        """The statements that apply it; none where it is in Python."""
        return _statements(self.up_script)

    @property
    def down(self) -> tuple[str, ...]:
        """The statements that undo it."""
        return _statements(self.down_script)

    @property
    def can_be_undone(self) -> bool:
        """Whether it has a down part."""
        return bool(self.down) or self.downgrade is not None

    def steps(self, *, down: bool = False) -> Steps:
        """Yield what applies it, or what undoes it."""
        function = self.downgrade if down else self.upgrade
        if function is None:
            for text in self.down if down else self.up:
                yield text, None
            return
        source = iter(function())
        answer: list[dict[str, Any]] | None = None
        while True:
            try:
                step = source.send(answer) if isinstance(source, Generator) else next(source)
            except StopIteration:
                return
            answer = yield self._checked(step)

    def _checked(self, step: object) -> Step:
        match step:
            case str():
                return step, None
            case (str() as text, Mapping() as parameters):
                return text, parameters
        raise MigrationError(
            f"{self} yields a {type(step).__name__}", hint="yield a statement, or a statement and its parameters"
        )


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A migration as the database has recorded it."""

    line: str
    number: int
    name: str
    checksum: str
    applied_at: datetime

    def __str__(self) -> str:
        return f"{self.line}/{self.number:04}_{self.name}"


def applied_from_row(row: Mapping[str, Any]) -> AppliedMigration:
    """Return the record that a row of ``holdfast_migrations`` holds; SQLite has its time as ISO 8601 text."""
    moment = row["applied_at"]
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return AppliedMigration(row["line"], row["number"], row["name"], row["checksum"], moment.astimezone(UTC))


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """How far a database is: ``current`` and ``target`` are numbers, 0 before the first migration.

    ``begun`` names the migration without a transaction that was begun and has not ended: it is under way, or its
    program died, and then the next ``up`` runs it again.
    """

    line: str
    current: int
    target: int
    pending: tuple[Migration, ...]
    begun: str | None = None


@dataclass(frozen=True, slots=True)
class TriedMigration:
    """What a dry run found: the statements that ran and were rolled back.

    ``tried`` is False for a migration without a transaction, which can't be rolled back, and all that come after it.
    """

    migration: Migration
    statements: tuple[str, ...]
    tried: bool


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

    def create(self, name: str, kind: Kind, *, language: str = "sql") -> Path:
        """Write an empty migration of the next number, and return its file.

        ``language`` is ``sql`` or ``py``. A line that this process has read already keeps what it read.

        Raises:
            MigrationError: the name has more than small letters, digits and ``_``, or the folder is inside an archive.
        """
        if not _NAME.fullmatch(name) or language not in TEMPLATES:
            raise MigrationError(f"{name!r} ({language}) is no migration's name", hint="small letters, digits and _")
        if not isinstance(self.folder, Path):
            raise MigrationError(
                f"the folder of line {self.name!r} is not on disk", hint="MigrationLine(name, Path(…))"
            )
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(match[1]) for entry in folder.iterdir() if (match := _FILE.fullmatch(entry.name))]
        path = folder / f"{max(numbers, default=0) + 1:04}_{name}.{language}"
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATES[language])
        return path


def shipped_lines() -> list[MigrationLine]:
    """Return the migration lines of the packages that are installed."""
    found = []
    for package in PACKAGES:
        spec = find_spec(package)
        folders = spec.submodule_search_locations if spec is not None else None
        if any((Path(folder) / "migrations").is_dir() for folder in folders or ()):
            found.append(MigrationLine.of_package(package))
    return found


@cache
def _load(line: MigrationLine, kind: Kind) -> tuple[Migration, ...]:
    folder = line.folder.joinpath(kind)
    if not folder.is_dir():
        raise MigrationError(f"line {line.name!r} has no migrations for {kind}", hint=f"its folder holds no {kind}/")
    found = [_read(line.name, entry) for entry in folder.iterdir() if _is_migration(entry.name)]
    found.sort(key=lambda migration: migration.number)
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(numbers) + 1)):
        raise MigrationError(f"line {line.name!r} ({kind}) is numbered {numbers}, not 1, 2, 3, …")
    return tuple(found)


def _is_migration(filename: str) -> bool:
    return filename.endswith((".sql", ".py")) and filename != "__init__.py"


def _read(line: str, entry: Traversable) -> Migration:
    if entry.name.endswith(".sql"):
        return parse_migration(line, entry.name, entry.read_text("utf-8"))
    number, name = _parse_name(entry.name)
    text = entry.read_text("utf-8").replace("\r\n", "\n")
    with as_file(entry) as path:
        loader = SourceFileLoader(f"{line}_migration_{number:04}_{name}", str(path))
        spec = spec_from_file_location(loader.name, path, loader=loader)
        if spec is None:
            raise MigrationError(f"{entry.name} can't be imported")
        module = module_from_spec(spec)
        try:
            loader.exec_module(module)
        except Exception as exc:
            raise MigrationError(f"{entry.name} can't be imported: {type(exc).__name__}: {exc}") from exc
    upgrade, downgrade = getattr(module, "upgrade", None), getattr(module, "downgrade", None)
    if not callable(upgrade) or not (downgrade is None or callable(downgrade)):
        raise MigrationError(f"{entry.name} needs a function upgrade(), and may have downgrade()")
    in_transaction = getattr(module, "in_transaction", True) is not False
    return Migration(line, number, name, "", "", _checksum(text), in_transaction, upgrade, downgrade)


def _parse_name(filename: str) -> tuple[int, str]:
    match = _FILE.fullmatch(filename)
    if not match:
        raise MigrationError(f"{filename!r} is no migration's name", hint="NNNN_what_it_does.sql, or .py")
    return int(match[1]), match[2]


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def parse_migration(line: str, filename: str, text: str) -> Migration:
    """Return the migration that a file of SQL holds."""
    number, name = _parse_name(filename)
    text = text.replace("\r\n", "\n")
    parts = _PARTS.split(text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    if "up" not in sections or len(sections) < len(parts) // 2:
        raise MigrationError(f"{filename} needs one part headed '-- up' and at most one '-- down'")
    if not _COMMENTS.sub("", sections["up"]).strip("; \t\n"):
        raise MigrationError(f"{filename} has no statement to apply")
    down = sections.get("down", "")
    return Migration(line, number, name, sections["up"], down, _checksum(text), not _ALONE.search(parts[0]))


@cache
def _statements(script: str) -> tuple[str, ...]:
    return tuple(split_statements(script))


def pending(line: str, known: tuple[Migration, ...], applied: Mapping[int, AppliedMigration]) -> tuple[Migration, ...]:
    """Return what is still to be applied, in order; ``applied`` is by number.

    Raises:
        MigrationError: an applied migration was edited, is unknown here (the database is newer than this program), or
            comes after one that was not applied.
    """
    by_number = {migration.number: migration for migration in known}
    for number, record in sorted(applied.items()):
        ours = by_number.get(number)
        if ours is None:
            raise MigrationError(
                f"{record} was applied, but this program doesn't know it",
                hint="the database was migrated by a newer version: update this program",
            )
        if ours.checksum != record.checksum:
            raise MigrationError(
                f"{ours} was applied with other content (checksum {record.checksum[:12]}…, here {ours.checksum[:12]}…)",
                hint="a migration never changes once applied: restore the file, and add a new one",
            )
    missing = [migration for migration in known if migration.number not in applied]
    if missing and applied and missing[0].number < max(applied):
        raise MigrationError(f"{missing[0]} was never applied, but a later one was", hint="apply it by hand")
    return tuple(missing)


def to_apply(missing: tuple[Migration, ...], to: int | None, target: int) -> tuple[Migration, ...]:
    """Return what brings a line up to number ``to``; None: to its end."""
    if to is None:
        return missing
    check_whole("to", to, least=0, most=target)
    return tuple(migration for migration in missing if migration.number <= to)


def to_undo(known: tuple[Migration, ...], current: int, to: int | None) -> tuple[Migration, ...]:
    """Return what brings a line down to number ``to``, the newest first; None: by one.

    Raises:
        MigrationError: one of them has no down part.
        ValidationError: ``to`` is above the current number.
    """
    least = max(0, current - 1) if to is None else check_whole("to", to, least=0, most=current)
    chosen = tuple(migration for migration in reversed(known) if least < migration.number <= current)
    for migration in chosen:
        if not migration.can_be_undone:
            raise MigrationError(f"{migration} has no down part: it can't be undone", hint="restore a backup")
    return chosen
