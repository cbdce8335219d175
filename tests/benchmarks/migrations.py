"""What it costs a program that starts to find that no migration is due, for all lines of the packages together."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from persistence import Database, DatabaseManager, EmbeddedPostgreSQL, Migrator, SQLiteConfig
from persistence.migrations import _load, shipped_lines
from tests.benchmarks.measure import in_turns, report

BOUND_MS = 5.0


def measure(database: Database) -> None:
    lines, migrator = shipped_lines(), Migrator(database)

    def ask() -> None:
        database.has_migrations = False  # as the first to ask in a process
        for line in lines:
            assert migrator.up(line) == ()

    def read_and_ask() -> None:
        _load.cache_clear()
        ask()

    ask()
    ways: dict[str, Callable[[], object]] = {
        "one SELECT": lambda: database.fetch_value("SELECT 1"),
        f"nothing is due in {len(lines)} lines": ask,
        "the same, the files not read yet": read_and_ask,
    }
    found = in_turns(ways, rounds=15, calls=20)
    report(f"{database.kind}: bound {BOUND_MS:g} ms", found, floor="one SELECT")
    slow = [name for name, seconds in found.items() if seconds > BOUND_MS / 1000]
    if slow:
        print(f"  over the bound: {', '.join(slow)}")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgreSQL(Path(folder) / "postgresql") as server,
        DatabaseManager() as manager,
    ):
        manager.add_sqlite("file", SQLiteConfig(path=f"{folder}/app.db"))
        manager.add_pgvector("server", server.pgvector_config(3))
        for name in manager.names():
            database = manager.get_database(name)
            for line in shipped_lines():
                Migrator(database).up(line)
            measure(database)
