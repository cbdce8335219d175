"""The history of what was asked: the latest of a user, a search in it, and sums that the database makes.

    python examples/query_history.py

A query is a question with its answer, the models that gave it and the time that it took.
"""

from __future__ import annotations

import random
import tempfile
from datetime import timedelta
from pathlib import Path

from persistence import DatabaseManager
from sessions import MessageStore, Query

MODES = {"simple": ["small"], "council": ["small", "large"]}


def main() -> None:
    """Save queries of three users, and look at them."""
    with tempfile.TemporaryDirectory() as folder, DatabaseManager() as manager:
        manager.add_sqlite("main", f"sqlite:///{Path(folder) / 'queries.db'}")
        messages = MessageStore(manager, "main", searchable=True)
        chosen = random.Random(5)
        for number in range(60):
            mode = chosen.choice(list(MODES))
            messages.save_query(
                Query(
                    question=f"question {number} about topic {number % 4}",
                    answer=f"answer {number}",
                    user_id=str(number % 3),  # "0" is a user as good as any
                    mode=mode,
                    models=MODES[mode],
                    latency=timedelta(milliseconds=200 + 100 * len(MODES[mode])),
                    input_tokens=10,
                    output_tokens=number,
                )
            )
        latest = messages.recent_queries(user_id="0", limit=3)
        print("latest of user 0:", [query.question for query in latest])
        older = messages.recent_queries(user_id="0", limit=3, after=latest[-1].cursor)
        print("before those:    ", [query.question for query in older])
        messages.index_messages()
        found = messages.search("topic 3", user_id="0", limit=5)
        print("about topic 3:   ", [message.content for message in found])

        for usage in messages.usage_by("models"):
            if usage.latency is not None:
                seconds = usage.latency.total_seconds()
                print(f"{usage.key}: {usage.messages} answers, {usage.tokens} tokens, {seconds:.1f} s each")
        total = messages.usage()
        assert total.output_tokens == sum(range(60))
        print(f"in all {total.messages} messages and {total.tokens} tokens")


if __name__ == "__main__":
    main()
