"""A holder of a lease that is stopped for longer than the lease: its fencing token holds off what it then writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from persistence import DatabaseManager, LeaseLock, SQLiteConfig
from tests.unasync import ROOT

HOLDER = """
import sys
from persistence import DatabaseManager, LeaseLock

with DatabaseManager() as manager:
    database = manager.add_sqlite("main", "sqlite:///" + sys.argv[1])
    lease = LeaseLock(manager, "main", "l", ttl=0.3)
    fence = lease.acquire()
    print(fence, flush=True)
    sys.stdin.readline()  # stopped here
    unfenced = database.execute("UPDATE t SET unfenced = 'late'")
    fenced = database.execute("UPDATE t SET v = 'late', fence = :fence WHERE fence <= :fence", {"fence": fence})
    print(unfenced, fenced, lease.held, lease.release(), flush=True)
"""


def test_the_token_of_a_holder_that_was_stopped_is_refused_where_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "main.db"
    with DatabaseManager() as manager:
        database = manager.add_sqlite("main", SQLiteConfig(path=str(path)))
        database.execute("CREATE TABLE t (v text, unfenced text, fence integer)")
        database.execute("INSERT INTO t VALUES ('first', 'first', 0)")
        command = [sys.executable, "-c", HOLDER, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            try:
                assert holder.stdout.readline() == "1\n"
                os.kill(holder.pid, signal.SIGSTOP)
                with LeaseLock(manager, "main", "l", timeout=20) as lease:
                    assert lease.fence == 2
                    written = {"fence": lease.fence}
                    database.execute("UPDATE t SET v = 'second', unfenced = 'second', fence = :fence", written)
                    os.kill(holder.pid, signal.SIGCONT)
                    holder.stdin.write("\n")
                    holder.stdin.flush()
                    assert holder.stdout.readline() == "1 0 False False\n"
                    assert lease.held
            finally:
                holder.kill()
        # The control: without the token the late write went through.
        assert database.fetch_all("SELECT * FROM t") == [{"v": "second", "unfenced": "late", "fence": 2}]


def test_a_holder_that_is_killed_gives_the_lease_back_by_time(tmp_path: Path) -> None:
    path = tmp_path / "main.db"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "1\n"
        holder.kill()
    with DatabaseManager() as manager:
        manager.add_sqlite("main", SQLiteConfig(path=str(path)))
        assert LeaseLock(manager, "main", "l").acquire(timeout=20) == 2
