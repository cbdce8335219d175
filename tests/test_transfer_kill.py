"""A copy whose program is killed goes on when it is started again, and everything is there once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from persistence import DatabaseManager, PostgreSQLConfig, TenantArchive, Transfer
from persistence.cli import main
from sessions import Message, MessageStore, Thread, ThreadManager
from tests.servers import url_of
from tests.unasync import ROOT


@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
def test_a_killed_copy_goes_on_and_repeats_nothing(
    source: str, tmp_path: Path, postgresql_config: PostgreSQLConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [f"sqlite:///{tmp_path / 'app.db'}", url_of(postgresql_config)]
    if source == "postgresql":
        urls.reverse()
    with DatabaseManager() as manager:
        manager.add("source", urls[0])
        manager.add("target", urls[1])
        threads, messages = ThreadManager(manager, "source"), MessageStore(manager, "source")
        for name in ("t1", "t2"):
            threads.create_thread(Thread(id=name, user_id="ada"))
            messages.append_many(name, [Message(role="user", content=[name, n]) for n in range(300)])
        names = tmp_path / "holdfast.toml"
        names.write_text(f'[connections]\nold = "{urls[0]}"\nnew = "{urls[1]}"\n')
        arguments = ["copy", "--from", "old", "--to", "new", "--config", str(names), "--only", "sessions"]
        arguments += ["--batch-rows", "20"]
        rows = [kill_after(arguments, "holdfast_messages", manager) for _ in range(2)]
        assert 0 < rows[0] < rows[1] < 600
        assert main([*arguments, "--verify", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["differences"] == []
        assert {each["name"]: each["rows"] for each in found["tables"]}["holdfast_messages"] == 600
        copied = MessageStore(manager, "target")
        for name in ("t1", "t2"):
            assert copied.list_messages(name, limit=1000) == messages.list_messages(name, limit=1000)
        assert Transfer(manager.get_database("source"), manager.get_database("target")).verify() == ()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_killed_import_leaves_nothing_and_is_repeated(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'target.db'}"
    if kind == "postgresql":
        url = url_of(request.getfixturevalue("postgresql_config"))
    with DatabaseManager() as manager:
        manager.add("source", f"sqlite:///{tmp_path / 'source.db'}")
        manager.add("target", url)
        threads, messages = ThreadManager(manager, "source"), MessageStore(manager, "source")
        threads.create_thread(Thread(id="t", user_id="ada"))
        messages.append_many("t", [Message(role="user", content=n) for n in range(3500)])
        TenantArchive(manager.get_database("source")).export(tmp_path / "file.jsonl")
        arguments = ["import", str(tmp_path / "file.jsonl"), "--url", url]
        assert kill_after(arguments, "holdfast_messages", manager, told=2) == 0
        assert manager.get_database("target").fetch_value("SELECT count(*) FROM holdfast_threads") == 0
        assert main([*arguments, "--verify", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["differences"] == []
        assert MessageStore(manager, "target").last("t", 3500) == messages.last("t", 3500)


DYING = """
import io, os, signal, sys
from persistence.cli import main

class Dying(io.TextIOWrapper):
    told = 0

    def write(self, text):
        Dying.told += text.startswith(sys.argv[1])
        if Dying.told == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(text)

sys.stderr = Dying(sys.stderr.buffer)
sys.exit(main(sys.argv[3:]))
"""


def kill_after(arguments: list[str], table: str, manager: DatabaseManager, *, told: int = 5) -> int:
    """Have the command killed when it tells of a batch of a table, and return how many of its rows are there."""
    command = [sys.executable, "-c", DYING, f"{table}: ", str(told), *arguments]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return int(manager.get_database("target").fetch_value(f"SELECT count(*) FROM {table}"))
