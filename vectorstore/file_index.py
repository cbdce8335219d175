"""Vectors in plain files, for a program that needs no database: saved in versions, changed durably, mapped to be read.

Protocol: what is searched is in memory, or mapped; ``save`` writes all of it as a new version, ``add`` and ``remove``
append what changed to the journal of the version that was loaded or saved last. Who writes holds the index's lock, and
is refused when another program has written since.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from persistence.config import Metric
from persistence.errors import ConflictError, CorruptError, DuplicateError, NotFoundError, ValidationError
from persistence.validation import check_id, check_text, check_whole, shown
from vectorstore import index_files as files
from vectorstore.distance import check_dimensions
from vectorstore.graph import required_faiss
from vectorstore.index_entries import IndexEntries, checked_vectors, listed, stored_metadata, width_of
from vectorstore.index_files import IndexVersion
from vectorstore.index_journal import Change, append_change, journal_size, read_journal
from vectorstore.matrix import NEVER, VectorMatrix
from vectorstore.records import Vectors, check_ids, metadata_text

_TRIES = 20
"""How often an index that another program saves anew meanwhile is read."""


class FileVectorIndex(IndexEntries):
    """Ids with their vectors and metadata, in a folder of versions below ``root``.

    ::

        index = FileVectorIndex("indexes", model="all-MiniLM-L6-v2")
        if not index.load("papers"):
            index.add(ids, vectors)
            index.save("papers")
        index.add(["later"], [vector])         # in the journal once it returns
        index.search(query, k=5)

    ``dimensions``, ``metric`` (left out: cosine) and ``model`` are those of what is loaded unless they are given; other
    ones are refused. ``keep`` is how many versions of a name stay. Any thread may use it at any time. A search is exact
    unless the version was saved with ``graph=True``.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        dimensions: int | None = None,
        metric: Metric | None = None,
        model: str | None = None,
        keep: int = 3,
    ) -> None:
        self.root = Path(root)
        super().__init__(dimensions, metric)
        self._given_model = None if model is None else check_text("model", model)
        self._keep = check_whole("keep", keep)
        self._clear()

    def _clear(self) -> None:
        self._empty()
        self.model: str | None = self._given_model
        self.name: str | None = None
        self.version: int | None = None
        self._journal_end = self._journal_size = 0
        self._current: int | None = None

    @property
    def journal_bytes(self) -> int:
        """How many bytes of changes are in the journal: ``save`` takes them into a new version."""
        return self._journal_end

    def add(self, ids: Iterable[str], vectors: Vectors, metadata: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Add vectors, replacing those whose ids are there, and return how many were written.

        ``metadata`` is one JSON object an id. All are added or none; of equal ids the last wins. Once an index was
        loaded or saved, they are in its journal when this returns.

        Raises:
            ValidationError: the counts differ, or a vector is none; the message names its id.
            ConflictError: another program has written to the index since it was loaded.
        """
        given = [check_id("the id", each) for each in listed("ids", ids)]
        rows = listed("vectors", vectors)
        told = [{}] * len(given) if metadata is None else listed("metadata", metadata)
        if not len(given) == len(rows) == len(told):
            raise ValidationError(f"there are {len(given)} ids, {len(rows)} vectors and {len(told)} metadata")
        if not given:
            return 0
        with self._mutex:
            dimensions = width_of(given[0], rows[0]) if self.dimensions is None else self.dimensions
            checked = checked_vectors(given, rows, check_dimensions(dimensions), self.metric)
            texts = [metadata_text(each, f"entry {shown(id)}") for id, each in zip(given, told, strict=True)]
            last = {id: place for place, id in enumerate(given)}
            kept = list(last.values())
            change = Change(list(last), checked[kept], [stored_metadata(texts[place]) for place in kept])
            self._record(change)
            self.dimensions = dimensions
            self._apply(change)
            return len(kept)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove entries and return how many were there.

        Raises:
            ConflictError: another program has written to the index since it was loaded.
        """
        wanted = check_ids(ids)
        with self._mutex:
            there = [id for id in wanted if id in self._by_id()]
            if there:
                change = Change(there, None, [])
                self._record(change)
                self._apply(change)
            return len(there)

    def _record(self, change: Change) -> None:
        """Write a change into the journal, where there is one."""
        if self.name is None or self.version is None:
            return
        folder = self.root / self.name
        with files.locked(folder):
            self._check_unchanged(folder)
            if self._current != self.version:  # the one that counted is damaged, and an older one was loaded
                files.set_current(folder, self.version)
                self._current = self.version
            path = folder / files.version_name(self.version)
            try:
                self._journal_end = append_change(path, self._journal_end, change)
            finally:
                self._journal_size = self._journal_end

    def _check_unchanged(self, folder: Path) -> None:
        """Make sure that nobody else has written; the lock is held."""
        now = files.current_version(folder)
        path = folder / files.version_name(self.version or 0)
        if now != self._current or not path.is_dir() or journal_size(path) != self._journal_size:
            raise ConflictError(
                f"another program has changed the index {self.name!r} since it was loaded",
                hint="load it again, and repeat the change",
                operation="write",
            )

    def save(self, name: str = "default", *, graph: bool = False) -> int:
        """Write all entries as a new version of a name, durably, and return its number.

        Until it is whole the version before counts, whatever happens. The oldest versions beyond ``keep`` are deleted.
        ``graph`` also makes a graph of neighbours, by which later searches go: from some 200,000 entries on comparing
        all takes tens of milliseconds. It takes 20 seconds for 100,000 entries, and the room of the vectors again.

        Raises:
            ConflictError: the name was loaded, and another program has written to it since.
            ValidationError: there were never any entries, and ``dimensions`` was not given.
            CapabilityError: a graph is wanted, and FAISS is missing, or has none for the metric.
        """
        if graph:
            required_faiss(self.metric)
        folder = self.root / files.check_name(name)
        with self._mutex, files.locked(folder):
            if self.dimensions is None:
                raise ValidationError("an empty index has no dimensions", hint="FileVectorIndex(…, dimensions=384)")
            parent = files.current_version(folder)
            if name == self.name:
                self._check_unchanged(folder)
            elif parent is not None:
                told = files.describe(folder / files.version_name(parent))
                files.check_same(told, self.dimensions, self.metric, self.model, name)
            version = max([0, *files.version_numbers(folder)]) + 1
            places, text = sorted(self._by_id().values()), self._texts()
            files.write_version(
                folder,
                version,
                parent,
                self.metric,
                self.model,
                self._blocks(places),
                [self._ids[place] for place in places],
                [stored_metadata(text(place)) for place in places],
                self.dimensions,
                graph=graph and bool(places),
            )
            files.drop_old(folder, self._keep)
            self._take(name, version, version, verify=False)
            return version

    def load(self, name: str = "default", *, version: int | None = None, verify: bool = True) -> bool:
        """Take what was saved under a name, and what was changed since; False when nothing was.

        The vectors are mapped, and read when they are searched. ``verify=False`` doesn't read them for their checksum,
        which opens large ones at once. Where the version that counts is damaged, a warning says how, and the last good
        one is taken. ``version`` takes that one, as it was saved and without later changes; it can be searched, and
        saved under another name (``rollback`` makes it the one that counts).

        Raises:
            CorruptError: no version is whole, or the one asked for isn't.
            NotFoundError: there is no such version.
            ConfigError: it was made for other dimensions, another metric or another model.
            ConflictError: another program saved it anew, and deleted what was being read, twenty times.
        """
        folder = self.root / files.check_name(name)
        with self._mutex:
            if version is not None:
                self._take_alone(name, check_whole("version", version), verify)
                return True
            for _ in range(_TRIES):
                known, current = files.version_numbers(folder), files.current_version(folder)
                if not known:
                    return False
                # Newer versions than the one that counts were never finished, or were left behind by a rollback.
                order = [current] if current is not None else []
                order += [each for each in known if current is None or each < current]
                if self._take_first(name, order, current, verify):
                    return True
            raise _overtaken(name, "load")

    def _take_alone(self, name: str, version: int, verify: bool) -> None:
        folder = self.root / name
        known, current = files.version_numbers(folder), files.current_version(folder)
        if version in known:
            try:
                self._take(name, version, current, verify=verify, alone=True)
            except CorruptError:
                known = files.version_numbers(folder)
                if version in known:
                    raise
            else:
                return
        raise NotFoundError(f"the index {name!r} has no version {version}", hint=f"it has {known}")

    def _take_first(self, name: str, order: list[int], current: int | None, verify: bool) -> bool:
        """Take the first whole version, and return True; False where another one counts by now.

        The one that was read may have been deleted for that, which is no damage.
        """
        problems: list[CorruptError] = []
        for each in order:
            try:
                self._take(name, each, current, verify=verify)
            except CorruptError as exc:
                if files.current_version(self.root / name) != current:
                    return False
                problems.append(exc)
                continue
            if problems:
                text = f"the index {name!r} was loaded as of version {each}: {problems[0].message}"
                warnings.warn(text, RuntimeWarning, stacklevel=4)
            return True
        raise problems[0]

    def _take(self, name: str, version: int, current: int | None, *, verify: bool, alone: bool = False) -> None:
        """Have a version in memory; ``alone`` without its journal, and without writing to it.

        ``current`` is the version that counted before anything of this one was read: whoever writes meanwhile, a change
        of this index is refused then.
        """
        path = self.root / name / files.version_name(version)
        told = files.describe(path)
        files.check_same(told, self._given_dimensions, self._given_metric, self._given_model, name)
        saved = files.read_version(path, verify=verify)
        graph = files.read_graph(path, told)
        changes, end, size = ([], 0, 0) if alone else read_journal(path, told.dimensions)
        self._clear()
        self.dimensions, self.metric, self.model = told.dimensions, told.metric, told.model or self._given_model
        self.name, self.version = (None, version) if alone else (name, version)
        self._saved, self._graph, self._ids, self._rows = saved, graph, list(saved.ids), None
        count = len(saved.ids)
        self._matrix = VectorMatrix.of(np.arange(count), saved.vectors, np.full(count, NEVER), told.metric)
        for change in changes:
            self._apply(change)
        self._journal_end, self._journal_size = end, size
        self._current = current

    def versions(self, name: str = "default") -> list[IndexVersion]:
        """Return the versions of a name that have a manifest, newest first."""
        folder = self.root / files.check_name(name)
        found = []
        for version in files.version_numbers(folder):
            try:
                found.append(files.describe(folder / files.version_name(version)))
            except CorruptError:
                continue  # verify() tells what it has
        return found

    def rollback(self, name: str = "default", *, version: int | None = None) -> int:
        """Make a new version that is as an older one was saved, load it, and return its number.

        ``version`` is which (None: the one before). Nothing is lost: what counted until then stays, among the versions
        that are kept.

        Raises:
            NotFoundError: there is no such version.
            CorruptError: it is damaged.
        """
        folder = self.root / files.check_name(name)
        if version is not None:
            check_whole("version", version)
        with self._mutex, files.locked(folder):
            known, current = files.version_numbers(folder), files.current_version(folder)
            older = [each for each in known if current is not None and each < current]
            wanted = version if version is not None else next(iter(older), None)
            if wanted not in known or wanted is None:
                raise NotFoundError(f"the index {name!r} has no version {wanted or 'before'}", hint=f"it has {known}")
            files.read_version(folder / files.version_name(wanted), verify=True)
            made = known[0] + 1
            files.copy_version(folder / files.version_name(wanted), folder, made, wanted)
            files.drop_old(folder, self._keep)
            self._take(name, made, made, verify=False)
            return made

    def backup(self, destination: str | Path, name: str = "default") -> Path:
        """Copy what counts of a name, journal included, below another root, and return the folder of the copy.

        ``FileVectorIndex(destination).load(name)`` opens it.

        Raises:
            NotFoundError: nothing was saved under the name.
            DuplicateError: the destination has the name already.
            CorruptError: it is damaged; nothing is copied.
        """
        folder, target = self.root / files.check_name(name), Path(destination) / name
        with self._mutex, files.locked(folder):
            current = files.current_version(folder)
            if current is None:
                raise NotFoundError(f"there is no index {name!r} in {self.root}")
            if target.exists():
                raise DuplicateError(f"{target} is there already", hint="choose another destination")
            self.verify(name)
            files.copy_whole(folder, target, current)
        return target

    def verify(self, name: str = "default") -> IndexVersion:
        """Read all of the version that counts and return what it holds.

        Raises:
            NotFoundError: nothing was saved under the name.
            CorruptError: something of it is not what was written; the message says what.
            ConflictError: as ``load``.
        """
        folder = self.root / files.check_name(name)
        for _ in range(_TRIES):
            current = files.current_version(folder)
            if current is None:
                raise NotFoundError(f"there is no index {name!r} in {self.root}")
            path = folder / files.version_name(current)
            try:
                told = files.describe(path)
                files.read_version(path, verify=True)
                read_journal(path, told.dimensions)
            except CorruptError:
                if files.current_version(folder) == current:
                    raise
            else:
                return told
        raise _overtaken(name, "verify")


def _overtaken(name: str, operation: str) -> ConflictError:
    return ConflictError(
        f"the index {name!r} was saved anew each time, {_TRIES} times, while it was read",
        hint="have the program that saves it keep more versions: FileVectorIndex(…, keep=3)",
        operation=operation,
    )
