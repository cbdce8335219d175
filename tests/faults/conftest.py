"""What the tests of several programs share: where their database is, and the programs, ended with the test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import url_of


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "postgresql":
        return url_of(request.getfixturevalue("postgresql_config"))
    return f"sqlite:///{tmp_path}/main.db"


@pytest.fixture
def programs() -> Iterator[list[subprocess.Popen[str]]]:
    """The programs of a test, ended with it."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for program in running:
        program.kill()
        program.communicate()
