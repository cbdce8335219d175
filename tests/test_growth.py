"""Lists that get more items: what is stored of them when only the new ones are looked at is what it would be anyway."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from checkpoint.growth import store, store_appended
from checkpoint.serializer import Serializer

ITEMS: list[Callable[[int], Any]] = [
    lambda n: {"role": "user", "content": f"message {n}" * (n % 60 + 1)},
    lambda n: f"text {n}" * 20,
    lambda n: n,
    lambda n: (n, "t"),
    lambda n: datetime(2026, 1, 1, tzinfo=UTC),
    lambda n: b"bytes" * n,
    lambda n: bytearray(b"x" * 9),
    lambda n: np.arange(3),
    lambda n: {1, 2},
    lambda n: [n, [n]],
    lambda n: deque([n]),
]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_stored_of_new_items_alone_is_what_a_look_at_all_would_store(seed: int) -> None:
    chance, serializer = random.Random(seed), Serializer()
    taken = 0
    for _ in range(150):
        makers = chance.sample(ITEMS, chance.randint(1, 3))
        items = [chance.choice(makers)(n) for n in range(chance.choice([1, 3, 14, 15, 16, 40, 200]))]
        before = store(items, None, serializer, "items")
        for _ in range(chance.randint(1, 12)):
            new = [chance.choice(makers)(n) for n in range(chance.randint(0, 3))]
            items = [*items, *new]
            found = store_appended(items, len(new), before, serializer)
            if found is not None:
                taken += 1
                again = store(list(items), found, serializer, "items")
                assert found.content()[2:] == serializer.dumps(items)[2:] == again.content()[2:]
            before = found or store(items, before, serializer, "items")
            assert repr(serializer.loads(before.content())) == repr(items)
    assert taken > 200


def test_a_long_list_is_stored_again_a_few_times_at_most() -> None:
    serializer, items, written = Serializer(), ["begins"] * 20, 0
    before = store(items, None, serializer, "items")
    for n in range(2000):
        items = [*items, f"item {n}" * 10]
        after = store_appended(items, 1, before, serializer)
        assert after is not None
        written += sum(len(part.content) for part in after.parts if part not in before.parts)
        before = after
    size = len(before.content())
    assert len(before.parts) < 40
    assert size < written < 6 * size
