"""The files of a :class:`~vectorstore.file_index.FileVectorIndex`: written durably, checked when they are read.

An index is a folder. ``CURRENT`` names the version that counts, ``LOCK`` is held by who writes. A version is a folder
of files that never change, ``vectors.npy``, ``ids.json``, ``metadata.bin``, with a graph ``graph.faiss``, and
``manifest.json`` with their checksums, and of a ``journal``, to which changes since are appended. A version is written
under another name and takes its own when all of it is on the disk; then ``CURRENT`` is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from persistence.config import Metric
from persistence.errors import (
    CapabilityError,
    ConfigError,
    CorruptError,
    StorageFullError,
    UnavailableError,
    ValidationError,
)
from vectorstore.distance import Matrix, check_dimensions, check_metric
from vectorstore.graph import Graph

_FORMAT = "holdfast vector index 1"
GRAPH = "graph.faiss"
_JOURNAL = b"holdfast journal 1\n"
_RECORD = struct.Struct("<QII")  # the payload's length and crc, and the crc of these two
_BLOCK = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexVersion:
    """A saved version of an index: what it holds, if with a graph, and which version it was made from (None: none)."""

    version: int
    parent: int | None
    count: int
    dimensions: int
    metric: Metric
    model: str | None
    created_at: datetime
    bytes: int
    graph: bool = False


class Snapshot(NamedTuple):
    """The content of a version: vectors of shape (n, dimensions), ids, and metadata as JSON texts, ``""`` for none."""

    vectors: Matrix
    ids: list[str]
    metadata: Texts


class Change(NamedTuple):
    """One change of a journal: ids that were added, with vectors and metadata, or removed, without."""

    ids: list[str]
    vectors: Matrix | None
    metadata: list[str]


class Texts:
    """Texts that are decoded when they are looked at."""

    def __init__(self, data: bytes | memoryview, ends: Sequence[int]) -> None:
        self._data = data
        self._ends = ends

    def __getitem__(self, place: int) -> str:
        begin = self._ends[place - 1] if place else 0
        return str(self._data[begin : self._ends[place]], "utf-8")


def check_name(name: object) -> str:
    """Return an index's name, which becomes a folder's.

    Raises:
        ValidationError: it is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name[:40]) if isinstance(name, str) else f"a {type(name).__name__}"
        raise ValidationError(f"{shown} is no index's name", hint="1 to 64 of A-Z, a-z, 0-9, _, . and -")
    return name


def version_name(version: int) -> str:
    """Return the name of a version's folder."""
    return f"v{version:06}"


def version_numbers(folder: Path) -> list[int]:
    """Return the versions that are there, newest first."""
    if not folder.is_dir():
        return []
    names = [each.name for each in folder.iterdir()]
    return sorted((int(name[1:]) for name in names if name[:1] == "v" and name[1:].isdigit()), reverse=True)


def current_version(folder: Path) -> int | None:
    """Return the version that counts; None where nothing was saved, or what says so can't be read."""
    try:
        text = (folder / "CURRENT").read_text("ascii").strip()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    return int(text[1:]) if text[:1] == "v" and text[1:].isdigit() else None


def set_current(folder: Path, version: int) -> None:
    """Have a version count from now on."""
    draft = folder / "CURRENT.draft"
    _write(draft, f"{version_name(version)}\n".encode())
    os.replace(draft, folder / "CURRENT")
    _sync_folder(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the index's lock; whoever else writes to it waits.

    Raises:
        CapabilityError: this system has no such locks.
        StorageFullError: there is no room left.
        UnavailableError: the folder can't be written.
    """
    try:
        import fcntl
    except ImportError:
        raise CapabilityError("file indexes need flock, which this system hasn't") from None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
    except OSError as exc:
        kind = StorageFullError if exc.errno in (errno.ENOSPC, errno.EDQUOT) else UnavailableError
        raise kind(f"the index in {folder} can't be written: {exc}", operation="write", code=str(exc.errno)) from exc


def write_version(
    folder: Path,
    version: int,
    parent: int | None,
    metric: Metric,
    model: str | None,
    vectors: Iterator[Matrix],
    ids: list[str],
    metadata: list[str],
    dimensions: int,
    *,
    graph: bool,
) -> None:
    """Write a version, with a graph if wanted, and have it count, durably; the lock is held."""
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))
    try:
        with open(draft / "vectors.npy", "xb", opener=_private) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), dimensions)}
            np.lib.format.write_array_header_1_0(file, header)
            for block in vectors:
                file.write(np.ascontiguousarray(block, "<f4").data)
            _sync(file)
        _write(draft / "ids.json", json.dumps(ids, ensure_ascii=False).encode())
        texts = [text.encode() for text in metadata]
        ends = np.cumsum([len(text) for text in texts], dtype="<i8")
        _write(draft / "metadata.bin", ends.tobytes() + b"".join(texts))
        names = ["vectors.npy", "ids.json", "metadata.bin"]
        if graph:
            _write_graph(draft, metric)
            names.append(GRAPH)
        manifest = {
            "format": _FORMAT,
            "version": version,
            "parent": parent,
            "count": len(ids),
            "dimensions": dimensions,
            "metric": metric,
            "model": model,
            "created_at": datetime.now(UTC).isoformat(),
            "files": {name: _told(draft / name) for name in names},
        }
        _write(draft / "manifest.json", _sealed(manifest))
        _write(draft / "journal", _JOURNAL)
        _sync_folder(draft)
        os.rename(draft, folder / version_name(version))
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync_folder(folder)
    set_current(folder, version)


def _write_graph(draft: Path, metric: Metric) -> None:
    Graph.of(np.load(draft / "vectors.npy", mmap_mode="r", allow_pickle=False), metric).write(draft / GRAPH)
    os.chmod(draft / GRAPH, 0o600)
    with open(draft / GRAPH, "rb") as file:
        os.fsync(file.fileno())


def read_graph(path: Path, told: IndexVersion) -> Graph | None:
    """Return the graph of a version; None where it was saved without one, or FAISS is missing.

    Raises:
        CorruptError: it isn't that of the version.
    """
    return Graph.read(path / GRAPH, told.count, told.dimensions, told.metric) if told.graph else None


def copy_version(source: Path, target: Path, version: int, parent: int | None) -> None:
    """Write the snapshot of one version, without what its journal says, as another version."""
    told = read_manifest(source)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target))
    try:
        for name in told["files"]:
            _copy(source / name, draft / name)
        manifest = {**told, "version": version, "parent": parent, "created_at": datetime.now(UTC).isoformat()}
        _write(draft / "manifest.json", _sealed(manifest))
        _write(draft / "journal", _JOURNAL)
        _sync_folder(draft)
        os.rename(draft, target / version_name(version))
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync_folder(target)
    set_current(target, version)


def copy_whole(source: Path, target: Path, version: int) -> None:
    """Copy one version with its journal to a folder that has none."""
    target.mkdir(mode=0o700, parents=True)
    inside = target / version_name(version)
    inside.mkdir(mode=0o700)
    whole = source / version_name(version)
    for name in (*read_manifest(whole)["files"], "manifest.json", "journal"):
        _copy(whole / name, inside / name)
    _sync_folder(inside)
    set_current(target, version)


def drop_old(folder: Path, keep: int) -> None:
    """Delete all but the newest versions, never the one that counts, and what killed writers left; the lock is held."""
    current = current_version(folder)
    for version in [each for each in version_numbers(folder)[keep:] if each != current]:
        gone = folder / f".gone-{version_name(version)}"
        os.rename(folder / version_name(version), gone)  # so that no half of it has the name of a version
        shutil.rmtree(gone)
    for pattern in (".draft-*", ".gone-*"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return what a version's manifest says.

    Raises:
        CorruptError: it is not there, damaged, or of something else.
    """
    try:
        text = (path / "manifest.json").read_bytes()
    except OSError as exc:
        raise _damaged(path, f"its manifest can't be read: {exc.strerror}") from exc
    try:
        told = json.loads(text)
        seal = told.pop("seal")
        known = told["format"] == _FORMAT
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _damaged(path, "its manifest is no manifest") from None
    if not known:
        raise _damaged(path, f"its format is {str(told['format'])[:40]!r}, not {_FORMAT!r}")
    if seal != _seal(told):
        raise _damaged(path, "its manifest was changed")
    return cast("dict[str, Any]", told)


def describe(path: Path) -> IndexVersion:
    """Return what a version holds.

    Raises:
        CorruptError: its manifest is damaged.
    """
    told = read_manifest(path)
    return IndexVersion(
        version=told["version"],
        parent=told["parent"],
        count=told["count"],
        dimensions=check_dimensions(told["dimensions"]),
        metric=check_metric(told["metric"]),
        model=told["model"],
        created_at=datetime.fromisoformat(told["created_at"]),
        bytes=sum(each["bytes"] for each in told["files"].values()),
        graph=GRAPH in told["files"],
    )


def read_version(path: Path, *, verify: bool) -> Snapshot:
    """Map a version's vectors into memory and read the rest; ``verify`` also reads all vectors for their checksum.

    Raises:
        CorruptError: a file is not the one that was written.
    """
    told = read_manifest(path)
    for name, written in told["files"].items():
        _check_file(path, name, written, verify or name not in ("vectors.npy", GRAPH))
    try:
        vectors = np.load(path / "vectors.npy", mmap_mode="r" if told["count"] else None, allow_pickle=False)
        ids = json.loads((path / "ids.json").read_bytes())
    except (OSError, ValueError) as exc:
        raise _damaged(path, f"it can't be read: {exc}") from exc
    if vectors.shape != (told["count"], told["dimensions"]) or len(ids) != told["count"]:
        raise _damaged(path, "its vectors and its ids are not of one count")
    stored = (path / "metadata.bin").read_bytes()
    size = 8 * told["count"]
    ends = np.frombuffer(stored[:size], "<i8").tolist()
    return Snapshot(np.asarray(vectors), ids, Texts(memoryview(stored)[size:], ends))


def _check_file(path: Path, name: str, told: Mapping[str, Any], whole: bool) -> None:
    try:
        size = (path / name).stat().st_size
        if size != told["bytes"]:
            raise _damaged(path, f"{name} has {size:,} bytes, and had {told['bytes']:,}")
        if whole and _told(path / name) != told:
            raise _damaged(path, f"{name} is not the file that was written")
    except OSError as exc:
        raise _damaged(path, f"{name} can't be read: {exc.strerror}") from exc


def read_journal(path: Path, dimensions: int) -> tuple[list[Change], int]:
    """Return the changes of a version's journal, and where it ends; what a killed writer left behind that is no change.

    Raises:
        CorruptError: it is damaged before its end.
    """
    try:
        data = (path / "journal").read_bytes()
    except OSError as exc:
        raise _damaged(path, f"its journal can't be read: {exc.strerror}") from exc
    if not data.startswith(_JOURNAL):
        raise _damaged(path, "its journal is no journal")
    found, place = list[Change](), len(_JOURNAL)
    while place < len(data):
        begin = place + _RECORD.size
        if begin > len(data) or not data[place:].strip(b"\0"):
            break
        length, crc, own = _RECORD.unpack_from(data, place)
        if own != zlib.crc32(data[place : place + 12]):
            raise _damaged(path, f"its journal is damaged at byte {place:,}")
        payload = data[begin : begin + length]
        if len(payload) < length or zlib.crc32(payload) != crc:
            if begin + length < len(data):
                raise _damaged(path, f"its journal is damaged at byte {begin:,}")
            break
        found.append(_change(payload, dimensions))
        place = begin + length
    return found, place


def append_change(path: Path, end: int, change: Change) -> int:
    """Append a change to a version's journal behind the last whole one, durably, and return where it ends then."""
    head = {"ids": change.ids, "metadata": change.metadata, "added": change.vectors is not None}
    payload = json.dumps(head, ensure_ascii=False).encode() + b"\n"
    if change.vectors is not None:
        payload += change.vectors.astype("<f4").tobytes()
    told = struct.pack("<QI", len(payload), zlib.crc32(payload))
    with open(path / "journal", "r+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(told + struct.pack("<I", zlib.crc32(told)) + payload)
        _sync(file)
        return file.tell()


def journal_size(path: Path) -> int:
    """Return how many bytes a version's journal has."""
    return (path / "journal").stat().st_size


def _change(payload: bytes, dimensions: int) -> Change:
    head, _, numbers = payload.partition(b"\n")
    told = json.loads(head)
    vectors = np.frombuffer(numbers, "<f4").reshape(-1, dimensions) if told["added"] else None
    return Change(told["ids"], vectors, told["metadata"])


def _told(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    told = {name: value for name, value in manifest.items() if name != "seal"}
    return json.dumps({**told, "seal": _seal(told)}, indent=1, ensure_ascii=False).encode()


def _seal(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, why: str) -> CorruptError:
    return CorruptError(
        f"{path} is no whole version of a vector index: {why}",
        hint="load an older version, or restore a backup",
        operation="load",
    )


def check_same(told: IndexVersion, dimensions: int | None, metric: Metric | None, model: str | None, name: str) -> None:
    """Compare a version with what an index was opened for.

    Raises:
        ConfigError: they differ; the message names both.
    """
    problems = []
    if dimensions not in (None, told.dimensions):
        problems.append(f"{told.dimensions} dimensions, not {dimensions}")
    if metric not in (None, told.metric):
        problems.append(f"the metric {told.metric}, not {metric}")
    if model is not None and told.model not in (None, model):
        problems.append(f"the embedding model {told.model!r}, not {model!r}")
    if problems:
        raise ConfigError(
            f"the index {name!r} was made for {'; '.join(problems)}",
            problems=tuple(problems),
            hint="open it as it was made, or save under another name",
        )


def _copy(source: Path, target: Path) -> None:
    with open(source, "rb") as given, open(target, "xb", opener=_private) as file:
        shutil.copyfileobj(given, file, _BLOCK)
        _sync(file)


def _private(path: str, flags: int) -> int:
    """Open a file that, when it is new, its owner alone can read, whatever the umask."""
    return os.open(path, flags, 0o600)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb", opener=_private) as file:
        file.write(data)
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
