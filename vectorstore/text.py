"""Words of texts and their weights: the terms that SQLite's FTS5 makes of a text, and its bm25, for those without it.

A term is a word without case and accents, cut to its stem by Porter's algorithm ("An algorithm for suffix stripping",
1980) as FTS5's tokenizer ``porter unicode61`` does it. Queries are an "or" of their terms, each weighted by its idf: an
"and" finds nothing for most questions.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise

from persistence.errors import CapabilityError

LANGUAGES = ("english", "simple")
K1 = 1.2
"""How much a term's repetition in a text counts: FTS5's own."""
B = 0.75
"""How much a text's length counts against it: FTS5's own."""
MAX_QUERY_TERMS = 64
"""A query that is a whole text is searched by its first so many different words."""
_RARE_IDF = 1e-6
"""FTS5's weight of a term that more than half of the texts have."""
_LONGEST_STEMMED = 64

# Those that PostgreSQL leaves out too.
_STOP_WORDS = frozenset(
    "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it"
    " its itself they them their theirs themselves what which who whom this that these those am is are was were be been"
    " being have has had having do does did doing a an the and but if or because as until while of at by for with about"
    " against between into through during before after above below to from up down in out on off over under again"
    " further then once here there when where why how all any both each few more most other some such no nor not only"
    " own same so than too very s t can will just don should now".split()
)
_WORD = re.compile(r"[^\W_]+")


def check_stemmed(language: str | None, connection: str | None = None) -> None:
    """Make sure that words of a language can be searched here.

    Raises:
        CapabilityError: its words can't be cut to their stems.
    """
    if language is not None and language not in LANGUAGES:
        raise CapabilityError(
            f"there is no text search in {language!r} here",
            hint="english, or simple, which takes the words of any language as they are",
            connection=connection,
        )


def words(text: str) -> list[str]:
    """Return the words of a text in their order, without case and accents."""
    if not text.isascii():
        text = "".join(map(_plain, unicodedata.normalize("NFC", text)))
    return _WORD.findall(text.lower())


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """Return a Latin letter without its accents, a lone accent as nothing, and any other character in lower case."""
    if unicodedata.combining(character):
        return ""
    first = unicodedata.normalize("NFD", character)[0]
    # Python has a sigma of its own for a word's end, FTS5 has not.
    return first if first.isascii() else character.lower().replace("ς", "σ")


def terms(text: str, language: str) -> list[str]:
    """Return the terms of a text in their order."""
    return [stem(word) for word in words(text)] if language == "english" else words(text)


def query_terms(text: str, language: str) -> dict[str, str]:
    """Return the first different terms of a query, each with a word that stands for it; English stop words are none."""
    found: dict[str, str] = {}
    for word in words(text):
        if language != "english":
            found.setdefault(word, word)
        elif word not in _STOP_WORDS:
            found.setdefault(stem(word), word)
        if len(found) == MAX_QUERY_TERMS:
            break
    return found


def weights(holders: Mapping[str, int], texts: int) -> dict[str, float]:
    """Return the idf of each term by how many of the texts have it.

    Those of more than half of the texts say nothing and are left out, unless all are such; so are those of none.
    """
    found = {
        term: max(math.log((texts - count + 0.5) / (count + 0.5)), _RARE_IDF)
        for term, count in holders.items()
        if count
    }
    return {term: idf for term, idf in found.items() if idf > _RARE_IDF} or found


class TextIndex:
    """Texts by key, searched by bm25; its owner sees to it that one call at a time is under way."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._holders: dict[str, dict[int, int]] = {}
        self._terms: dict[int, tuple[str, ...]] = {}
        self._lengths: dict[int, int] = {}
        self._words = 0

    def add(self, key: int, text: str) -> None:
        """Add a text under a key that is not in use."""
        found = Counter(terms(text, self._language))
        self._terms[key] = tuple(found)
        self._lengths[key] = found.total()
        self._words += found.total()
        for term, times in found.items():
            self._holders.setdefault(term, {})[key] = times

    def remove(self, key: int) -> None:
        """Take a text out that is there."""
        self._words -= self._lengths.pop(key)
        for term in self._terms.pop(key):
            holders = self._holders[term]
            del holders[key]
            if not holders:
                del self._holders[term]

    def search(self, query: str) -> list[tuple[int, float]]:
        """Return the texts that have a term of the query with their scores, in no order."""
        asked = query_terms(query, self._language)
        idf = weights({term: len(self._holders.get(term, ())) for term in asked}, len(self._terms))
        average = self._words / len(self._terms) if self._terms else 0.0
        scores: dict[int, float] = {}
        for term, weight in idf.items():
            for key, times in self._holders[term].items():
                length = self._lengths[key] / average
                part = weight * times * (K1 + 1) / (times + K1 * (1 - B + B * length))
                scores[key] = scores.get(key, 0.0) + part
        return list(scores.items())


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return a word's stem; one that is very short or long, or not English, mostly stays as it is."""
    if not 3 <= len(word.encode()) <= _LONGEST_STEMMED:
        return word
    word = _without_plural(word)
    word = _without_participle(word)
    if word[-1:] == "y" and _has_vowel(word[:-1]):
        word = f"{word[:-1]}i"
    word = _replaced(word, _SECOND, 1)
    word = _replaced(word, _THIRD, 1)
    word = _replaced(word, _FOURTH, 2)
    if word[-1] == "e":
        rest = word[:-1]
        if _measure(rest) > 1 or (_measure(rest) == 1 and not _ends_short(rest)):
            word = rest
    return word[:-1] if word[-2:] == "ll" and _measure(word[:-1]) > 1 else word


def _without_plural(word: str) -> str:
    if word.endswith("s") and not word.endswith("ss"):
        if (word.endswith("sses") and len(word) > 4) or (word.endswith("ies") and len(word) > 3):
            return word[:-2]
        return word[:-1]
    return word


def _without_participle(word: str) -> str:
    if word.endswith("eed") and len(word) > 3:
        return word[:-1] if _measure(word[:-3]) else word
    for ending in ("ed", "ing"):
        if word.endswith(ending) and len(word) > len(ending):
            rest = word[: -len(ending)]
            return _restored(rest) if _has_vowel(rest) else word
    return word


def _restored(word: str) -> str:
    """Return what is left of a participle with the ending that its verb has."""
    if len(word) > 2 and word.endswith(("at", "bl", "iz")):
        return f"{word}e"
    if len(word) > 1 and word[-1] == word[-2] and word[-1] not in "aeioulsz":
        return word[:-1]
    return f"{word}e" if _measure(word) == 1 and _ends_short(word) else word


def _replaced(word: str, endings: Iterable[tuple[str, str]], least: int) -> str:
    for ending, instead in endings:
        if len(word) > len(ending) and word.endswith(ending):
            rest = word[: -len(ending)]
            if ending == "ion" and rest[-1] not in "st":
                return word
            return rest + instead if _measure(rest) >= least else word
    return word


def _consonants(word: str) -> list[bool]:
    """Tell of each letter whether it is a consonant; y is one unless it follows one."""
    found: list[bool] = []
    before = False
    for letter in word:
        before = not (letter in "aeiou" or (letter == "y" and before))
        found.append(before)
    return found


def _measure(word: str) -> int:
    """Return how often a consonant follows a vowel."""
    kinds = _consonants(word)
    return sum(1 for before, after in pairwise(kinds) if after and not before)


def _has_vowel(word: str) -> bool:
    return any(letter in "aeiou" or (letter == "y" and place) for place, letter in enumerate(word))


def _ends_short(word: str) -> bool:
    """Tell whether it ends in consonant, vowel, consonant, the last none of w, x and y."""
    return len(word) > 2 and _consonants(word)[-3:] == [True, False, True] and word[-1] not in "wxy"


# In each step a longer ending comes before one that it ends in.
_SECOND = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("logi", "log"),
    ("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"),
    ("ation", "ate"), ("ator", "ate"), ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"),
    ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"),
)  # fmt: skip
_THIRD = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", ""),
)  # fmt: skip
_FOURTH = tuple(
    (ending, "")
    for ending in "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize".split()
)  # fmt: skip
