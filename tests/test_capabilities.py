"""What is read from what servers say of themselves."""

from __future__ import annotations

import pytest

from persistence.capabilities import version_numbers


@pytest.mark.parametrize(
    ("said", "numbers"),
    [("8.4.0", (8, 4, 0)), ("7.2-rc1", (7, 2)), ("0.9.0-dev", (0, 9, 0)), ("18", (18,)), ("next", ())],
)
def test_a_version_is_its_numbers_whatever_follows_them(said: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(said) == numbers
