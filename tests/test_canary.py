"""A test in which the servers' password shows fails, wherever it shows, and the run's servers have that password."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from persistence import PostgreSQLConfig, RedisConfig
from persistence.fields import reveal
from tests.canary import CANARY
from tests.unasync import ROOT

TESTS = """
import logging, sys, warnings
from datetime import datetime
import pytest
from persistence import ConnectError, HealthStatus
from tests.canary import CANARY

def test_log(): logging.getLogger("persistence.pool").debug("dialling %s", "x" + CANARY)
def test_cause():
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("anything").exception("it failed")
def test_output(): print(f"redis://:{CANARY}@h")
def test_error_output(): sys.stderr.write(CANARY)
def test_error():
    with pytest.raises(ConnectError):
        raise ConnectError("refused", hint=f"try {CANARY}")
def test_health(): HealthStatus("a", "redis", False, 0.1, datetime.now(), error=CANARY)
def test_file(tmp_path): (tmp_path / "dump.json").write_text(CANARY)
def test_assertion(): assert "x" == CANARY
def test_allowed(tmp_path): (tmp_path / "password").write_text(CANARY)
def test_quiet(tmp_path): (tmp_path / "dump.json").write_text("nothing")
"""


def test_a_password_that_shows_anywhere_fails_the_test_in_which_it_does(tmp_path: Path) -> None:
    (tmp_path / "test_shows.py").write_text(TESTS)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOLDFAST_TEST_CANARY": "CANARY-of-another-run",
        "COLUMNS": "300",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "tests.canary", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, "--rootdir=.", "test_shows.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    outcomes = dict(
        re.findall(r"^(?:FAILED|ERROR|PASSED) test_shows\.py::(\w+)(?: - (.*))?$", ran.stdout, re.MULTILINE)
    )
    assert outcomes == {
        "test_log": "the servers' password is in a record of the log persistence.pool, Captured log call",
        "test_cause": "the servers' password is in a record of the log anything, Captured log call",
        "test_output": "the servers' password is in Captured stdout call",
        "test_error_output": "the servers' password is in Captured stderr call",
        "test_error": "the servers' password is in a ConnectError",
        "test_health": "the servers' password is in a HealthStatus",
        "test_file": "the servers' password is in the file dump.json",
        "test_assertion": "the servers' password is in the report",
        "test_allowed": "",
        "test_quiet": "",
    }, ran.stdout


def test_the_servers_of_the_run_have_the_password(
    postgresql_config: PostgreSQLConfig, redis_config: RedisConfig
) -> None:
    for config, variable in ((postgresql_config, "HOLDFAST_TEST_POSTGRES"), (redis_config, "HOLDFAST_TEST_REDIS")):
        if variable not in os.environ:
            assert reveal(config.password) == CANARY
