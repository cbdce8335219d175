"""What a checkpointer refuses before it reads or writes anything, the same on every backend."""

from __future__ import annotations

from datetime import UTC, datetime

from checkpoint.records import Checkpoint
from persistence.errors import ValidationError
from persistence.validation import ID_BYTES, check_id, check_text, check_whole, metadata_json

MAX_VERSION = 2**62


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
    for value, what, least in (
        (checkpoint.version, "the version", 1),
        (checkpoint.parent_version, "the parent version", 1),
        (checkpoint.step, "the step", -MAX_VERSION),
        (expected_version, "the expected version", 0),
    ):
        if value is not None:
            check_whole(what, value, least=least, most=MAX_VERSION)
    if checkpoint.node is not None:
        check_id("the node", checkpoint.node)
    _check_timestamp(checkpoint.timestamp)
    return metadata_json(checkpoint.metadata)


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
