# Generated from ../_async/lua.py by tests/unasync.py: edit that one.
"""Calls of the Lua scripts that this package ships; each is atomic, and one round trip."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from persistence import RedisClient
from persistence.errors import PersistenceError


@cache
def _script(filename: str) -> tuple[str, str]:
    """Return a script and its SHA-1, by which the server remembers it."""
    text = files("sessions").joinpath("lua", filename).read_text("utf-8")
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def run_script(
    client: RedisClient, filename: str, keys: Sequence[str], arguments: Sequence[str | int]
) -> Any:
    """Return the answer of ``lua/<filename>``.

    Where the server doesn't know the script yet, it has done nothing, and is sent it.

    Raises:
        PersistenceError: the call failed; it is sent once.
    """
    script, digest = _script(filename)
    rest = (len(keys), *keys, *arguments)
    try:
        return client.execute_command("EVALSHA", digest, *rest)
    except PersistenceError as exc:
        if not isinstance(exc.__cause__, NoScriptError):
            raise
    return client.execute_command("EVAL", script, *rest)
