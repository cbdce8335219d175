"""Own what a word is: the same on every database, because it is told here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import cast

from persistence.dialect import Dialect
from persistence.errors import ValidationError
from persistence.validation import check_text

WORD_CHARACTERS = 100
"""Words longer than this are found by their beginning only."""
WORDS_BYTES = 500_000
"""How many bytes of different words of one message are found, in the words' order."""
SEARCH_WORDS = 32
"""The most words of one search."""

_WORD = re.compile(r"\w+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def words_of(value: object) -> list[str]:
    """Return the words of every text in a JSON value, in lower case, sorted, each once; keys don't count.

    At most WORDS_BYTES of them: PostgreSQL has no more room in one value.
    """
    found: set[str] = set()
    for text in _texts(value):
        found.update(word[:WORD_CHARACTERS] for word in _WORD.findall(text.casefold()))
    words = sorted(found)
    if len(words) > WORDS_BYTES // (4 * WORD_CHARACTERS):
        sizes = accumulate(len(word.encode()) for word in words)
        words = words[: sum(size <= WORDS_BYTES for size in sizes)]
    return words


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield _SURROGATE.sub(" ", value)
    elif isinstance(value, dict):
        for item in cast("dict[str, object]", value).values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _texts(item)


def search_words(query: object) -> list[str]:
    """Return the words that a search looks for.

    Raises:
        ValidationError: it is no str, has no word, or more than 32.
    """
    words = words_of(check_text("the query", query, limit=10_000, may_be_empty=False))
    if not 1 <= len(words) <= SEARCH_WORDS:
        raise ValidationError(f"the query has {len(words)} words, not 1 to {SEARCH_WORDS}")
    return words


def words_value(dialect: Dialect, words: list[str]) -> str:
    """Return words as a column holds them; those of a query alike: a tsquery, or a JSON list."""
    return " ".join(words) if dialect.kind == "postgresql" else json.dumps(words, ensure_ascii=False)
