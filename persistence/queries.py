"""Statements kept in ``.sql`` files, each under a line ``-- name: x``."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from types import SimpleNamespace

from persistence.dialect import Kind
from persistence.errors import ConfigError

_NAME = re.compile(r"^-- name: ([a-z_][a-z0-9_]*)[ \t]*$", re.M)


def parse_queries(text: str) -> dict[str, str]:
    """Return the statements of a file by name, in the file's order."""
    parts = _NAME.split(text)
    names, bodies = parts[1::2], parts[2::2]
    if len(set(names)) != len(names):
        raise ConfigError(f"two statements share a name: {', '.join(sorted(names))}")
    return {name: body.strip().rstrip(";") for name, body in zip(names, bodies, strict=True)}


@cache
def load_queries(package: str, kind: Kind) -> SimpleNamespace:
    """Return a package's statements for one database as attributes, from ``<package>/sql/<kind>.sql``."""
    return SimpleNamespace(**parse_queries(files(package).joinpath("sql", f"{kind}.sql").read_text("utf-8")))
