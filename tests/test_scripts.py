"""Lua scripts: what is sent for a call has all that it needs, and little else."""

from __future__ import annotations

import re
from collections.abc import Set
from importlib.resources import files

import pytest

from checkpoint import redis_scripts as checkpoint_scripts
from persistence._async.redis import READS
from persistence.scripts import call_script, needed, packaged_text
from sessions import redis_rows, task_rows
from sessions._async import context_redis

FILES = [("sessions", "sessions"), ("sessions", "tasks"), ("sessions", "context"), ("persistence", "keyvalues")]


def made_by(text: str) -> set[str]:
    """Return the names that a text defines at the edge of its lines."""
    names = re.findall(r"(?m)^(?:local function |local |function )?([\w.]+(?:, [\w.]+)*)(?= *[=(])", text)
    return {name for each in names for name in each.split(", ")}


@pytest.mark.parametrize(("package", "name"), FILES)
def test_a_call_is_sent_with_all_that_it_uses_and_no_other_call(package: str, name: str) -> None:
    whole = packaged_text(package, name)
    functions = {made for made in made_by(whole) if re.search(rf"(?m)^(?:local )?function {re.escape(made)}\(", whole)}
    calls = {made.partition(".")[2] for made in made_by(whole) if "." in made}
    assert len(calls) > 8
    for call in calls:
        sent = call_script(package, name, call).text
        used = {made for made in functions if re.search(rf"(?<![.\w]){re.escape(made)}\(", sent)}
        assert used <= made_by(sent), call
        assert re.search(rf"return \w+\.{call}\(", sent)
        assert len(sent) < 0.5 * len(whole)


def not_reads(script: str) -> set[str]:
    """Return the commands in a script's text that may change something; ? stands for one that it works out."""
    return {found or "?" for found in re.findall(r"redis\.p?call\(\s*(?:'(\w+)')?", script)} - READS


@pytest.mark.parametrize(
    ("package", "name", "reads", "forgetting"),
    [
        ("sessions", "sessions", redis_rows.READS, redis_rows.FORGETTING),
        ("sessions", "tasks", task_rows.READS, frozenset()),
        ("sessions", "context", context_redis.READS, frozenset()),
        ("persistence", "keyvalues", {"item", "many"}, {"scan"}),
    ],
)
def test_what_is_sent_again_is_what_changes_nothing(
    package: str, name: str, reads: Set[str], forgetting: Set[str]
) -> None:
    calls = set(re.findall(r"\b(?:run|commands|calls)\.(\w+)", packaged_text(package, name)))
    changes = {call: not_reads(call_script(package, name, call).text) for call in calls}
    assert {call for call, commands in changes.items() if not commands} == reads
    assert {call for call, commands in changes.items() if commands and commands <= {"SREM", "ZREM"}} == forgetting


def test_scripts_of_checkpoints_that_are_sent_again_change_nothing() -> None:
    folder = files("checkpoint") / "lua"
    names = {path.name.removesuffix(".lua") for path in folder.iterdir()} - {"common"}
    reads = {name for name in names if not not_reads(checkpoint_scripts.script(name).text)}
    assert reads == checkpoint_scripts.READS


def test_a_text_gets_the_parts_that_it_needs_in_their_order() -> None:
    library = ["local a = 1", "local function b() return a end", "local c, d = 2, 3", "function t.e() return d end"]
    assert needed(library, "return b()") == "local a = 1\nlocal function b() return a end\nreturn b()"
    assert needed(library, "return t.e()") == "local c, d = 2, 3\nfunction t.e() return d end\nreturn t.e()"
    assert needed(library, "return t.every(abc)") == "return t.every(abc)"
