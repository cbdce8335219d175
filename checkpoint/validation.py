"""What a checkpointer refuses before it reads or writes anything, the same on every backend."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from checkpoint.records import Checkpoint
from persistence.dialect import to_json
from persistence.errors import ValidationError

MAX_ID_BYTES = 1024
"""The longest id in UTF-8: a tenant, a thread and a namespace fit into one index entry of PostgreSQL together."""
MAX_TENANT_BYTES = 512
MAX_VERSION = 2**62
_MAX_DEPTH = 100


def check_id(value: object, what: str, *, empty: bool = False, limit: int = MAX_ID_BYTES) -> None:
    """Refuse what can't be an id: another type, a NUL, a lone surrogate, an empty or an overlong text."""
    if type(value) is not str:
        raise ValidationError(f"a {what} is a str, not {type(value).__name__}", hint="str(…) it")
    if not value and not empty:
        raise ValidationError(f"a {what} can't be empty")
    if "\0" in value:
        raise ValidationError(f"a {what} can't contain NUL: {value[:80]!r}")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise ValidationError(f"a {what} can't contain a lone surrogate: {value[:80]!r}") from None
    if size > limit:
        raise ValidationError(f"a {what} has at most {limit:,} bytes in UTF-8, not {size:,}: {value[:80]!r}…")


def check_whole(value: object, what: str, *, least: int = 1) -> None:
    """Refuse what isn't a whole number from ``least`` to ``MAX_VERSION``; True and False are none."""
    if type(value) is not int:
        raise ValidationError(f"a {what} is an int, not {type(value).__name__}")
    if not least <= value <= MAX_VERSION:
        raise ValidationError(f"a {what} is from {least} to 2**62, not {_short(value)}")


def _short(number: int) -> str:
    return str(number) if number.bit_length() < 128 else f"one of {number.bit_length()} bits"


def check_thread(thread_id: object, namespace: object) -> None:
    """Refuse what can't name a thread."""
    check_id(thread_id, "thread id")
    if namespace != "":
        check_id(namespace, "namespace", empty=True)


def check_checkpoint(checkpoint: object, expected_version: object) -> str:
    """Refuse a checkpoint that can't be saved faithfully; return its metadata as JSON text. The state comes later."""
    if not isinstance(checkpoint, Checkpoint):
        raise ValidationError(f"save_checkpoint takes a Checkpoint, not {type(checkpoint).__name__}")
    check_thread(checkpoint.thread_id, checkpoint.namespace)
    if type(checkpoint.state) is not dict:
        raise ValidationError(
            f"a state is a dict, not {type(checkpoint.state).__name__}", hint="dict(state), or {'value': state}"
        )
    for value, what, least in (
        (checkpoint.version, "version", 1),
        (checkpoint.parent_version, "parent version", 1),
        (checkpoint.step, "step", -MAX_VERSION),
        (expected_version, "expected version", 0),
    ):
        if value is not None:
            check_whole(value, what, least=least)
    if checkpoint.node is not None:
        check_id(checkpoint.node, "node")
    _check_timestamp(checkpoint.timestamp)
    if type(checkpoint.metadata) is not dict:
        raise ValidationError(f"metadata is a dict, not {type(checkpoint.metadata).__name__}")
    return _metadata_json(checkpoint.metadata) if checkpoint.metadata else "{}"


def _check_timestamp(moment: object) -> None:
    if moment is None:
        return
    if not isinstance(moment, datetime):
        raise ValidationError(f"a timestamp is a datetime, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise ValidationError(f"the timestamp {moment.isoformat()} has no time zone", hint="datetime.now(timezone.utc)")
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValidationError(f"the timestamp {moment.isoformat()} is outside the years 1 to 9999 in UTC") from None


def _metadata_json(metadata: dict[str, object]) -> str:
    _check_json(metadata, "metadata", 0)
    return to_json(metadata)


def _check_json(value: object, path: str, depth: int) -> None:
    """Refuse what JSON, or PostgreSQL's JSONB, would give back as something else."""
    kind = type(value)
    if depth > _MAX_DEPTH:
        raise ValidationError(f"metadata is nested deeper than {_MAX_DEPTH}", hint="put it into the state")
    if kind is dict and isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise ValidationError(f"{path} has a key of type {type(key).__name__}; JSON has str keys only")
            _check_json(item, f"{path}[{key[:80]!r}]", depth + 1)
    elif kind is list and isinstance(value, list):
        for place, item in enumerate(value):
            _check_json(item, f"{path}[{place}]", depth + 1)
    elif isinstance(value, float):
        _check_float(value, path)
    elif value is not None and kind not in (str, int, bool):
        raise ValidationError(f"{path} is a {kind.__name__}, which JSON can't hold", hint="put it into the state")


def _check_float(value: float, path: str) -> None:
    # JSONB keeps decimal digits, not floats: 1e16 comes back as an int, -0.0 as 0.0.
    if (
        type(value) is not float
        or not math.isfinite(value)
        or abs(value) >= 1e16
        or (not value and repr(value) != "0.0")
    ):
        raise ValidationError(f"{path} is {value!r}, which JSONB does not give back", hint="put it into the state")
