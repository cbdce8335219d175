"""Lua scripts for Redis: each has the name that a server which has seen it knows it by."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A script: its text, and the SHA-1 of that."""

    text: str
    sha: str


def script_of(text: str) -> Script:
    """Return a script of this text."""
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@cache
def packaged_script(package: str, name: str) -> Script:
    """Return ``lua/<name>.lua`` of a package."""
    return script_of((files(package) / "lua" / f"{name}.lua").read_text(encoding="utf-8"))
