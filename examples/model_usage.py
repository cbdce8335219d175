"""How much each model was used, and how long it took: events of a week, summed in the database and drawn.

``python examples/model_usage.py [--days 7]``. On a SQLite file of its own; a PostgreSQL connection does the same.
It draws with rich: ``pip install "holdfast[examples]"``.
"""

import argparse
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from persistence import DatabaseManager
from persistence.extras import extra
from sessions import Event, EventBucket, EventLog, EventPolicy

with extra("examples"):
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table

MODELS = {"small": (0.3, 400), "large": (1.9, 900), "coder": (1.1, 1500)}
MONDAY = datetime(2026, 3, 9, tzinfo=UTC)
DAY = timedelta(days=1)


def calls(days: int) -> list[Event]:
    """Return made-up calls of models: more of them on working days, and now and then a slow one."""
    chosen = random.Random(11)
    events = []
    for day in range(days):
        for _ in range(300 if day % 7 < 5 else 80):
            model = chosen.choice(list(MODELS))
            latency, tokens = MODELS[model]
            moment = MONDAY + day * DAY + chosen.random() * DAY
            tags = {"model": model}
            slow = 8 if chosen.random() < 0.02 else 1
            seconds = latency * slow * (0.5 + chosen.random())
            events.append(Event(kind="metric", name="latency", value=seconds, tags=tags, time=moment))
            events.append(Event(kind="metric", name="tokens", value=chosen.randrange(tokens), tags=tags, time=moment))
    return events


def draw(console: Console, tokens: list[EventBucket]) -> None:
    """Draw the tokens of each day and model as bars."""
    most = max(bucket.value or 0 for bucket in tokens)
    table = Table("day", "model", "tokens", title="Tokens a day", title_justify="left")
    for bucket in tokens:
        day = f"{bucket.start:%a %d %b}" if bucket.group["model"] == "coder" else ""
        table.add_row(day, bucket.group["model"], Bar(most, 0, bucket.value or 0, width=48))
    console.print(table)


def latencies(console: Console, found: list[EventBucket]) -> None:
    """Print the calls and the percentiles of each model."""
    table = Table("model", "calls", "p50", "p95", "p99", title="Seconds a call", title_justify="left")
    for bucket in found:
        values = bucket.values
        numbers = [f"{values[name] or 0:.2f}" for name in ("p50", "p95", "p99")]
        table.add_row(bucket.group["model"], f"{values['count']:,}", *numbers)
    console.print(table)


def main() -> None:
    """Store the calls, sum them up and draw them; then roll them up, and sum again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=7)
    days = parser.parse_args().days
    console = Console(width=100)
    with TemporaryDirectory() as folder, DatabaseManager() as manager:
        manager.add_sqlite("main", f"sqlite:///{Path(folder) / 'usage.db'}")
        events = EventLog(manager, "main")
        with events.writer() as writer:
            for event in calls(days):
                writer.add(event)
        console.print(f"{writer.written:,} events stored\n")

        tokens = events.aggregate(DAY, "sum", by_tags="model", name="tokens")
        draw(console, tokens)
        whole = events.aggregate(
            7 * DAY, ["count", "p50", "p95", "p99"], by_tags="model", name="latency", until=MONDAY + 7 * DAY
        )
        latencies(console, whole)

        policy = EventPolicy(aggregate_after=DAY, aggregate_by=DAY, tags=("model",))
        report = events.roll_up(policy, now=MONDAY + (days + 2) * DAY)
        console.print(f"rolled up: {report.aggregated:,} events became {report.made:,}, one a day, model and name")
        assert events.aggregate(DAY, "sum", by_tags="model", name="tokens") == tokens


if __name__ == "__main__":
    main()
