"""What somebody meets who has never used ``holdfast``: wrong paths, wrong numbers, empty databases, a closed pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from persistence import DatabaseManager
from persistence.cli import COMMANDS, main
from tests.unasync import ROOT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no connection in the environment."""
    for name in ("HOLDFAST_URL", "HOLDFAST_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Return the exit code, and the JSON that the command wrote, or else what it said."""
    code = main([*arguments, "--json"])
    told = capsys.readouterr()
    return code, json.loads(told.out) if told.out else told.err


def make(path: str = "app.db") -> str:
    """Make a database without tables and return its URL."""
    with DatabaseManager() as manager:
        manager.add("main", f"sqlite:///{path}")
    return f"sqlite:///{path}"


@pytest.mark.parametrize(
    "given",
    [
        ("stats",),
        ("threads",),
        ("checkpoints", "t"),
        ("prune", "--keep-last", "1"),
        ("search", "words"),
        ("backup", "file"),
        ("export", "file"),
        ("export", "messages", "file", "--of", "t"),
        ("export", "user", "file", "--of", "u"),
        ("copy", "--from", "sqlite:///wrong.db", "--to", "sqlite:///new.db"),
    ],
    ids=lambda given: " ".join(given[:2]),
)
def test_a_path_that_is_wrong_is_an_error_and_makes_no_file(
    given: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = () if given[0] == "copy" else ("--url", "sqlite:///wrong.db")
    code, told = run(capsys, *given, *connection)
    assert (code, "can't open SQLite file" in told) == (1, True), told
    assert "wrong.db" in told
    assert [path for path in folder.iterdir() if path.name != "new.db"] == []


def test_health_of_a_file_that_is_not_there_is_ill(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = run(capsys, "health", "--url", f"a={make()}", "--url", "b=sqlite:///wrong.db")
    assert (code, [each["healthy"] for each in told["health"]]) == (3, [True, False])
    assert told["health"][1]["error"] == (
        "can't open SQLite file wrong.db: there is no such file (holdfast migrate up makes it; or check the path)"
    )
    assert sorted(path.name for path in folder.glob("*.db")) == ["app.db"]


def test_looking_at_a_database_does_not_change_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    url = make()
    for given in (("threads",), ("prune", "--keep-last", "1"), ("export", "messages", "file", "--of", "t")):
        code, told = run(capsys, *given, "--url", url)
        assert (code, "holdfast migrate up" in told) == (1, True), told
    assert run(capsys, "search", "words", "--url", url) == (
        1,
        "holdfast: main: there is no collection 'documents'\n",
    )
    for given in (("stats",), ("doctor",), ("export", "all.jsonl")):
        assert run(capsys, *given, "--url", url)[0] == 0
    with DatabaseManager() as manager:
        assert manager.add_sqlite("main", url).fetch_value("SELECT count(*) FROM sqlite_master") == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("health", "--watch", "0"), "'0' is no number above 0"),
        (("health", "--watch", "nan"), "'nan' is no number above 0"),
        (("health", "--timeout", "-1"), "'-1' is no number above 0"),
        (("health", "--times", "0"), "'0' is no whole number of at least 1"),
        (("stats", "--limit", "0"), "'0' is no whole number of at least 1"),
        (("threads", "--limit", "1.5"), "'1.5' is no whole number of at least 1"),
        (("prune", "--keep-last", "-1"), "'-1' is no whole number of at least 1"),
        (("prune", "--older-than", "x"), "'x' is no number above 0"),
        (("search", "words", "-k", "0"), "'0' is no whole number of at least 1"),
        (("migrate", "up", "--to", "-1"), "'-1' is no whole number of at least 0"),
        (("demo", "--steps", "0"), "'0' is no whole number of at least 2"),
        (("copy", "--from", "a", "--to", "b", "--batch-rows", "0"), "'0' is no whole number of at least 1"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_a_number_that_is_none_is_wrong_usage(
    given: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(given)
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("prune", "--url", "sqlite://"), 2, "prune what? (--keep-last N, --older-than DAYS, or both)"),
        (("health", "--url", "sqlite://", "--url", "sqlite:///b.db"), 1, "two connections are named main"),
        (("health", "--url", "app.db"), 1, "the URL has no scheme (sqlite:///file.db"),
        (("copy", "--from", "sqlite:///a.db", "--to", "sqlite:///./a.db"), 1, "are the same database"),
        (("import", "none.jsonl", "--url", "sqlite:///a.db"), 1, "none.jsonl can't be read: No such file or directory"),
    ],
    ids=["prune", "twice", "no scheme", "onto itself", "no file"],
)
def test_what_is_wrong_is_named_with_the_way_out(
    given: tuple[str, ...], code: int, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == code
    assert said in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_the_version_and_the_exit_codes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--version"], ["--help"], ["copy", "--help"]):
        with pytest.raises(SystemExit) as raised:
            main(given)
        assert raised.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith(f"holdfast {version('holdfast')} ")
    assert "Exit codes: 0 done; 1 it failed" in told
    assert "Exit code 3: the sides differ." in told


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_help_says_what_the_command_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([name, "--help"])
    assert raised.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"usage: holdfast {name} " in told
    if "--url [NAME=]URL" in told:
        assert "sqlite:///file.db" in told


def test_a_reader_that_goes_away_ends_the_command_in_silence(folder: Path) -> None:
    command = [sys.executable, "-m", "persistence", "health", "--url", make(), "--watch", "0.01"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=folder
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert (process.wait(30), process.stderr.read()) == (141, b"")


def test_a_full_disk_and_letters_that_a_terminal_lacks_are_no_traceback(folder: Path) -> None:
    url = make()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "persistence", "search", "ü", "--collection", "bücher", "--url", url]
    found = subprocess.run(command, capture_output=True, env=environment, cwd=folder, check=False)
    assert (found.returncode, found.stderr) == (1, b"holdfast: main: there is no collection 'b\\xfccher'\n")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "persistence", "stats", "--url", url]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, cwd=folder, check=False)
    assert (found.returncode, found.stderr) == (1, b"holdfast: No space left on device\n")
