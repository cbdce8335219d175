"""The command ``holdfast``: its face, its exit codes, and ``import-langgraph`` from real savers of LangGraph."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command
from psycopg.rows import dict_row

from checkpoint.langgraph import HoldfastSaver
from persistence import PostgreSQLConfig
from persistence.cli import COMMANDS, Output, main
from tests.langgraph_workflow import CONFIG, Workflow, report
from tests.servers import url_of
from tests.test_langgraph import made, named
from tests.test_langgraph_graphs import DONE
from tests.test_langgraph_import import histories
from tests.unasync import ROOT


@dataclass
class Book:
    """A class of a user's states."""

    title: str


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOLDFAST_FROM_URL", "HOLDFAST_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["postgresql", "sqlite"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """One of LangGraph's own savers, and the URL of its database."""
    if request.param == "postgresql":
        config: PostgreSQLConfig = request.getfixturevalue("postgresql_config")
        parameters = config.connection_parameters()
        with psycopg.connect(**parameters, autocommit=True, prepare_threshold=0, row_factory=dict_row) as connection:
            saver = PostgresSaver(connection)
            saver.setup()
            yield saver, url_of(config)
    else:
        with closing(sqlite3.connect(tmp_path / "their's ?.db", check_same_thread=False)) as file:
            saver = SqliteSaver(file)
            saver.setup()
            yield saver, f"sqlite:///{tmp_path}/their's %3f.db"


@pytest.fixture
def ours(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ours.db'}"


def put(saver: Any, thread: str, **values: Any) -> Any:
    """Put a checkpoint with a pending write."""
    checkpoint = made(values)
    stored = saver.put(
        named(thread), checkpoint, {"source": "input", "step": -1, "parents": {}}, dict.fromkeys(values, 1)
    )
    saver.put_writes(stored, [("seen", True)], "task")
    return stored


def run(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as exc:
        return int(exc.code or 0)


# import-langgraph


def test_a_graph_goes_on_with_its_history_where_it_was_imported_to(
    source: tuple[Any, str], ours: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, url = source
    workflow = Workflow(tmp_path / "journal")
    graph = workflow.build(theirs)
    graph.invoke({}, CONFIG)
    put(theirs, "other", a=np.array([1.5, float("nan")]), b={"list": [1, (2, 3)]})
    total = len(list(theirs.list(None)))
    for _ in range(2):  # the second run changes nothing
        assert run("import-langgraph", "--from", url, "--to", ours, "--verify", "--json") == 0
        output = capsys.readouterr()
        result = json.loads(output.out)
        assert output.err == ""
        assert (result["threads"], result["checkpoints"], result["verified"]) == (2, total, total)
        assert (result["differences"], result["dry_run"]) == ([], False)
        assert result["writes"] > 1
    with HoldfastSaver.from_url(ours) as saver:
        mine = workflow.build(saver)
        assert histories(mine) == histories(graph)
        mine.invoke(Command(resume="good"), CONFIG)
        assert report(mine.get_state(CONFIG)) == DONE


def test_progress_and_counts_are_told_to_people(
    source: tuple[Any, str], ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, url = source
    for thread in ("a", "b"):
        put(theirs, thread, x=thread)
    assert run("import-langgraph", "--from", url, "--to", ours, "--verify") == 0
    output = capsys.readouterr()
    assert output.err == "1 of 2: a\n2 of 2: b\n"
    first, second = output.out.splitlines()
    assert first.startswith("imported 2 threads, 2 checkpoints, 2 writes in ")
    assert second == "compared 2 checkpoints: 0 differ"


def test_a_dry_run_counts_and_makes_nothing(
    source: tuple[Any, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, url = source
    put(theirs, "a", x=1)
    put(theirs, "a", x=2)
    put(theirs, "b", x=3)
    before = sorted(os.listdir(tmp_path))
    assert run("import-langgraph", "--from", url, "--dry-run", "--json", "--to", f"sqlite:///{tmp_path}/ours.db") == 0
    result = json.loads(capsys.readouterr().out)
    del result["seconds"]
    assert result == {
        "threads": 2,
        "checkpoints": 3,
        "writes": 3,
        "dry_run": True,
        "verified": None,
        "differences": [],
    }
    assert sorted(os.listdir(tmp_path)) == before
    assert run("import-langgraph", "--from", url, "--dry-run", "--thread", "b") == 0
    assert capsys.readouterr().out.startswith("found 1 threads, 1 checkpoints, 1 writes")


def test_threads_are_chosen_and_come_under_a_tenant(
    source: tuple[Any, str], ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, url = source
    stored = {thread: put(theirs, thread, x=thread) for thread in ("a", "b", "c'; DROP TABLE checkpoints --", "-d*")}
    chosen = ["--thread", "b", "--thread", "c'; DROP TABLE checkpoints --", "--thread=-d*", "--thread", "b"]
    assert run("import-langgraph", "--from", url, "--to", ours, "--tenant", "acme", *chosen) == 0
    assert "imported 3 threads, 3 checkpoints, 3 writes" in capsys.readouterr().out
    with HoldfastSaver.from_url(ours, tenant="acme") as saver:
        assert saver.get_tuple(named("a")) is None
        for thread in ("b", "c'; DROP TABLE checkpoints --", "-d*"):
            assert saver.get_tuple(stored[thread]) == theirs.get_tuple(stored[thread])
    with HoldfastSaver.from_url(ours) as saver:
        assert list(saver.list(None)) == []
    assert run("import-langgraph", "--from", url, "--to", ours, "--thread", "b", "--thread", "ghost") == 1
    assert "no thread 'ghost'" in capsys.readouterr().err


def test_an_import_that_stopped_goes_on_when_it_is_run_again(
    source: tuple[Any, str], ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, url = source
    put(theirs, "a", x=1)
    put(theirs, "b", book=Book("Tides"))
    assert run("import-langgraph", "--from", url, "--to", ours) == 1
    assert "Book, which isn't registered" in capsys.readouterr().err
    with HoldfastSaver.from_url(ours) as saver:
        assert [each.config["configurable"]["thread_id"] for each in saver.list(None)] == ["a"]
    arguments = ("import-langgraph", "--from", url, "--to", ours, "--class", "tests.test_cli:Book", "--verify")
    assert run(*arguments) == 0
    with HoldfastSaver.from_url(ours, classes=[Book]) as saver:
        found = saver.get_tuple(named("b"))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"book": Book("Tides")}


def test_a_class_that_langgraph_may_not_make_is_refused_unless_it_is_given(
    source: tuple[Any, str], ours: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, url = source
    put(theirs, "a", book=Book("Tides"))
    # As LANGGRAPH_STRICT_MSGPACK makes it.
    monkeypatch.setattr(BaseCheckpointSaver, "serde", JsonPlusSerializer(allowed_msgpack_modules=None))
    assert run("import-langgraph", "--from", url, "--to", ours, "--verify") == 1
    assert "tests.test_cli.Book can't be made here" in capsys.readouterr().err
    assert run("import-langgraph", "--from", url, "--to", ours, "--class", "tests.test_cli:Book", "--verify") == 0
    with HoldfastSaver.from_url(ours, classes=[Book]) as saver:
        found = saver.get_tuple(named("a"))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"book": Book("Tides")}


def test_what_is_there_and_differs_is_found_by_verify(
    source: tuple[Any, str], ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, url = source
    stored = put(theirs, "a", x=1)
    assert run("import-langgraph", "--from", url, "--to", ours) == 0
    theirs.put_writes(stored, [("more", 2)], "another task")
    put(theirs, "b", x=1)
    with HoldfastSaver.from_url(ours) as saver:
        saver.put_writes(stored, [("other", 3)], "another task")
    capsys.readouterr()
    assert run("import-langgraph", "--from", url, "--to", ours, "--verify") == 3
    counts, compared, difference = capsys.readouterr().out.splitlines()
    assert counts.startswith("imported 2 threads")
    assert compared == "compared 2 checkpoints: 1 differ"
    assert difference == (f"thread 'a', checkpoint {stored['configurable']['checkpoint_id']}: another pending_writes")


def test_nothing_is_written_to_a_file_that_is_imported_from(tmp_path: Path, ours: str) -> None:
    with closing(sqlite3.connect(tmp_path / "theirs.db", check_same_thread=False)) as file:
        put(SqliteSaver(file), "a", x=1)
    before = (tmp_path / "theirs.db").read_bytes()
    os.chmod(tmp_path / "theirs.db", 0o400)
    assert run("import-langgraph", "--from", f"sqlite:///{tmp_path}/theirs.db", "--to", ours, "--verify") == 0
    assert (tmp_path / "theirs.db").read_bytes() == before


def test_urls_may_come_from_the_environment(
    source: tuple[Any, str], ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, url = source
    put(theirs, "a", x=1)
    monkeypatch.setenv("HOLDFAST_FROM_URL", url)
    monkeypatch.setenv("HOLDFAST_URL", ours)
    assert run("import-langgraph", "--verify") == 0
    with HoldfastSaver.from_url(ours) as saver:
        assert len(list(saver.list(None))) == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://me:hunter2@localhost/db", "'mysql' is no scheme known here"),
        ("nonsense", "no scheme known"),
        ("sqlite:////nowhere/at/all.db", "there is no file /nowhere/at/all.db"),
        ("postgresql://me:hunter2@127.0.0.1:1/db", "can't connect to"),
        ("postgresql://me:hunter2@localhost/db?colour=blue", "colour"),
    ],
)
def test_a_source_that_cannot_be_had_is_one_line_without_the_password(
    url: str, says: str, ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("import-langgraph", "--from", url, "--to", ours) == 1
    output = capsys.readouterr()
    assert says in output.err
    assert output.err.startswith("holdfast: ")
    assert output.err.count("\n") == 1
    assert "hunter2" not in output.err + output.out


def test_a_database_without_their_tables_says_so(
    tmp_path: Path, postgresql_config: PostgreSQLConfig, ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "noise.db").write_bytes(b"this is not a database at all, not even nearly" * 30)
    for url in (url_of(postgresql_config), f"sqlite:///{tmp_path}/empty.db"):
        assert run("import-langgraph", "--from", url, "--to", ours) == 1
        assert "has no checkpoints of LangGraph" in capsys.readouterr().err
    assert run("import-langgraph", "--from", f"sqlite:///{tmp_path}/noise.db", "--to", ours) == 1
    assert "noise.db: file is not a database" in capsys.readouterr().err
    unknown = url_of(replace(postgresql_config, database="nowhere_at_all"))
    assert run("import-langgraph", "--from", unknown, "--to", ours) == 1
    assert 'database "nowhere_at_all" does not exist' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nowhere:Book", "tests.test_cli:Ghost", "tests.test_cli:put", "Book", ":", ""])
def test_a_class_that_cannot_be_found_is_named(name: str, ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import-langgraph", "--from", ours, "--to", ours, f"--class={name}") == 1
    assert f"--class {name}" in capsys.readouterr().err


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None  # as where it isn't installed
from persistence.cli import main
raise SystemExit(main(["import-langgraph", "--from", sys.argv[2], "--to", "sqlite:///ours.db"]))
"""


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("langgraph", 'pip install "holdfast[langgraph]"'),
        ("langgraph.checkpoint.sqlite", "pip install langgraph-checkpoint-sqlite"),
    ],
)
def test_what_is_not_installed_is_named_with_the_way_to_get_it(tmp_path: Path, missing: str, hint: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing, "sqlite:///theirs.db"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"holdfast: {missing}")
    assert done.stderr.endswith(f" is not installed ({hint})\n")


# The command itself


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--help",), 0),
        (("no-such-command",), 2),
        (("import-langgraph", "--help"), 0),
        (("import-langgraph",), 2),
        (("import-langgraph", "--from", "sqlite:///a.db"), 2),
        (("import-langgraph", "--from", "sqlite:///a.db", "--to", "sqlite:///b.db", "--colour"), 2),
    ],
)
def test_a_wrong_command_line_is_code_2_and_help_is_0(arguments: tuple[str, ...], code: int) -> None:
    assert run(*arguments) == code


def test_the_script_and_the_module_are_one_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["holdfast"].partition(":")
    assert getattr(import_module(module), name) is main
    done = subprocess.run(
        [sys.executable, "-m", "persistence", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for command in COMMANDS:
        assert command in done.stdout


def test_every_command_is_there_and_documented() -> None:
    for target, summary in COMMANDS.values():
        module, _, name = target.partition(":")
        command = getattr(import_module(module), name)
        assert command.__doc__
        assert summary
        command().add_arguments(argparse.ArgumentParser())


PLUGIN = """
class Greet:
    def add_arguments(self, parser):
        parser.add_argument("name")

    def run(self, arguments, output):
        if arguments.name == "nobody":
            raise KeyboardInterrupt
        output.progress("thinking")
        output.result({"greeting": arguments.name}, f"hello {arguments.name}")
        return 0
"""


def test_another_distribution_brings_a_command_by_an_entry_point(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[holdfast.commands]\ngreet = plugin:Greet\n")

    def greet(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "persistence", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert "greet" in greet("--help")[1]
    assert greet("greet", "Ada") == (0, "hello Ada\n", "thinking\n")
    assert greet("greet", "Ada", "--json") == (0, '{"greeting": "Ada"}\n', "")
    assert greet("greet", "nobody") == (130, "", "holdfast: interrupted\n")


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing to do."""


def test_progress_in_a_terminal_is_one_line_that_changes() -> None:
    stdout: Any = Terminal()
    stderr: Any = Terminal()
    output = Output(as_json=False, stdout=stdout, stderr=stderr)
    output.progress("1 of 2")
    output.progress("2 of 2 " + "x" * 500)
    output.result({}, "done")
    assert stderr.text == "\r\x1b[K1 of 2\r\x1b[K2 of 2 " + "x" * 153 + "\n"
    assert stdout.text == "done\n"
