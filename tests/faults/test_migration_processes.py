"""Programs that migrate one database at the same time, and programs that are killed while they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from persistence import DatabaseManager, MigrationLine, Migrator
from tests.unasync import ROOT

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
PROGRAMS = 16 if FULL else 6
KILLS = 12 if FULL else 3

PROGRAM = """
import sys
from pathlib import Path
from persistence import DatabaseManager, MigrationLine, Migrator

url, folder = sys.argv[1:]
with DatabaseManager() as manager:
    manager.add("main", url)
    migrator = Migrator(manager.get_database("main"))
    print("ready", flush=True)
    sys.stdin.readline()
    for migration in migrator.up(MigrationLine("app", Path(folder)), lock_timeout=60):
        print(migration, flush=True)
"""


def write(folder: Path, count: int, rows: int) -> MigrationLine:
    """Write migrations that each make a table and fill it, row by row."""
    for kind in ("postgresql", "sqlite"):
        (folder / kind).mkdir(parents=True)
        for number in range(1, count + 1):
            inserts = "\n".join(f"INSERT INTO t{number} VALUES ({row});" for row in range(rows))
            text = f"-- up\nCREATE TABLE t{number} (n integer);\n{inserts}\n-- down\nDROP TABLE t{number};\n"
            (folder / kind / f"{number:04}_t.sql").write_text(text)
    return MigrationLine("app", folder)


def start(url: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def go(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    program.stdin.write("go\n")
    program.stdin.flush()


def test_of_many_programs_that_start_at_once_each_migration_is_applied_by_one(
    url: str, tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    write(tmp_path / "app", 3, 5)
    programs += [start(url, tmp_path / "app") for _ in range(PROGRAMS)]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        go(program)
    applied = [line for program in programs for line in program.communicate(timeout=90)[0].split()]
    assert sorted(applied) == ["app/0001_t", "app/0002_t", "app/0003_t"]
    assert {program.returncode for program in programs} == {0}


def test_programs_killed_while_they_migrate_leave_whole_migrations_behind(
    url: str, tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    rows = 400
    line = write(tmp_path / "app", 6, rows)
    with DatabaseManager() as manager:
        manager.add("main", url)
        database = manager.get_database("main")
        migrator = Migrator(database)
        seen = 0
        for _ in range(KILLS):
            program = start(url, tmp_path / "app")
            programs.append(program)
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            go(program)
            while migrator.status(line).current == seen and program.poll() is None:
                pass  # until it has applied one more
            program.send_signal(signal.SIGKILL)
            program.wait()
            seen = migrator.status(line).current
            for number in range(1, 7):
                if number <= seen:
                    assert database.fetch_value(f"SELECT count(*) FROM t{number}") == rows
            assert migrator.validate(line) == ()
        assert seen >= 1
        migrator.up(line)
        assert [database.fetch_value(f"SELECT count(*) FROM t{number}") for number in range(1, 7)] == [rows] * 6
        assert migrator.validate(line) == ()
