"""What a live server can do, asked of it rather than assumed."""

from __future__ import annotations

import re
from dataclasses import dataclass


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: (7, 2) of ``7.2-rc1``."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the connected server can do.

    ``vector`` is pgvector's version as a tuple, None where it isn't installed. ``pooler`` tells whether a transaction
    pooler such as PgBouncer stands in front, where prepared statements and session state don't hold.
    """

    kind: str
    server_version: tuple[int, ...]
    returning: bool = False
    json: bool = False
    full_text_search: bool = False
    listen_notify: bool = False
    advisory_locks: bool = False
    concurrent_writers: bool = False
    pooler: bool = False
    in_recovery: bool = False
    vector: tuple[int, ...] | None = None

    @property
    def version_text(self) -> str:
        """The server's version as people write it, such as ``18.4``."""
        return ".".join(str(part) for part in self.server_version)
