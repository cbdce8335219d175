"""The password of the run's servers, looked for in all that the tests and the code under them say and write.

A test in which it shows fails: in a log record of any level, on standard output or error, in a warning, in one of our
errors or health statuses (also one that was caught), in pytest's report, in a file. Where it must be is in ALLOWED.
``conftest`` takes these hooks over; as a plugin, ``-p tests.canary`` has them alone.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from persistence import HealthStatus, PersistenceError
from persistence._owned_server import write_private

_VARIABLE = "HOLDFAST_TEST_CANARY"
CANARY = os.environ.setdefault(_VARIABLE, f"CANARY-{secrets.token_hex(12)}")
"""The password; the workers of a run have the same."""
ALLOWED = frozenset(("password", "users.txt", "state.json", "holdfast.toml"))
"""Files that hold a password for a server or for ``holdfast`` to read, beside those that end in ``.conf``."""
LOGGERS = ("persistence", "checkpoint", "vectorstore", "sessions")
"""Whose records of any level are looked at; of others those that are not below INFO."""
MOST_FILES, MOST_BYTES = 200, 256 * 1024
"""How many files of a test are looked into, and how large they may be."""

_found: list[str] = []


def look(where: str, text: str) -> None:
    """Take note when the password is in a text."""
    if CANARY in text:
        _found.append(where)


def give_password(folder: Path) -> None:
    """Have the embedded server that is to be in a new folder ask for the password."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "password").exists():
        write_private(folder / "password", CANARY)
        (folder / "start.lock").touch(mode=0o600)  # by which a folder shows that it is a server's


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        look(f"a record of the log {record.name}", f"{self.format(record)}{record.args!r}")


def _watch(kind: type[Any]) -> None:
    """Look at each object of a class when it is made."""
    made = kind.__init__

    @functools.wraps(made)
    def watched(self: Any, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        look(f"a {type(self).__name__}", f"{args!r}{options!r}{self!r}{self}")

    kind.__init__ = watched  # type: ignore[misc]


def look_into(folder: Path) -> None:
    """Look into the files of a folder."""
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if count >= MOST_FILES:
                return
            if (
                name in ALLOWED
                or path.suffix == ".conf"
                or path.is_symlink()
                or not path.is_file()
                or path.stat().st_size > MOST_BYTES
            ):
                continue
            count += 1
            try:
                look(f"the file {path.name}", path.read_bytes().decode(errors="replace"))
            except OSError:
                continue  # it was gone, or nobody may read it


def pytest_configure(config: pytest.Config) -> None:
    """Begin to look."""
    logging.getLogger().addHandler(_Handler())
    logging.getLogger().setLevel(logging.INFO)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    _watch(PersistenceError)
    _watch(HealthStatus)


def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """Look at a warning."""
    look("a warning", str(warning_message.message))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Look into a test's folder, before it goes."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if folder is not None:
        look_into(folder)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look at what a test said, and have it fail where the password is."""
    report = yield
    look("the report", report.longreprtext)
    for name, text in report.sections:
        if name.endswith(report.when):
            look(name, text)
    if _found:
        report.outcome = "failed"
        report.longrepr = f"the servers' password is in {', '.join(dict.fromkeys(_found))}"
        _found.clear()
    return report
