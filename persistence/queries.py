"""Statements kept in ``.sql`` files, each under a line ``-- name: x``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import SimpleNamespace

from persistence.dialect import Kind
from persistence.errors import ConfigError

_NAME = re.compile(r"^-- name: ([a-z_][a-z0-9_]*)[ \t]*$", re.M)
_PLACE = re.compile(r"/\* (\w+) \*/ (:?[\w.]+(?:\([^()]*\))?|[^\w\s]+)")


def parse_queries(text: str) -> dict[str, str]:
    """Return the statements of a file by name, in the file's order."""
    parts = _NAME.split(text)
    names, bodies = parts[1::2], parts[2::2]
    if len(set(names)) != len(names):
        raise ConfigError(f"two statements share a name: {', '.join(sorted(names))}")
    return {name: body.strip().rstrip(";") for name, body in zip(names, bodies, strict=True)}


def query_files(package: str, kind: Kind) -> list[Traversable]:
    """Return the files that hold a package's statements for one database: ``sql/<kind>.sql``, ``sql/x_<kind>.sql``."""
    found = [entry for entry in files(package).joinpath("sql").iterdir() if _is_for(entry.name, kind)]
    return sorted(found, key=lambda entry: entry.name)


def _is_for(filename: str, kind: Kind) -> bool:
    return filename == f"{kind}.sql" or filename.endswith(f"_{kind}.sql")


@cache
def load_queries(package: str, kind: Kind) -> SimpleNamespace:
    """Return a package's statements for one database as attributes, from its ``query_files``."""
    found: dict[str, str] = {}
    for entry in query_files(package, kind):
        more = parse_queries(entry.read_text("utf-8"))
        if found.keys() & more.keys():
            raise ConfigError(f"two files share a statement's name: {', '.join(sorted(found.keys() & more.keys()))}")
        found |= more
    return SimpleNamespace(**found)


def fill(sql: str, places: Mapping[str, str]) -> str:
    """Return a statement with other text in its marked places: ``/* name */ word`` becomes ``places[name]``.

    A ``…`` in the other text is the word that it replaces.
    """
    return _PLACE.sub(lambda match: places[match[1]].replace("…", match[2]) if match[1] in places else match[0], sql)
