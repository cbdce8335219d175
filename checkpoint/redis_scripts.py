"""The Lua scripts that checkpoints on Redis are made of: each call is one of them, and so happens as a whole."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from persistence.scripts import Script, script_of

READS = frozenset(
    "describe_thread dump_thread expiring find find_head history load peek pending_writes refs registered rows"
    " sealed".split()
)
"""Scripts that change nothing, so that sending one twice is sending it once."""


_MAKES = re.compile(r"(?m)^local (?:function )?(\w+)")
ALONE = frozenset(("register",))
"""Scripts that are sent as text each time."""


@cache
def script(name: str) -> Script:
    """Return a script of ``checkpoint/lua``, with what is common to all before it."""
    text = _read(name)
    # Making a function takes the server time at each call, so a script begins with those that it uses and no others.
    for part in reversed(_read("common").split("\n\n")):
        made = _MAKES.search(part)
        if made and re.search(rf"\b{made[1]}\b", text):
            text = f"{part}\n{text}"
    return script_of(text)


def _read(name: str) -> str:
    return (files("checkpoint") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
