"""The file that holds everything of one tenant, or of one user of it: its lines, and reading and writing them.

JSON lines in ASCII, which docs/formats.md describes: a header; for each table a line that names it and its columns,
then its rows in the order of their key; a last line with the counts and the SHA-256 of all before it. Under a name that
ends in ``.zst`` they are one Zstandard frame. A row is as a SQLite file has it, whichever database it comes from.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import zstandard

from persistence.backups import new_file, put_in_place, writing
from persistence.copy_planning import Bound
from persistence.errors import CapabilityError, ConflictError, CorruptError, ValidationError

FORMAT = "archive"
VERSION = 1
TENANT = "tenant_id"
"""Stands in every table, and in no row of an archive."""
HEADER_BYTES = 64 * 1024
"""No header is longer: what has no line end by then is something else."""
MOST_BYTES = 2**31
"""No line is longer: a row has at most 1 GiB, and base64 adds a third."""
BATCH_ROWS = 1000
BATCH_BYTES = 4 * 2**20
_ZSTD = b"\x28\xb5\x2f\xfd"
_LEVEL = 3


def no_archive(connection: str) -> CapabilityError:
    """Return the error of asking for an archive of a Redis, or into one."""
    return CapabilityError(
        "an archive holds rows of PostgreSQL or SQLite, and nothing of Redis",
        hint="export context, messages or user, one thing at a time; a Redis as a whole is saved by its own RDB or AOF",
        connection=connection,
    )


@dataclass(frozen=True, slots=True)
class ArchiveHeader:
    """What the first line says: whose rows these are, the number of each migration line, and when they were read."""

    tenant: str
    user: str | None
    lines: Mapping[str, int]
    made_at: str


@dataclass(frozen=True, slots=True)
class ArchiveTable:
    """A table of an archive: ``made`` is what its package makes it of elsewhere, ``second`` that its rows set links."""

    name: str
    package: str
    columns: tuple[str, ...]
    made: Mapping[str, Any] | None = None
    second: bool = False

    @property
    def counted(self) -> str:
        """Under which its rows are counted."""
        return f"{self.name}+" if self.second else self.name


@dataclass(frozen=True, slots=True)
class ArchivedTable:
    """How many rows of a table an archive has; of an import, how many of them were there and left alone.

    ``left_out`` are further ones, which another tenant can't have.
    """

    name: str
    rows: int
    kept: int = 0
    left_out: int = 0


@dataclass(slots=True)
class _Sum:
    """The number of lines, of rows by table, and the digest of what went through."""

    lines: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, line: bytes) -> None:
        self.lines += 1
        self.digest.update(line)

    def end(self) -> dict[str, Any]:
        return {"holdfast": "end", "lines": self.lines, "rows": self.rows, "sha256": self.digest.hexdigest()}


class ArchiveWriter:
    """Writes an archive to a new file that its owner alone can read; it has its name once ``finish`` was called."""

    def __init__(self, path: str | Path, header: ArchiveHeader) -> None:
        self._path, self._draft = new_file(path)
        self._sum = _Sum()
        self._name = ""
        self._raw = self._draft.open("wb")
        self._file: IO[bytes] = self._raw
        if self._path.suffix == ".zst":
            self._file = cast("IO[bytes]", zstandard.ZstdCompressor(level=_LEVEL).stream_writer(self._raw))
        self._add({"holdfast": FORMAT, "version": VERSION, **_header_values(header)})

    def begin(self, table: ArchiveTable) -> None:
        """Begin a table."""
        values: dict[str, Any] = {"table": table.name, "package": table.package, "columns": list(table.columns)}
        if table.made is not None:
            values["made"] = dict(table.made)
        if table.second:
            values["links"] = True
        self._name = table.counted
        self._sum.rows.setdefault(self._name, 0)
        self._add(values)

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows of the table that was begun."""
        for row in rows:
            self._add([_encoded(value) for value in row])
            self._sum.rows[self._name] += 1

    def finish(self) -> Path:
        """Write the last line, make the file durable, and return its path."""
        self._write(self._sum.end())
        with writing(self._path):
            self._file.close()
            put_in_place(self._draft, self._path)
        return self._path

    def _add(self, values: object) -> None:
        self._sum.add(self._write(values))

    def _write(self, values: object) -> bytes:
        line = json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with writing(self._path):
            self._file.write(line)
        return line

    def close(self) -> None:
        """Leave nothing of a file that wasn't finished."""
        try:
            for file in (self._file, self._raw):
                with suppress(OSError):  # what could not be written can't be now, and is not wanted
                    file.close()
        finally:
            self._draft.unlink(missing_ok=True)


class ArchiveReader:
    """Reads an archive, batch by batch; what is wrong with it is told at the latest when the last one was asked for."""

    def __init__(self, path: str | Path) -> None:
        """Raise ValidationError where the file can't be read, CorruptError where it is no archive."""
        self._path = Path(path)
        self._sum = _Sum()
        self._table: ArchiveTable | None = None
        self._waiting: bytes | None = None
        try:
            self._file = _opened(self._path)
        except OSError as exc:
            raise ValidationError(f"{path} can't be read: {exc.strerror}") from exc
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    @property
    def digest(self) -> str:
        """The SHA-256 of what was read so far, in hexadecimal."""
        return str(self._sum.digest.hexdigest())

    def _read_header(self) -> ArchiveHeader:
        line = self._readline(HEADER_BYTES)
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict) or values.get("holdfast") != FORMAT:
            raise CorruptError(f"{self._path} is no archive", hint="holdfast export FILE writes one")
        if values.get("version") != VERSION:
            raise ValidationError(
                f"{self._path} is an archive of version {str(values.get('version'))[:20]}, and {VERSION} is read here",
                hint="update this program",
            )
        self._sum.add(line)
        tenant, user, lines = values.get("tenant"), values.get("user"), values.get("lines")
        if not (isinstance(tenant, str) and (user is None or isinstance(user, str)) and isinstance(lines, dict)):
            raise self._corrupt()
        return ArchiveHeader(tenant, user, lines, str(values.get("made_at")))

    def batch(self) -> tuple[ArchiveTable, list[dict[str, Any]]] | None:
        """Return a table and its next rows, none where it has no more; None at the end.

        Raises:
            CorruptError: the file is torn, or was edited.
        """
        rows: list[dict[str, Any]] = []
        size = 0
        while len(rows) < BATCH_ROWS and size < BATCH_BYTES:
            line = self._waiting if self._waiting is not None else self._readline(MOST_BYTES)
            self._waiting = None
            if line[:1] == b"[":
                rows.append(self._row(line))
                size += len(line)
            elif rows:
                self._waiting = line
                break
            elif not self._turn(line):
                return None
            else:
                break
        return self._begun(), rows

    def _begun(self) -> ArchiveTable:
        if self._table is None:
            raise self._corrupt()
        return self._table

    def _row(self, line: bytes) -> dict[str, Any]:
        table = self._begun()
        try:
            row = dict(zip(table.columns, map(_decoded, self._parsed(line)), strict=True))
        except (ValueError, TypeError):
            raise self._corrupt() from None
        self._sum.add(line)
        self._sum.rows[table.counted] += 1
        return row

    def _turn(self, line: bytes) -> bool:
        """Take a line that is no row: False where it is the last one, and true."""
        values = self._parsed(line)
        if not isinstance(values, dict):
            raise self._corrupt()
        if "holdfast" in values:
            if values != self._sum.end() or self._file.read(1):
                raise self._corrupt()
            return False
        columns, made = values.get("columns"), values.get("made")
        names = [values.get("table"), values.get("package"), *(columns if isinstance(columns, list) else [None])]
        if not all(isinstance(name, str) for name in names) or not (made is None or isinstance(made, dict)):
            raise self._corrupt()
        self._table = ArchiveTable(names[0], names[1], tuple(names[2:]), made, bool(values.get("links")))
        self._sum.add(line)
        self._sum.rows.setdefault(self._table.counted, 0)
        return True

    def _parsed(self, line: bytes) -> Any:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise self._corrupt() from None

    def _readline(self, most: int) -> bytes:
        try:
            return self._file.readline(most)
        except (OSError, EOFError, zstandard.ZstdError):
            raise self._corrupt() from None

    def _corrupt(self) -> CorruptError:
        return CorruptError(f"{self._path} is torn or was edited", hint="export it again")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _header_values(header: ArchiveHeader) -> dict[str, Any]:
    return {"tenant": header.tenant, "user": header.user, "lines": dict(header.lines), "made_at": header.made_at}


def _opened(path: Path) -> IO[bytes]:
    raw = path.open("rb")
    is_compressed = raw.peek(4)[:4] == _ZSTD
    if not is_compressed:
        return raw
    stream = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw, closefd=True)
    return io.BufferedReader(cast("io.RawIOBase", stream), 1 << 17)


def _encoded(value: Any) -> Any:
    """Return a value as JSON has it: bytes as base64, what JSON has no number for by its name."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": repr(value)}
    return value


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, text), *_ = value.items()
    return base64.b64decode(text, validate=True) if kind == "b" else float(text)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a whole archive holds: its header, the packages that its tables are of, and its digest."""

    header: ArchiveHeader
    packages: tuple[str, ...]
    digest: str


def survey(
    path: str | Path, tenant: str, bound: Callable[[ArchiveTable], Bound | None], *, without_bound: bool = False
) -> Survey:
    """Read an archive to its end; ``bound`` tells which rows of a table are true of their tenant alone.

    Raises:
        CorruptError: it is none, is torn or was edited.
        ConflictError: it is of another tenant than ``tenant``, and has such rows, or with ``without_bound`` such that
            the rest makes no sense without them.
    """
    packages: dict[str, None] = {}
    with ArchiveReader(path) as reader:
        moves = reader.header.tenant != tenant
        while (found := reader.batch()) is not None:
            table, rows = found
            packages.setdefault(table.package)
            ties = bound(table) if moves else None
            is_fine = ties is None or (without_bound and ties.may_be_left_out)
            if ties is not None and not is_fine and any(map(ties.holds, rows)):
                way = "; or without them (without_bound)" if ties.may_be_left_out else ""
                raise ConflictError(
                    f"{table.name} can't become another tenant's: {ties.why}",
                    hint=f"import as {reader.header.tenant!r}, into another database if need be{way}",
                )
        return Survey(reader.header, tuple(packages), reader.digest)
