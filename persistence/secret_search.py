"""What looks like a secret in a text: what has a mark of its own, and what stands beside a name that says so.

It does no I/O. Time is in proportion to the text: see ``persistence.secret_patterns``; and a pattern whose mark isn't
in the text isn't tried at all. What has no mark is only a secret beside a name (``password=``, ``"api_key": …``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from persistence.errors import ValidationError
from persistence.secret_patterns import OTHERS, TOKENS, is_masked, is_random

_PATTERNS = (*TOKENS, *OTHERS)
_MARKS = [(mark, number) for number, each in enumerate(_PATTERNS) for mark in each.marks or ("",)]
_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True)
class FoundSecret:
    """Where a secret stands in a text: ``text[start:end]``. ``kind`` is of ``a-z 0-9 -``, as ``github-token``."""

    kind: str
    start: int
    end: int


_PEM_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,2}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{1,40}-----")
_PEM_BODY = re.compile(r"[A-Za-z0-9+/=\s\\]*+")
_PEM_KEY = re.compile(r"[A-Za-z0-9+/]{16}")

# A name that says what is beside it. One that goes on in another way (password_hash) is none, and neither is the
# reference of a vault ({SECRET:…:kind}).
_NAMED = re.compile(
    r"""
    (?P<password> passw(?:or)?d | passphrase | passcode | (?<![a-z])(?:pwd | pass)(?=\\?["']?\s{0,4}[:=>]) )
      (?: s | _?\d{1,3} | _?value )?
    | (?P<api_key> (?: api | access | secret | private | signing | encryption | account | auth | master ) [_-]? key )
      (?: s | _?\d{1,3} | _?value )?
    | (?P<token> (?: auth | access | refresh | id | session | bearer | bot | csrf | api )? [_-]? token
        | credential | session [_-]? id | cookie ) (?: s | _?\d{1,3} | _?value )?
    | (?P<secret> secret (?! \\*+ :[0-9a-f]{32}: ) ) (?: s | _?\d{1,3} | _?value | [_-]? token )?
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_NAME_MARKS = ("pass", "pwd", "secret", "key", "token", "credential", "session", "cookie")
# How the value is put beside it: quoted, in quotes that are themselves escaped, or bare.
_VALUE = re.compile(
    r"""
    \\?["']?
    (?: (?P<tight> [=>] )
      | \s{0,4} (?: :\s{0,2} [A-Za-z_.]{1,24} (?: [ ]?\|[ ]?None )? [ ]{1,2}= | => | := | == | [:=] ) \s{0,4}
      | (?P<word> \s{1,4} (?: is | was ) (?: \s? : )? \s{1,4} )
      | (?P<gap> [ ]{1,4} ) )
    (?: \\?" (?P<double> [^"\\\n]++ (?: \\[^"n] [^"\\\n]*+ )*+ ) \\?"
      | \\?' (?P<single> [^'\\\n]++ ) \\?'
      | (?P<bare> [^\s"'`&<>,;|)\]}\\]{4,256}+ ) )
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_REST = re.compile(r"""[^\s"'`&<>,;|)\]}\\]*+""")
_KINDS = {"password": "password", "secret": "secret", "api_key": "api-key", "token": "token"}
_FLAG = re.compile(r"(?:^|[^A-Za-z0-9-])--[A-Za-z-]{0,32}$", re.ASCII)
_PLACEHOLDER = re.compile(
    r"""
    none | null | nil | undefined | true | false | str | string | text | bytes | int | bool | any | optional | required
    | empty | missing | invalid | changeme | example | hidden | masked | value | env | input | prompt | file | yes | no
    | (?: your | my | the | new | old | some | a )? [ _-]*
      (?: password | passwd | pwd | secret | token | api[ _-]?key | key | credentials? ) (?: [ _-]? here )?
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
# What a program says in place of a value: self.password, os.environ["X"], DB_PASSWORD, new_token.
_CODE = re.compile(
    r"[A-Za-z_]+(?:\.[A-Za-z_]+)+|[A-Za-z_.]+[(\[].*|[A-Z_]+_[A-Z_]+"
    r"|[A-Za-z_.]*_[A-Za-z_.]*(?:password|secret|token|key)|(?:password|secret|token|key)_[A-Za-z_.]*",
    re.ASCII,
)


def find_secrets(text: str) -> list[FoundSecret]:
    """Return the secrets in a text, in order, none within another.

    Time is in proportion to the length. A secret without a mark, in a text that doesn't name it, isn't found.

    Raises:
        ValidationError: it is no str.
    """
    if not isinstance(cast(object, text), str):
        raise ValidationError(f"what to look for secrets in is a {type(text).__name__}, not a str")
    if len(text) < 4:
        return []
    found = [*_private_keys(text), *_marked(text), *_named(text)]
    return _merged(found) if len(found) > 1 else found


def kind_by_name(name: str, value: str) -> str | None:
    """Return the kind of secret that a value is because of its name in a mapping; None where it is none.

    All of a value named as a password or a secret is one; of one named as a key or a token, what is random.
    """
    tail = f"{name[-_NAME_LENGTH:]}="
    for match in _NAMED.finditer(tail):
        if match.end() == len(tail) - 1:
            plain, kind = value.strip(), _kind(match)
            told = bool(plain) if kind in ("password", "secret") else is_random(plain)
            return kind if told and not is_masked(plain) else None
    return None


def _kind(match: re.Match[str]) -> str:
    return next(kind for group, kind in _KINDS.items() if match[group])


def _private_keys(text: str) -> Iterator[FoundSecret]:
    """Yield keys in PEM, and of one that was cut what there is."""
    if "PRIVATE KEY" not in text:
        return
    for begin in _PEM_BEGIN.finditer(text):
        # Both stop at the next line of dashes, where the next key may begin.
        inside = text.find("-----", begin.end())
        inside = len(text) if inside < 0 else inside
        body = _PEM_BODY.match(text, begin.end())
        if body is None or _PEM_KEY.search(text, begin.end(), inside) is None:
            continue
        footer = _PEM_END.match(text, inside)
        yield FoundSecret("private-key", begin.start(), footer.end() if footer else body.end())


def _marked(text: str) -> Iterator[FoundSecret]:
    """Yield what has a form of its own."""
    for number in sorted({number for mark, number in _MARKS if mark in text}):
        kind, _, pattern, check = _PATTERNS[number]
        group = 1 if kind != "card-number" and pattern.groups else 0
        for match in pattern.finditer(text):
            if check is None or check(match[group]):
                yield FoundSecret(kind, *match.span(group))


def _named(text: str) -> Iterator[FoundSecret]:
    """Yield what stands beside a name that says what it is."""
    lower = text.lower()
    if not any(mark in lower for mark in _NAME_MARKS):
        return
    at = 0
    while (name := _NAMED.search(text, at)) is not None:
        at = name.end()
        value = _VALUE.match(text, at)
        if value is None:
            continue
        kind, group = _kind(name), str(value.lastgroup)
        if group == "bare":
            told = _is_bare_secret(kind, value, text, name.start())
        else:
            told = _is_quoted_secret(kind, value[group]) and (value["gap"] is None or _is_flag(text, name.start()))
        if told:
            start, at = value.span(group)
            if group == "bare":
                rest = _REST.match(text, at)
                at = rest.end() if rest else at
            yield FoundSecret(kind, start, at)


def _is_quoted_secret(kind: str, value: str) -> bool:
    if is_masked(value) or (len(value) < _NAME_LENGTH and _PLACEHOLDER.fullmatch(value)):
        return False
    return kind in ("password", "secret") or is_random(value)


def _is_bare_secret(kind: str, match: re.Match[str], text: str, start: int) -> bool:
    """Tell whether a value without quotes is a secret and no word of a sentence or piece of a program."""
    value = match["bare"]
    if not _is_quoted_secret(kind, value) or _CODE.fullmatch(value):
        return False
    if match["gap"] is not None:
        return _is_flag(text, start)
    if match["tight"] is not None or kind not in ("password", "secret"):
        return True
    # A sentence goes on after "password: "; a word of it has neither a digit nor a sign.
    return len(value) >= 6 and re.search(r"[^A-Za-z'_.!?:-]", value) is not None


def _is_flag(text: str, start: int) -> bool:
    """Tell whether a name is an option of a command (``--db-password x``)."""
    return _FLAG.search(text[max(0, start - 40) : start]) is not None


def _merged(found: list[FoundSecret]) -> list[FoundSecret]:
    """Return what was found in order, those that overlap as one, of the kind that was found first."""
    ranked = sorted(enumerate(found), key=lambda item: (item[1].start, item[1].end))
    merged: list[tuple[int, FoundSecret]] = []
    for rank, each in ranked:
        if merged and each.start < merged[-1][1].end:
            best, last = merged[-1]
            kind = each.kind if rank < best else last.kind
            merged[-1] = min(rank, best), FoundSecret(kind, last.start, max(last.end, each.end))
        else:
            merged.append((rank, each))
    return [each for _, each in merged]
