"""The power goes right after a commit was acknowledged: the disk has what was flushed, and no more than that.

A program that saves runs under ``strace``, and its calls are replayed: of each file there is what was written and what
was flushed. After each acknowledgement the flushed files are opened as after a power cut. Saves that don't wait for the
disk (``synchronous="NORMAL"``) are the control: they must be lost. Skipped by name where ``strace`` is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from persistence import DatabaseManager
from tests.unasync import ROOT

SAVES = 200 if os.environ.get("HOLDFAST_FAULTS") == "full" else 12

PROGRAM = """
import os, sys
from persistence import DatabaseManager, SQLiteConfig

with DatabaseManager() as manager:
    database = manager.add_sqlite("main", SQLiteConfig(path=sys.argv[1], synchronous=sys.argv[2]))
    for n in range(int(sys.argv[3])):
        database.execute("INSERT INTO t (id, body) VALUES (:id, :body)", {"id": n, "body": f"{n} " + "x" * 3000})
        os.write(1, f"saved {n}\\n".encode())
"""

# With -y a call shows the path of its file; with -xx all bytes are in hexadecimal.
_WRITE = re.compile(r'^pwrite64\(\d+<([^>]+)>, "((?:\\x[0-9a-f]{2})*)", \d+, (\d+)\)')
_FLUSH = re.compile(r"^f(?:data)?sync\(\d+<([^>]+)>\)\s+= 0")
_CUT = re.compile(r"^ftruncate\(\d+<([^>]+)>, (\d+)\)\s+= 0")
_TOLD = re.compile(r'^write\(1<[^>]*>, "((?:\\x[0-9a-f]{2})*)"')


def name_of(path: str) -> str:
    """Return the name of a file; strace writes paths in hexadecimal, too."""
    plain = bytes.fromhex(path.replace("\\x", "")).decode() if path.startswith("\\x") else path
    return Path(plain).name


def power_cuts(trace: Path, files: dict[str, bytearray]) -> Iterator[tuple[int, dict[str, bytearray]]]:
    """Yield, for each save that was acknowledged, its number and what of the files was flushed before."""
    written = {name: bytearray(data) for name, data in files.items()}
    flushed = {name: bytearray(data) for name, data in files.items()}
    for line in trace.read_text().splitlines():
        if found := _WRITE.match(line):
            file = written.setdefault(name_of(found[1]), bytearray())
            data, place = bytes.fromhex(found[2].replace("\\x", "")), int(found[3])
            file.extend(bytes(max(0, place - len(file))))
            file[place : place + len(data)] = data
        elif found := _CUT.match(line):
            file = written.setdefault(name_of(found[1]), bytearray())
            size = int(found[2])
            del file[size:]
            file.extend(bytes(size - len(file)))
        elif found := _FLUSH.match(line):
            name = name_of(found[1])
            if name in written:
                flushed[name] = bytearray(written[name])
        elif found := _TOLD.match(line):
            text = bytes.fromhex(found[1].replace("\\x", "")).decode()
            yield int(text.split()[1]), flushed


def lost_after_cuts(folder: Path, synchronous: str) -> tuple[int, int]:
    """Return after how many power cuts something acknowledged was missing, and how many cuts there were."""
    folder.mkdir()
    path, trace, after = folder / "main.db", folder / "trace", folder / "after"
    with DatabaseManager() as manager:
        database = manager.add_sqlite("main", f"sqlite:///{path}")
        database.execute("CREATE TABLE t (id integer PRIMARY KEY, body text NOT NULL)")
    before = {path.name: bytearray(path.read_bytes())}
    command = ["strace", "-qq", "-y", "-xx", "-s", "1000000", "-o", str(trace)]
    command += ["-e", "trace=pwrite64,fsync,fdatasync,ftruncate,write", sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        [*command, str(path), synchronous, str(SAVES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if not done.stdout and "ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    lost = cuts = 0
    for number, flushed in power_cuts(trace, before):
        shutil.rmtree(after, ignore_errors=True)
        after.mkdir()
        for name, data in flushed.items():
            (after / name).write_bytes(data)
        with closing(sqlite3.connect(after / path.name)) as plain:
            assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = plain.execute("SELECT id, body FROM t ORDER BY id").fetchall()
        assert rows == [(n, f"{n} {'x' * 3000}") for n in range(len(rows))]
        lost += len(rows) <= number
        cuts += 1
    return lost, cuts


def test_after_a_power_cut_at_any_moment_all_that_was_acknowledged_is_there(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    lost, cuts = lost_after_cuts(tmp_path / "full", "FULL")
    print(f"synchronous=FULL: {lost} of {cuts} cuts lost something")
    assert (lost, cuts) == (0, SAVES)
    lost, cuts = lost_after_cuts(tmp_path / "normal", "NORMAL")
    print(f"synchronous=NORMAL: {lost} of {cuts} cuts lost something")
    assert cuts == SAVES
    assert lost > SAVES // 2  # the control
