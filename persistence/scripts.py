"""Lua scripts for Redis: each has the name that a server which has seen it knows it by."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from redis.exceptions import NoScriptError

from persistence.errors import QueryError


class UnknownScriptError(QueryError, NoScriptError):
    """The server doesn't know a script by its name; redis-py's scripts and locks send it then, and ours its text."""


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
    return script_of(packaged_text(package, name))


@cache
def call_script(package: str, name: str, call: str) -> Script:
    """Return what one call of ``lua/<name>.lua`` needs: that file ends by picking its call from a table.

    Making a function takes the server time at each run, more than most calls take, so a call is sent without the
    functions that it doesn't use.
    """
    head, *library, last = packaged_text(package, name).split("\n\n")
    return script_of(head + "\n" + needed(library, _PICKED.sub(rf"\1.{call}(", last, count=1)))


def needed(library: list[str], text: str) -> str:
    """Return a script's text with those parts before it of which it uses a name, in their order.

    A part uses nothing of what follows it, and is one or several definitions that begin at the edge of their line.
    """
    for part in reversed(library):
        made = (each for names in _MADE.findall(part) for each in names.split(", "))
        if any(re.search(rf"\b{re.escape(each)}\b", text) for each in made):
            text = f"{part}\n{text}"
    return text


def packaged_text(package: str, name: str) -> str:
    """Return the text of ``lua/<name>.lua`` of a package, without the lines that only comment."""
    return _COMMENTS.sub("", (files(package) / "lua" / f"{name}.lua").read_text(encoding="utf-8"))


_COMMENTS = re.compile(r"(?m)^ *--.*\n")
_MADE = re.compile(r"(?m)^(?:local function |local |function )?([\w.]+(?:, [\w.]+)*)(?= *[=(])")
_PICKED = re.compile(r"\b(\w+)\[\w+\]\(")
