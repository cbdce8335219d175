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
import tempfile
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
    StorageFullError,
    UnavailableError,
    ValidationError,
)
from vectorstore.distance import Matrix, check_dimensions, check_metric
from vectorstore.durable import copy_file, private, sync_file, sync_folder, write_file
from vectorstore.graph import Graph
from vectorstore.index_journal import EMPTY_JOURNAL, damaged

_FORMAT = "holdfast vector index 1"
GRAPH = "graph.faiss"
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
    write_file(draft, f"{version_name(version)}\n".encode())
    os.replace(draft, folder / "CURRENT")
    sync_folder(folder)


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
        with open(draft / "vectors.npy", "xb", opener=private) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), dimensions)}
            np.lib.format.write_array_header_1_0(file, header)
            for block in vectors:
                file.write(np.ascontiguousarray(block, "<f4").data)
            sync_file(file)
        write_file(draft / "ids.json", json.dumps(ids, ensure_ascii=False).encode())
        texts = [text.encode() for text in metadata]
        ends = np.cumsum([len(text) for text in texts], dtype="<i8")
        write_file(draft / "metadata.bin", ends.tobytes() + b"".join(texts))
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
        write_file(draft / "manifest.json", _sealed(manifest))
        write_file(draft / "journal", EMPTY_JOURNAL)
        sync_folder(draft)
        os.rename(draft, folder / version_name(version))
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(folder)
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
            copy_file(source / name, draft / name)
        manifest = {**told, "version": version, "parent": parent, "created_at": datetime.now(UTC).isoformat()}
        write_file(draft / "manifest.json", _sealed(manifest))
        write_file(draft / "journal", EMPTY_JOURNAL)
        sync_folder(draft)
        os.rename(draft, target / version_name(version))
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(target)
    set_current(target, version)


def copy_whole(source: Path, target: Path, version: int) -> None:
    """Copy one version with its journal to a folder that has none."""
    target.mkdir(mode=0o700, parents=True)
    inside = target / version_name(version)
    inside.mkdir(mode=0o700)
    whole = source / version_name(version)
    for name in (*read_manifest(whole)["files"], "manifest.json", "journal"):
        copy_file(whole / name, inside / name)
    sync_folder(inside)
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
        raise damaged(path, f"its manifest can't be read: {exc.strerror}") from exc
    try:
        told = json.loads(text)
        seal = told.pop("seal")
        known = told["format"] == _FORMAT
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise damaged(path, "its manifest is no manifest") from None
    if not known:
        raise damaged(path, f"its format is {str(told['format'])[:40]!r}, not {_FORMAT!r}")
    if seal != _seal(told):
        raise damaged(path, "its manifest was changed")
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
        stored = (path / "metadata.bin").read_bytes()
    except (OSError, ValueError) as exc:
        raise damaged(path, f"it can't be read: {exc}") from exc
    if vectors.shape != (told["count"], told["dimensions"]) or len(ids) != told["count"]:
        raise damaged(path, "its vectors and its ids are not of one count")
    size = 8 * told["count"]
    ends = np.frombuffer(stored[:size], "<i8").tolist()
    return Snapshot(np.asarray(vectors), ids, Texts(memoryview(stored)[size:], ends))


def _check_file(path: Path, name: str, told: Mapping[str, Any], whole: bool) -> None:
    try:
        size = (path / name).stat().st_size
        if size != told["bytes"]:
            raise damaged(path, f"{name} has {size:,} bytes, and had {told['bytes']:,}")
        if whole and _told(path / name) != told:
            raise damaged(path, f"{name} is not the file that was written")
    except OSError as exc:
        raise damaged(path, f"{name} can't be read: {exc.strerror}") from exc


def _told(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    told = {name: value for name, value in manifest.items() if name != "seal"}
    return json.dumps({**told, "seal": _seal(told)}, indent=1, ensure_ascii=False).encode()


def _seal(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


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
