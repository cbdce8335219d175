"""Own the lines in which the checkpoints of a user are handed out: JSON that people read, not a form to load again."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from checkpoint.records import Checkpoint


def export_line(checkpoint: Checkpoint) -> str:
    """Return a checkpoint as one line of JSON; of its state, what JSON has no form for is told as text."""
    found = {
        "kind": "checkpoint",
        "thread_id": checkpoint.thread_id,
        "namespace": checkpoint.namespace,
        "version": checkpoint.version,
        "timestamp": None if checkpoint.timestamp is None else checkpoint.timestamp.isoformat(),
        "node": checkpoint.node,
        "step": checkpoint.step,
        "metadata": checkpoint.metadata,
        "state": _plain(checkpoint.state),
    }
    return json.dumps(found, separators=(",", ":"))


def _plain(value: object) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else repr(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | datetime) else repr(value)
