# Generated from ../_async/loading.py by tests/unasync.py: edit that one.
"""One load of many documents: batch by batch, the next one checked while the server stores the one before.

Protocol: documents are read from their source, and embedded, where the caller is. A batch is checked elsewhere only
while another one is being stored, so that a load takes as long as the slower of the two and not as both.
"""

from __future__ import annotations

from collections.abc import Iterator, Callable, Sequence
from functools import partial
from typing import Any

from persistence._sync.compat import Parallel, sleep
from persistence.errors import ClosedError, PersistenceError, UnavailableError
from vectorstore._sync import embedding as calls
from vectorstore.records import BatchError, BatchFailure, CheckedDocument, Document, Embedder

_Prepared = tuple[Sequence[Document], list[CheckedDocument] | PersistenceError]


class Load:
    """A call of ``store_documents``: what it has written, what failed, and the batch that is checked and not written.

    With ``ahead`` a batch is checked while the one before is being written.
    """

    def __init__(
        self,
        check: Callable[[Sequence[Document]], list[CheckedDocument]],
        write: Callable[[list[CheckedDocument]], None],
        *,
        embedder: Embedder | None,
        progress: Callable[[int], object] | None,
        goes_on: bool,
        ahead: bool,
    ) -> None:
        self._check = check
        self._write = write
        self._embedder = embedder
        self._progress = progress
        self._goes_on = goes_on
        self._ahead = ahead
        self._written = 0
        self._failures: list[BatchFailure] = []
        self._last: _Prepared | None = None
        self._parallel = Parallel()

    def run(self, source: Iterator[list[Document]]) -> int:
        """Store every batch and return how many documents were written."""
        try:
            try:
                for batch in source:
                    self._take(batch)
            except Exception:
                self._write_last()  # when the source fails, what came before is stored
                raise
            self._write_last()
        finally:
            self._parallel.close()
        if self._failures:
            raise BatchError(self._written, self._failures)
        return self._written

    def _take(self, batch: list[Document]) -> None:
        try:
            embedded = calls.with_embeddings(self._embedder, batch)
        except PersistenceError as exc:
            self._write_last()
            self._last = batch, exc
        else:
            last, self._last = self._last, None
            if last is None:
                self._last = self._prepared(embedded)
            else:
                both: list[Any] = [partial(self._prepare_meanwhile, embedded), partial(self._finish, *last)]
                self._last = (self._parallel.run(both))[0]
        if not self._ahead:
            self._write_last()

    def _prepare_meanwhile(self, batch: Sequence[Document]) -> _Prepared | None:
        sleep(0)  # until the other batch is on its way
        return self._prepared(batch)

    def _prepared(self, batch: Sequence[Document]) -> _Prepared:
        try:
            return batch, self._check(batch)
        except PersistenceError as exc:
            return batch, exc

    def _write_last(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            self._finish(*last)

    def _finish(self, batch: Sequence[Document], found: list[CheckedDocument] | PersistenceError) -> None:
        try:
            if isinstance(found, PersistenceError):
                raise found
            self._write(found)
        except (UnavailableError, ClosedError):
            raise
        except PersistenceError as exc:
            if not self._goes_on:
                raise
            self._failures.append(BatchFailure([str(getattr(each, "id", None)) for each in batch], exc))
            return
        self._written += len(found)
        if self._progress is not None:
            self._progress(self._written)
