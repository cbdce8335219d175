"""Behind PgBouncer in transaction mode: it is found by itself, and nothing depends on the session.

These tests need the program ``pgbouncer`` (Debian's package) and are skipped by that name where it isn't installed.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import (
    CapabilityError,
    DatabaseManager,
    Notice,
    PersistenceError,
    PostgreSQLConfig,
    PubSub,
    Secret,
)

pytestmark = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed")

EACH = 834 if os.environ.get("HOLDFAST_FAULTS") == "full" else 60
"""How many rows each of twelve threads inserts: 10,000 together in the long form."""


def reader_of(config: PostgreSQLConfig) -> str:
    """Return the name of the role that PgBouncer lets in beside the owner, by the password ``reader``."""
    return f"reader_{config.database[-12:]}"


@pytest.fixture
def pooled(postgresql_config: PostgreSQLConfig, open_folder: Path) -> Iterator[PostgreSQLConfig]:
    """The test's database, through a PgBouncer that shares two server connections among all clients."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert isinstance(postgresql_config.password, Secret)
    password = postgresql_config.password.reveal()
    (open_folder / "users.txt").write_text(
        f'"{postgresql_config.username}" "{password}"\n"{reader_of(postgresql_config)}" "reader"\n'
    )
    (open_folder / "pgbouncer.ini").write_text(
        "[databases]\n"
        f"* = host={postgresql_config.host} port={postgresql_config.port}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {open_folder}/users.txt\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 100\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    command = ["pgbouncer", "-q", str(open_folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        command[1:1] = ["-u", "nobody"]
        for path in open_folder.iterdir():
            shutil.chown(path, "nobody")
        os.chmod(postgresql_config.host, 0o755)
    with subprocess.Popen(command) as process:
        try:
            until = monotonic() + 5
            while monotonic() < until and process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    sleep(0.01)
            yield replace(postgresql_config, host="127.0.0.1", port=port)
        finally:
            process.terminate()


def test_a_pooler_is_found_and_prepared_statements_go_off(
    pooled: PostgreSQLConfig, postgresql_config: PostgreSQLConfig
) -> None:
    with DatabaseManager() as manager:
        assert manager.add_postgresql("pooled", pooled).capabilities().pooler
        assert not manager.add_postgresql("direct", postgresql_config).capabilities().pooler
        assert manager.add_postgresql("said", replace(postgresql_config, pooler=True)).capabilities().pooler
        for name, expected in (("pooled", None), ("direct", 5), ("said", None)):
            with manager.get_postgresql(name).transaction() as transaction:
                assert transaction._link.raw.prepare_threshold == expected


def test_notices_are_published_through_it_but_not_heard(
    pooled: PostgreSQLConfig, postgresql_config: PostgreSQLConfig
) -> None:
    with DatabaseManager() as manager:
        manager.add_postgresql("pooled", pooled)
        manager.add_postgresql("direct", postgresql_config)
        with (
            pytest.raises(CapabilityError, match="pooled: LISTEN hears nothing"),
            PubSub(manager, "pooled").subscribe("a"),
        ):
            pass
        assert manager.stats()["pooled"].dedicated == 0
        with PubSub(manager, "direct").subscribe("a") as subscription:
            PubSub(manager, "pooled").publish("a", "1")
            assert subscription.get(timeout=5) == Notice("a", "1")


def misplaced(config: PostgreSQLConfig) -> tuple[int, int]:
    """Have twelve threads insert into tables of their own; return how many rows are elsewhere, and what failed."""
    with DatabaseManager() as manager:
        database = manager.add_postgresql("main", replace(config, max_connections=12))
        for number in range(12):
            database.execute(f"CREATE TABLE t{number} (n integer)")

        def work(number: int) -> int:
            failed = 0
            for _ in range(EACH):
                try:
                    database.execute(f"INSERT INTO t{number} (n) VALUES (:n)", {"n": number})
                    with database.transaction():
                        database.fetch_value(f"SELECT max(n) FROM t{number}")
                except PersistenceError:
                    failed += 1
            return failed

        with ThreadPoolExecutor(12) as executor:
            failed = sum(executor.map(work, range(12)))
    with DatabaseManager() as manager:  # counted by statements that were never prepared
        database = manager.add_postgresql("main", config, lazy=True)
        elsewhere = rows = 0
        for number in range(12):
            found = database.fetch_all(f"SELECT n FROM t{number}", prepare=False)
            rows += len(found)
            elsewhere += sum(row["n"] != number for row in found)
    print(f"{rows:,} rows, {elsewhere} in a wrong table, {failed} calls failed")
    return elsewhere + (0 if failed else abs(rows - 12 * EACH)), failed


def test_no_row_lands_in_another_table(pooled: PostgreSQLConfig) -> None:
    assert misplaced(pooled) == (0, 0)


def test_the_control_without_the_guard_goes_wrong(pooled: PostgreSQLConfig) -> None:
    version = subprocess.run(["pgbouncer", "--version"], check=True, capture_output=True, text=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) >= (1, 21):
        pytest.skip("this pgbouncer prepares statements itself")
    elsewhere, failed = misplaced(replace(pooled, pooler=False, prepare_threshold=1))
    assert elsewhere + failed > 0


def test_stores_and_migrations_work_behind_it(pooled: PostgreSQLConfig) -> None:
    def work(number: int) -> list[int | None]:
        with DatabaseManager() as manager:
            manager.add_postgresql("main", replace(pooled, max_connections=2))
            checkpointer = DatabaseCheckpointer(manager, "main")  # one of them migrates, the others wait
            for turn in range(5):
                checkpointer.save_checkpoint(Checkpoint(f"t{number}", {"turn": turn}))
            assert checkpointer.load_checkpoint(f"t{number}").state == {"turn": 4}
            return [found.version for found in checkpointer.list_checkpoints(f"t{number}")]

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(work, range(8))) == [[5, 4, 3, 2, 1]] * 8
