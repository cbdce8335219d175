"""What several of these tests share: where the database is, the programs, ended with the test, and the chance."""

from __future__ import annotations

import os
import random
import secrets
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


@pytest.fixture
def chance() -> random.Random:
    """The moments of the faults; pytest shows the seed when the test fails."""
    seed = os.environ.get("HOLDFAST_FAULT_SEED") or secrets.token_hex(4)
    print(f"HOLDFAST_FAULT_SEED={seed}")
    return random.Random(seed)
