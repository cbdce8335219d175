"""Refs as PostgreSQL's column has them: what docs/formats.md says, and back."""

from __future__ import annotations

import random

import pytest

from checkpoint.layout import LARGEST_REF
from checkpoint.refs import pack_refs, unpack_refs
from persistence import CorruptError

GOLDEN = [
    ([], ""),
    ([0], "0"),
    ([0, 256, 131072, 515], "0,1,512,-515"),
    ([1, 255, 256, 257], "-1,-255,1,-257"),
    ([LARGEST_REF - 255, LARGEST_REF], "8388607,-2147483647"),
]


def numbers(stored: str) -> list[int]:
    return [int(number) for number in stored.split(",")] if stored else []


@pytest.mark.parametrize(("refs", "stored"), GOLDEN)
def test_refs_are_stored_as_the_docs_say(refs: list[int], stored: str) -> None:
    assert pack_refs(refs) == stored
    assert unpack_refs(numbers(stored)) == refs


def test_any_refs_come_back_in_their_order() -> None:
    chance = random.Random(1)
    for _ in range(500):
        count, bits = chance.randrange(40), chance.randrange(1, 32)
        refs = [chance.randrange(2**bits) & chance.choice((-1, -256)) for _ in range(count)]
        assert unpack_refs(numbers(pack_refs(refs))) == refs


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ([0, None], "no numbers"),
        ([[0], [1]], "no numbers"),
        ([0, 2**23], "2147483648 is too large"),
        ([0, -(2**31)], "2147483648 is too large"),
    ],
)
def test_what_means_no_refs_is_refused(damaged: list[int], message: str) -> None:
    with pytest.raises(CorruptError, match=f"its refs are damaged: .*{message}"):
        unpack_refs(damaged)
