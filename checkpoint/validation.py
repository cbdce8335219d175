"""What a checkpointer refuses before it reads or writes anything, the same on every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from checkpoint.records import Checkpoint, Durability, describe
from persistence.errors import ValidationError
from persistence.fields import Duration, seconds
from persistence.validation import ID_BYTES, check_id, check_moment, check_text, check_whole, metadata_json

MAX_VERSION = 2**62
MAX_INDEX = 2**31
KEYED_BYTES = 2048
"""The most bytes that a thread id, a namespace, a key and a task id have together: they share an index entry."""
MAX_TTL = timedelta(days=366 * 1000)
DURABILITIES = ("sync", "async", "exit")


def check_thread(thread_id: object, namespace: object) -> None:
    """Refuse what can't name a thread; a namespace may be empty."""
    check_id("the thread id", thread_id)
    if namespace != "":
        check_text("the namespace", namespace, limit=ID_BYTES)


def check_checkpoint(checkpoint: object, expected_version: object) -> str:
    """Refuse a checkpoint that can't be saved faithfully; return its metadata as JSON text. The state comes later."""
    if not isinstance(checkpoint, Checkpoint):
        raise ValidationError(f"save_checkpoint takes a Checkpoint, not {type(checkpoint).__name__}")
    check_thread(checkpoint.thread_id, checkpoint.namespace)
    if type(checkpoint.state) is not dict:
        raise ValidationError(
            f"a state is a dict, not {type(checkpoint.state).__name__}", hint="dict(state), or {'value': state}"
        )
    if checkpoint.version is not None:
        check_whole("the version", checkpoint.version, most=MAX_VERSION)
    if checkpoint.parent_version is not None:
        check_whole("the parent version", checkpoint.parent_version, most=MAX_VERSION)
    if checkpoint.step is not None:
        check_whole("the step", checkpoint.step, least=-MAX_VERSION, most=MAX_VERSION)
    if expected_version is not None:
        check_whole("the expected version", expected_version, least=0, most=MAX_VERSION)
    if checkpoint.node is not None:
        check_id("the node", checkpoint.node)
    if checkpoint.key is not None:
        check_key(checkpoint.thread_id, checkpoint.namespace, checkpoint.key)
    if checkpoint.appended is not None:
        _check_appended(checkpoint.appended)
    moment = checkpoint.timestamp
    if moment is not None and not (type(moment) is datetime and moment.tzinfo is UTC):
        check_moment("the timestamp", moment)
    return metadata_json(checkpoint.metadata)


def _check_appended(appended: object) -> None:
    if not isinstance(appended, Mapping):
        raise ValidationError(f"appended is a {type(appended).__name__}", hint='{"messages": 1}')
    for channel, count in appended.items():
        check_whole(f"what was appended to {str(channel)[:80]!r}", count, least=0)


def check_key(thread_id: str, namespace: str, key: object, task_id: object = None) -> None:
    """Refuse a key, and a task id, that can't be an entry of an index together with the thread."""
    given = [thread_id, namespace, check_id("the key", key)]
    if task_id is not None:
        given.append(check_id("the task id", task_id))
    together = "".join(given)
    # No character takes more than four bytes.
    size = len(together) if 4 * len(together) <= KEYED_BYTES else len(together.encode())
    if size > KEYED_BYTES:
        what = "the thread id, the namespace and the key"
        if task_id is not None:
            what = "the thread id, the namespace, the key and the task id"
        raise ValidationError(f"{what} have {size:,} bytes in UTF-8 together, more than the limit of {KEYED_BYTES:,}")


def check_filter(wanted: object) -> str | None:
    """Return what metadata must contain as JSON text, None for no filter."""
    return None if wanted is None or wanted == {} else metadata_json(wanted, "the filter")


def check_writes(writes: object, start: object, indices: object) -> list[int]:
    """Return the index of each write: given ones, or counted from ``start``."""
    if isinstance(writes, str | bytes) or not isinstance(writes, Sequence):
        raise ValidationError(f"writes are a sequence of (channel, value), not {type(writes).__name__}")
    for write in writes:
        if not isinstance(write, tuple | list) or len(write) != 2:
            raise ValidationError("a write is a pair of a channel and a value")
        check_text("the channel", write[0], limit=ID_BYTES)
    check_whole("start", start, least=0, most=MAX_INDEX)
    if indices is None:
        return [start + place for place in range(len(writes))]  # type: ignore[operator]
    if isinstance(indices, str | bytes) or not isinstance(indices, Sequence) or len(indices) != len(writes):
        raise ValidationError(f"indices are as many as the writes, {len(writes)}")
    found = [check_whole("an index", index, least=-MAX_INDEX, most=MAX_INDEX) for index in indices]
    if len(set(found)) != len(found):
        raise ValidationError("two writes have the same index")
    return found


def check_ttl(ttl: Duration | None) -> timedelta | None:
    """Return a time to live: more than nothing, at most a thousand years."""
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float | timedelta):
        raise ValidationError(f"the ttl is a {type(ttl).__name__}, not a timedelta or seconds")
    try:
        found = timedelta(seconds=seconds(ttl))
    except (OverflowError, ValueError):
        raise ValidationError(f"the ttl {ttl} is not within 0 and {MAX_TTL.days:,} days") from None
    if not timedelta(0) < found <= MAX_TTL:
        raise ValidationError(f"the ttl {ttl} is not within 0 and {MAX_TTL.days:,} days")
    return found


def check_cutoff(older_than: object) -> datetime | None:
    """Return the moment before which something is older than a timedelta from now, or than a datetime."""
    if older_than is None:
        return None
    if isinstance(older_than, timedelta):
        try:
            return datetime.now(UTC) - older_than
        except OverflowError:
            raise ValidationError(f"{older_than} ago is outside the calendar") from None
    return check_moment("older_than", older_than, "or a timedelta")


def check_fork(thread_id: object, new_thread: object, namespace: object = "") -> None:
    """Refuse a fork of a thread onto itself."""
    check_thread(thread_id, namespace)
    check_id("the new thread id", new_thread)
    if thread_id == new_thread:
        raise ValidationError(f"{describe(str(thread_id), '')} can't be copied onto itself")


def check_durability(durability: object) -> Durability:
    """Return how durable a save is to be: sync, async or exit."""
    if durability not in DURABILITIES:
        raise ValidationError(f"durability is 'sync', 'async' or 'exit', not {str(durability)[:80]!r}")
    return cast(Durability, durability)
