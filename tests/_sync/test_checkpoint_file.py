# Generated from ../_async/test_checkpoint_file.py by tests/unasync.py: edit that one.
"""The checkpointer on a file of its own: the file, its modes, who else uses it, and what closes it.

The contract itself runs on SQLite files in test_checkpointer.py and its neighbours.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from checkpoint import Checkpointer, FileCheckpointer, Checkpoint, Serializer
from persistence import Cipher, ClosedError, ConnectError, CorruptError, ValidationError
from tests._sync.side import together
from tests.unasync import ROOT

STATE = {"messages": ["hello", "naïve \0 \ud800"], "step": 1, "long": "x" * 5000}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_and_its_folder_are_made_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state" / "checkpoints.db"
    checkpointer = FileCheckpointer(path)
    assert isinstance(checkpointer, Checkpointer)
    assert checkpointer.path == str(path)
    with checkpointer:
        saved = checkpointer.save_checkpoint(Checkpoint("t", STATE))
        assert (checkpointer.load_checkpoint("t")) == saved
        assert {each.name: mode(each) for each in path.parent.iterdir()} == {
            "checkpoints.db": 0o600,
            "checkpoints.db-wal": 0o600,
            "checkpoints.db-shm": 0o600,
        }
        assert mode(path.parent) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["checkpoints.db"]  # closed, so the log is folded in


def test_what_was_saved_is_there_when_the_file_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with FileCheckpointer("relative.db", tenant="a") as first:
        saved = [first.save_checkpoint(Checkpoint("t", {**STATE, "n": n})) for n in range(3)]
    monkeypatch.chdir("/")
    with FileCheckpointer(tmp_path / "relative.db", tenant="a") as again:
        assert again.list_checkpoints("t", states=True) == saved[::-1]
        assert (again.save_checkpoint(Checkpoint("t", STATE))).version == 4
    with FileCheckpointer(tmp_path / "relative.db") as other:
        assert other.list_threads() == []
    with closing(sqlite3.connect(tmp_path / "relative.db")) as plain:
        rows = plain.execute("SELECT tenant_id, thread_id, version FROM holdfast_checkpoints ORDER BY version")
        assert rows.fetchall() == [("a", "t", version) for version in (1, 2, 3, 4)]


def test_a_cipher_seals_what_is_in_the_file(tmp_path: Path) -> None:
    cipher = Cipher({"k1": b"k" * 32}, "k1")
    with FileCheckpointer(tmp_path / "one.db", cipher=cipher) as checkpointer:
        saved = checkpointer.save_checkpoint(Checkpoint("t", {"canary": "canary " * 99}))
    with FileCheckpointer(tmp_path / "one.db", cipher=cipher) as again:
        assert again.load_checkpoint("t") == saved
    assert b"canary" not in (tmp_path / "one.db").read_bytes()


def test_two_of_them_on_one_path_see_each_other_and_share_the_versions(tmp_path: Path) -> None:
    with FileCheckpointer(tmp_path / "one.db") as a, FileCheckpointer(tmp_path / "one.db") as b:

        def save(checkpointer: FileCheckpointer) -> list[int | None]:
            return [(checkpointer.save_checkpoint(Checkpoint("t", STATE))).version for _ in range(10)]

        found = together(lambda: save(a), lambda: save(b))
        assert sorted(version for versions in found for version in versions) == list(range(1, 21))
        assert a.load_checkpoint("t") == b.load_checkpoint("t")


OTHER = """
import sys
from checkpoint import Checkpoint, FileCheckpointer
with FileCheckpointer(sys.argv[1]) as checkpointer:
    print(checkpointer.load_checkpoint("t").version)
"""


def test_another_process_that_comes_and_goes_takes_nothing_away(tmp_path: Path) -> None:
    def seen_by_another() -> int:
        command = [sys.executable, "-c", OTHER, str(tmp_path / "one.db")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    with FileCheckpointer(tmp_path / "one.db") as checkpointer:
        for version in (1, 2, 3):
            checkpointer.save_checkpoint(Checkpoint("t", STATE))
            assert len(checkpointer.list_checkpoints("t")) == version
            # SQLite of the other process would take the log away as it closes, if it found no locks of this one.
            assert seen_by_another() == version
            assert (tmp_path / "one.db-wal").exists()


def test_what_is_held_back_is_saved_before_the_file_is_closed(tmp_path: Path) -> None:
    with FileCheckpointer(tmp_path / "one.db", durability="exit") as draft:
        for step in range(5):
            draft.save_checkpoint(Checkpoint("t", {"step": step}))
    with FileCheckpointer(tmp_path / "one.db") as again:
        assert [each.state for each in again.list_checkpoints("t", states=True)] == [{"step": 4}]


def test_the_file_is_closed_also_when_what_is_held_back_cannot_be_saved(tmp_path: Path) -> None:
    serializer = Serializer()
    path = tmp_path / "one.db"
    draft = FileCheckpointer(path, durability="exit", serializer=serializer)
    draft.save_checkpoint(Checkpoint("t", {}))
    path.write_bytes(b"not a database, but many words" * 100)
    with pytest.raises(CorruptError, match="not a database"):
        draft.close()
    with pytest.raises(ClosedError):
        draft.latest("t")
    assert draft.discard_held() == 1  # which would be told as lost otherwise


def test_a_closed_one_says_so_and_closing_twice_is_once(tmp_path: Path) -> None:
    checkpointer = FileCheckpointer(tmp_path / "one.db")
    checkpointer.save_checkpoint(Checkpoint("t", STATE))
    checkpointer.close()
    checkpointer.close()
    with pytest.raises(ClosedError):
        checkpointer.save_checkpoint(Checkpoint("t", STATE))
    with pytest.raises(ClosedError):
        checkpointer.list_threads()


@pytest.mark.parametrize("bad", ["", ":memory:", "a\0b", "\ud800", b"bytes.db", 7, None, ".", Path("/")], ids=repr)
def test_what_is_no_path_of_a_file_is_refused(bad: Any) -> None:
    with pytest.raises(ValidationError, match="path"):
        FileCheckpointer(bad)


def test_bad_options_make_nothing(tmp_path: Path) -> None:
    bad: Any
    for bad in ({"tenant": ""}, {"durability": "now"}):
        with pytest.raises(ValidationError):
            FileCheckpointer(tmp_path / "new" / "one.db", **bad)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConnectError, match=r"can't make the folder of .*one\.db: "):
        FileCheckpointer(tmp_path / "file" / "one.db")


def test_a_file_that_is_no_database_is_an_error_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"some notes, no database at all. " * 40)
    with FileCheckpointer(path) as checkpointer:
        with pytest.raises(CorruptError, match=r"notes\.txt"):
            checkpointer.save_checkpoint(Checkpoint("t", STATE))
    assert path.read_bytes() == b"some notes, no database at all. " * 40
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_path_may_hold_what_a_url_could_not(tmp_path: Path) -> None:
    path = tmp_path / "a ?#%20 é'\".db"
    with FileCheckpointer(path) as checkpointer:
        checkpointer.save_checkpoint(Checkpoint("t", STATE))
    assert os.listdir(tmp_path) == [path.name]
