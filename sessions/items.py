"""Own what namespaced items have in common: their namespaces as keys, and their times to live."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from persistence.fields import Duration
from persistence.validation import ID_BYTES, check_text
from sessions.records import ttl_micros

LABEL_END = "\x1f"
"""What closes each label of a stored namespace, so that a prefix of labels is a range of the primary key."""
_ESCAPE = "\x1e"

SHARED = ""
"""The stored user of what all users of a tenant share; no caller can name it."""


def namespace_key(labels: Sequence[str]) -> str:
    """Return a namespace as it is stored. Its labels may be any text: what closes them is escaped.

    Raises:
        ValidationError: a label is no text or is empty, or they are too long together.
    """
    for label in labels:
        check_text("a label of the namespace", label, may_be_empty=False)
    escaped = [label.replace(_ESCAPE, _ESCAPE + "0").replace(LABEL_END, _ESCAPE + "1") for label in labels]
    return check_text("the namespace", "".join(label + LABEL_END for label in escaped), limit=ID_BYTES)


def namespace_labels(key: str) -> tuple[str, ...]:
    """Return the labels of a stored namespace."""
    return tuple(
        label.replace(_ESCAPE + "1", LABEL_END).replace(_ESCAPE + "0", _ESCAPE) for label in key.split(LABEL_END)[:-1]
    )


def lifetime_micros(ttl: Duration | None) -> int | None:
    """Return a time to live in microseconds; 0 and less, which is expired at once, is 0."""
    is_over = isinstance(ttl, timedelta) and ttl <= timedelta(0)
    if is_over or (isinstance(ttl, int | float) and not isinstance(ttl, bool) and ttl <= 0):
        return 0
    return ttl_micros("ttl", ttl)
