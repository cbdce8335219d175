"""How a SQLite file is made and opened, so that many programs may do so at once."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from time import monotonic

from persistence.config import SQLiteConfig
from persistence.fields import milliseconds, seconds


def open_file(config: SQLiteConfig, read_only: bool, deadline: float) -> sqlite3.Connection:
    """Open the file, or memory, and make it if it isn't there; the connection has what ``config`` says.

    It waits for others until ``deadline`` (monotonic seconds), and no longer than the busy timeout.

    Raises:
        sqlite3.Error: it can't be opened, or is no database.
        OSError: it can't be made.
    """
    path, in_memory = config.path, config.path == ":memory:"
    if not in_memory and not config.read_only:
        _make_private(os.path.realpath(path))
    location = path if in_memory else _file_uri(path, config.read_only)
    busy = seconds(config.busy_timeout)
    raw = sqlite3.connect(
        location,
        timeout=max(0.001, min(busy, deadline - monotonic())),
        isolation_level=None,
        check_same_thread=False,
        uri=not in_memory,
        cached_statements=256,
    )
    try:
        raw.execute(f"PRAGMA busy_timeout = {milliseconds(busy)}")
        if not in_memory and not config.read_only:
            _use_write_ahead_log(raw, min(deadline, monotonic() + busy))
        raw.execute(f"PRAGMA synchronous = {config.synchronous}")
        # Libraries are built with either, and ours shouldn't depend on whose it is.
        raw.execute(f"PRAGMA secure_delete = {'ON' if config.secure_delete else 'OFF'}")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA temp_store = MEMORY")
        raw.execute(f"PRAGMA cache_size = -{config.cache_size}")
        raw.execute(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")
        raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        raw.close()
        raise
    return raw


def is_missing(config: SQLiteConfig) -> bool:
    """Tell whether a file that is only read, and so never made, isn't there."""
    return config.read_only and config.path != ":memory:" and not os.path.exists(config.path)


def _use_write_ahead_log(raw: sqlite3.Connection, until: float) -> None:
    """Have the file keep a write-ahead log, trying until ``until`` (monotonic seconds).

    The first to open a new file changes it, and that needs the file alone: where two do so at once, SQLite doesn't wait
    but says to one of them that the file is locked, whatever its busy_timeout.
    """
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
        time.sleep(0.002)


def _make_private(path: str) -> None:
    """Make the file, for its owner alone, unless it is there.

    It is made under another name and linked, and never opened here once it is a database: closing any descriptor of a
    file drops every lock that SQLite holds on it in this process (POSIX), and then another process may take the
    write-ahead log away from under it.
    """
    if os.path.exists(path):
        return
    descriptor, draft = tempfile.mkstemp(prefix=".holdfast-", dir=os.path.dirname(path))
    os.close(descriptor)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another made it meanwhile
    except OSError:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # a file system without links
    finally:
        os.unlink(draft)


def _file_uri(path: str, read_only: bool) -> str:
    escaped = os.path.abspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file://{escaped}?mode={'ro' if read_only else 'rw'}"
