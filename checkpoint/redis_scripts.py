"""The Lua scripts that checkpoints on Redis are made of: each call is one of them, and so happens as a whole."""

from __future__ import annotations

from functools import cache

from persistence.scripts import Script, needed, packaged_text, script_of

READS = frozenset(
    "describe_thread dump_thread expiring find find_head history load peek pending_writes refs registered rows"
    " sealed".split()
)
"""Scripts that change nothing, so that sending one twice is sending it once."""


ALONE = frozenset(("register",))
"""Scripts that are sent as text each time."""


@cache
def script(name: str) -> Script:
    """Return a script of ``checkpoint/lua``, with what is common to all before it."""
    # Making a function takes the server time at each call, so a script begins with those that it uses and no others.
    return script_of(needed(packaged_text("checkpoint", "common").split("\n\n"), packaged_text("checkpoint", name)))
