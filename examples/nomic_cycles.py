"""Cycles of a program that improves itself: what each did, what was rolled back, and how its agents fared.

    python examples/nomic_cycles.py

A Repository has the cycles, which change; an event log has what happened to them, which does not. Both are written in
one transaction.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from persistence import ConflictError, DatabaseManager, Repository
from sessions import Event, EventLog

TABLE = """
    CREATE TABLE cycles (
        id INTEGER PRIMARY KEY, loop TEXT NOT NULL, phase TEXT NOT NULL, started_at INTEGER NOT NULL,
        files TEXT NOT NULL, succeeded INTEGER, version INTEGER NOT NULL)
"""


@dataclass(frozen=True)
class Cycle:
    """One round of a loop: what it touched, and whether it succeeded."""

    id: int
    loop: str
    phase: str
    started_at: datetime
    files: list[str] = field(default_factory=list)
    succeeded: bool | None = None
    version: int = 0


def main() -> None:
    """Run six cycles, roll one back, and sum them up."""
    with tempfile.TemporaryDirectory() as folder, DatabaseManager() as manager:
        database = manager.add_sqlite("main", f"sqlite:///{Path(folder) / 'nomic.db'}")
        database.execute(TABLE)
        cycles = Repository(manager, "main", "cycles", Cycle, version="version")
        events = EventLog(manager, "main")
        events.latest()  # makes its tables, outside the transactions below
        start = datetime(2026, 1, 15, tzinfo=UTC)
        for number in range(1, 7):
            moment = start + timedelta(hours=number)
            cycle = cycles.save(Cycle(number, "loop-1", "debate", moment, [f"part_{number % 2}.py"]))
            with database.transaction():
                cycles.save(replace(cycle, phase="verify", succeeded=number != 4))
                for agent in ("claude", "codex"):
                    tags = {"agent": agent, "cycle": number}
                    seconds = number + (0.5 if agent == "codex" else 0.0)
                    events.append(Event(kind="metric", name="seconds", value=seconds, tags=tags, time=moment))
                if number == 4:
                    tags = {"cycle": 4, "reason": "tests failed"}
                    events.append(Event(kind="rollback", name="loop-1", level="error", tags=tags, time=moment))
        try:
            cycles.save(replace(cycle, phase="late"))
        except ConflictError as exc:
            print(f"a writer that was late: {exc.message}")

        print("succeeded:", cycles.count({"loop": "loop-1", "succeeded": True}), "of", cycles.count())
        print(
            "touched part_0.py:", [each.id for each in cycles.find({"files": ("contains", "part_0.py")}, order="-id")]
        )
        for rollback in events.query(kinds=["rollback"], limit=10):
            print(f"rolled back: cycle {rollback.tags['cycle']}, {rollback.tags['reason']}")
        for bucket in events.aggregate(timedelta(days=1), "avg", by_tags="agent", name="seconds"):
            print(f"{bucket.group['agent']}: {bucket.value:.2f} s a cycle")


if __name__ == "__main__":
    main()
