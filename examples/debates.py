"""Debates with slugs and view counts, ratings, and a registry of models, on one SQLite file.

    python examples/debates.py

Each is a table of the program's own, read and written by a Repository: slugs that two writers never share, counters
that lose nothing, versions that hold back who is late, a history, and a registry that changes by compare-and-set.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from persistence import Cache, ConflictError, DatabaseManager, KeyValueStore, Repository

TABLES = """
    CREATE TABLE debates (
        id INTEGER PRIMARY KEY, slug TEXT UNIQUE, task TEXT NOT NULL, verdict TEXT, views INTEGER NOT NULL,
        created_at INTEGER NOT NULL);
    CREATE TABLE ratings (agent TEXT PRIMARY KEY, elo REAL NOT NULL, games INTEGER NOT NULL, version INTEGER NOT NULL);
    CREATE TABLE ratings_history (
        history_id INTEGER PRIMARY KEY, agent TEXT, elo REAL, games INTEGER, version INTEGER);
"""


@dataclass(frozen=True)
class Debate:
    """What was argued about."""

    id: int | None
    slug: str | None
    task: str
    created_at: datetime
    verdict: str | None = None
    views: int = 0


@dataclass(frozen=True)
class Rating:
    """How strong an agent is, by Elo's method."""

    agent: str
    elo: float = 1000.0
    games: int = 0
    version: int = 0


def debate(manager: DatabaseManager) -> None:
    """Save debates under slugs, count who looks, and search."""
    debates = Repository(manager, "main", "debates", Debate, slug="slug")
    now = datetime(2026, 1, 15, 12, tzinfo=UTC)
    for task in ("Design a rate limiter", "Design a rate limiter", "Name a 100% safe cache"):
        made = debates.save_with_slug(Debate(None, None, task, now), f"{task} {now:%Y-%m-%d}")
        print(f"saved {made.slug}")
    found = debates.find_one({"slug": "design-a-rate-limiter-2026-01-15"})
    assert found is not None
    assert found.id is not None
    print("views:", [debates.increment(found.id, "views") for _ in range(3)])
    print("search '100%':", [each.slug for each in debates.search("100%", ["task"])])
    print("most seen:", [each.slug for each in debates.find({"views": (">", 0)}, order="-views", limit=5)])


def rate(manager: DatabaseManager) -> None:
    """Play games; both ratings change in one transaction, and a stale one is refused."""
    ratings = Repository(manager, "main", "ratings", Rating, key="agent", version="version", history="ratings_history")
    for agent in ("ada", "grace"):
        ratings.save(Rating(agent))

    def play(winner: str, loser: str) -> None:
        with manager.get_database("main").transaction():
            better, worse = ratings.get_or_raise(winner), ratings.get_or_raise(loser)
            gain = 32 * (1 - 1 / (1 + 10 ** ((worse.elo - better.elo) / 400)))
            ratings.save(replace(better, elo=better.elo + gain, games=better.games + 1))
            ratings.save(replace(worse, elo=worse.elo - gain, games=worse.games + 1))

    stale = ratings.get_or_raise("ada")
    for winner, loser in (("ada", "grace"), ("ada", "grace"), ("grace", "ada")):
        play(winner, loser)
    try:
        ratings.save(replace(stale, elo=9999.0))
    except ConflictError as exc:
        print("refused:", exc.message)
    print("leaderboard:", [(each.agent, round(each.elo)) for each in ratings.find(order="-elo", limit=10)])
    print("ada before:", [round(each.elo) for each in ratings.history("ada")])


def register(manager: DatabaseManager) -> None:
    """Keep models by name; an entry is changed only by who saw the newest, and read through a cache."""
    models = KeyValueStore(manager, "main", namespace="models")
    version = models.put("summariser", {"path": "models/1", "dimensions": 384}, expected_version=0)
    assert models.compare_and_set("summariser", {"path": "models/2", "dimensions": 384}, expected_version=version)
    assert not models.compare_and_set("summariser", {"path": "models/lost"}, expected_version=version)
    cache = Cache(ttl=60)
    for _ in range(3):
        model = cache.get_or_load("summariser", lambda: models.get("summariser"))
    print("model:", model["path"], f"(read {cache.stats().loads} time, hit rate {cache.stats().hit_rate:.2f})")


def main() -> None:
    """Run all three."""
    with tempfile.TemporaryDirectory() as folder, DatabaseManager() as manager:
        database = manager.add_sqlite("main", f"sqlite:///{Path(folder) / 'debates.db'}")
        with database.transaction() as transaction:
            transaction.script(TABLES)
        debate(manager)
        rate(manager)
        register(manager)


if __name__ == "__main__":
    main()
