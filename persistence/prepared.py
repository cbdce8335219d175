"""Which statements a PostgreSQL connection has prepared, and how the rows of each are read.

A statement is known by its text and the types of its parameters, because the server plans for both. It is prepared once
it has been run ``threshold`` times. Only so many are kept: the one unused for longest goes, and its name waits in
``stale`` for whoever next talks to the server about prepared statements.
"""

from __future__ import annotations

from collections import OrderedDict

from psycopg.abc import Transformer

SIZE = 256
"""How many statements a connection remembers."""


class Shape:
    """The columns of a statement's rows: their names, and the loaders of their types."""

    __slots__ = ("loaders", "names")

    def __init__(self, names: list[str], loaders: Transformer) -> None:
        self.names = names
        self.loaders = loaders


class KnownStatement:
    """A statement as one connection knows it; ``name`` is empty until the server has prepared it."""

    __slots__ = ("forgotten", "name", "shapes", "uses")

    def __init__(self) -> None:
        self.uses = 0
        self.forgotten = False
        self.name = b""
        self.shapes: list[Shape | None] = [None, None]
        """Of rows in text and in binary; a prepared statement never changes its columns."""


class KnownStatements:
    """The statements of one connection, the one used last at the end."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._known: OrderedDict[tuple[str, tuple[int, ...]], KnownStatement] = OrderedDict()
        self._named = 0
        self.stale: list[bytes] = []
        """Names that the server may forget."""

    def find(self, text: str, types: tuple[int, ...]) -> KnownStatement:
        """Return what is known of a statement, which is nothing for a new one."""
        key = (text, types)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        if len(self._known) >= self._size:
            self._drop(self._known.popitem(last=False)[1])
        known = self._known[key] = KnownStatement()
        return known

    def new_name(self) -> bytes:
        """Return a name that this connection never used before."""
        self._named += 1
        return b"holdfast_%d" % self._named

    def forget(self, text: str, types: tuple[int, ...]) -> None:
        """Know a statement no longer, because the server won't run it as it was prepared."""
        known = self._known.pop((text, types), None)
        if known is not None:
            self._drop(known)

    def forget_all(self) -> None:
        """Know nothing any more, because the tables or types that statements were prepared for may have changed."""
        for known in self._known.values():
            self._drop(known)
        self._known.clear()

    def _drop(self, known: KnownStatement) -> None:
        known.forgotten = True
        if known.name:
            self.stale.append(known.name)
