"""Debates and cycles copied to a hosted database in the background: queued, retried, counted and flushed.

    python examples/sync_elsewhere.py

What is queued commits with what it is about, so a program that is killed forgets none of it. The other side refuses
each record at first here; a relay tries again, in order by key, and keeps what will never be taken.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from persistence import Backoff, DatabaseManager, Outbox, OutboxItem, Relay


class Hosted:
    """The other side: takes a record by its id, twice without harm, and fails now and then."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, Any], Any] = {}
        self._asked: set[tuple[str, Any]] = set()

    def upsert(self, item: OutboxItem) -> None:
        """Take one record; an HTTP call, in a program that has such a side."""
        place = item.key, item.payload["id"]
        if item.payload.get("broken"):
            raise ValueError("no such column")
        if place not in self._asked:
            self._asked.add(place)
            raise ConnectionError("503")
        self.rows[place] = item.payload


class Sync:
    """What a program calls: queue, status and flush."""

    def __init__(self, outbox: Outbox, hosted: Hosted) -> None:
        self._outbox = outbox
        backoff = Backoff(retries=5, base=0.01, cap=0.05)
        self.relay = Relay(outbox, hosted.upsert, poll=0.05, backoff=backoff)

    def queue(self, kind: str, record: dict[str, Any]) -> None:
        """Queue a record; it joins the transaction that it is in, and waits for nobody."""
        self._outbox.put(kind, record)

    def status(self) -> dict[str, int]:
        """Return how many records wait, and how many were given up."""
        status = self._outbox.status()
        return {"queue_size": status.pending, "failed": status.dead}

    def flush(self, timeout: float = 30) -> bool:
        """Deliver what waits; tell whether nothing is left."""
        return self.relay.flush(timeout=timeout).left == 0


def main() -> None:
    """Queue records, deliver them in the background, and mend the one that is refused."""
    with tempfile.TemporaryDirectory() as folder, DatabaseManager() as manager:
        database = manager.add_sqlite("main", f"sqlite:///{Path(folder) / 'debates.db'}")
        database.execute("CREATE TABLE debates (id TEXT PRIMARY KEY, task TEXT NOT NULL)")
        outbox, hosted = Outbox(manager, "main", "hosted"), Hosted()
        sync = Sync(outbox, hosted)
        for number in range(10):
            with database.transaction():
                values = {"id": f"d{number}", "task": f"task {number}"}
                database.execute("INSERT INTO debates (id, task) VALUES (:id, :task)", values)
                sync.queue("debates", values)
        sync.queue("cycles", {"id": "c1", "broken": True})
        sync.queue("cycles", {"id": "c2"})
        print(sync.status())
        with sync.relay:
            assert sync.flush()
        print(sync.status(), "and", len(hosted.rows), "records are there")
        for letter in outbox.dead_letters():
            print(f"given up after {letter.attempts} tries: {letter.key} {letter.payload['id']}")
            outbox.delete_dead_letter(letter)
            sync.queue(letter.key, {"id": letter.payload["id"]})
        assert sync.flush()
        assert sorted(key for _, key in hosted.rows) == ["c1", "c2", *(f"d{number}" for number in range(10))]
        print(sync.status(), "and", len(hosted.rows), "records are there")


if __name__ == "__main__":
    main()
