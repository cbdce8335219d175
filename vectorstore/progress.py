"""A bar that shows how far a load has come: a ready-made ``progress`` for ``store_documents``."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TextIO

from persistence.validation import check_whole

_WIDTH = 30
_PAUSE = 0.1
"""The least seconds between two drawings."""


class ProgressBar:
    """Draws the number of documents written, their rate, and, where ``total`` is known, a bar.

    It writes to ``stream`` (None: stderr), on one line that it draws anew where that is a terminal, elsewhere one line
    each ten percent, or none without a total. Use it by ``with``, which ends the line::

        with ProgressBar(len(documents)) as bar:
            store.store_documents(documents, progress=bar)
    """

    def __init__(self, total: int | None = None, *, stream: TextIO | None = None) -> None:
        self._total = None if total is None else check_whole("total", total, least=0)
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._started = monotonic()
        self._drawn = float("-inf")
        self._tenth = 0

    def __call__(self, done: int) -> None:
        """Show that ``done`` documents are written."""
        if self._live:
            now = monotonic()
            if now - self._drawn >= _PAUSE or done == self._total:
                self._drawn = now
                self._stream.write(f"\r{self._line(done)}\x1b[K")
                self._stream.flush()
        elif self._total and (tenth := 10 * done // self._total) > self._tenth:
            self._tenth = tenth
            self._stream.write(f"{self._line(done)}\n")

    def _line(self, done: int) -> str:
        rate = done / max(monotonic() - self._started, 1e-6)
        if not self._total:
            return f"{done:,} documents, {rate:,.0f}/s"
        filled = min(_WIDTH, _WIDTH * done // self._total)
        return f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {done:,} of {self._total:,}, {rate:,.0f}/s"

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._stream.write("\n")
