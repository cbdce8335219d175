"""How checkpoints lie in Redis: the names of keys, records and pending writes as bytes (docs/formats.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from checkpoint.pieces import cut
from checkpoint.records import Checkpoint
from persistence.dialect import from_json, from_micros, to_micros
from persistence.errors import CorruptError

_YEAR_1 = -to_micros(datetime(1, 1, 1, tzinfo=UTC))
_ABSENT = b"-"
_RECORD = re.compile(
    rb"(?P<parent>\d+|-) (?P<refs>\d+(?:,\d+)*|-) (?P<created>\d{18}) (?P<step>-?\d+|-) (?P<tag>[t-])"
    rb" (?P<key>\d+|-) (?P<node>\d+|-) (?P<metadata>\d+)\n"
)


@lru_cache(maxsize=1024)
def thread_keys(tenant: str, thread_id: str) -> tuple[bytes, ...]:
    """Return the keys of a thread: heads, data, versions, writes, tasks. They are in one slot of a cluster.

    Ids are percent-encoded, so that none can name the keys of another, or end the hash tag.
    """
    name = f"holdfast:{{{quote(tenant, safe='')}:{quote(thread_id, safe='')}}}:checkpoint:".encode()
    return tuple(name + part for part in (b"heads", b"data", b"versions", b"writes", b"tasks"))


def tenant_keys(tenant: str) -> tuple[bytes, ...]:
    """Return the keys of a tenant: threads, registered, expiring. They are in one slot of a cluster."""
    name = f"holdfast:{{{quote(tenant, safe='')}}}:checkpoint:".encode()
    return tuple(name + part for part in (b"threads", b"registered", b"expiring"))


def pack_moment(moment: datetime) -> bytes:
    """Return a time as microseconds since the year 1 in 18 digits, which are ordered as the times are."""
    return b"%018d" % (to_micros(moment) + _YEAR_1)


def _optional(value: object) -> bytes:
    return _ABSENT if value is None else str(value).encode()


def pack_record(checkpoint: Checkpoint, metadata: str, moment: datetime, manifest: bytes, refs: Sequence[int]) -> bytes:
    """Return a checkpoint as it is stored, without the parent and the space that it begins with."""
    key = None if checkpoint.key is None else checkpoint.key.encode()
    node = None if checkpoint.node is None else checkpoint.node.encode()
    described = metadata.encode()
    header = b" ".join(
        (
            ",".join(map(str, refs)).encode() or _ABSENT,
            pack_moment(moment),
            _optional(checkpoint.step),
            b"t" if "tag" in checkpoint.metadata else _ABSENT,
            _optional(None if key is None else len(key)),
            _optional(None if node is None else len(node)),
            b"%d\n" % len(described),
        )
    )
    return b"".join((header, key or b"", node or b"", described, manifest))


@dataclass(frozen=True, slots=True)
class Record:
    """A checkpoint as it was read; ``manifest`` is empty where it was not asked for."""

    version: int
    parent: int | None
    refs: list[int]
    moment: datetime
    step: int | None
    key: str | None
    node: str | None
    metadata: str
    manifest: bytes

    def described(self) -> dict[str, Any]:
        """Return what a checkpoint and its listing have in common."""
        return {
            "version": self.version,
            "timestamp": self.moment,
            "metadata": from_json(self.metadata),
            "parent_version": self.parent,
            "node": self.node,
            "step": self.step,
            "key": self.key,
        }


def unpack_record(version: int, data: bytes | None) -> Record:
    """Return a stored checkpoint.

    Raises:
        CorruptError: it is missing or damaged.
    """
    found = None if data is None else _RECORD.match(data)
    if data is None or found is None:
        raise CorruptError("its record is " + ("missing" if data is None else "damaged"))
    start = found.end()
    parts: list[bytes | None] = []
    for name in ("key", "node", "metadata"):
        size = _number(found[name])
        parts.append(None if size is None else data[start : start + size])
        start += size or 0
    if start > len(data):
        raise CorruptError("its record is damaged: it was cut")
    try:
        key, node, metadata = [None if part is None else part.decode() for part in parts]
        moment = from_micros(int(found["created"]) - _YEAR_1)
    except (UnicodeDecodeError, OverflowError) as exc:
        raise CorruptError("its record is damaged") from exc
    refs = [] if found["refs"] == _ABSENT else [*map(int, found["refs"].split(b","))]
    return Record(
        version=version,
        parent=_number(found["parent"]),
        refs=refs,
        moment=moment,
        step=_number(found["step"]),
        key=key,
        node=node,
        metadata=metadata or "{}",
        manifest=data[start:],
    )


NO_HEAD = "-"
"""The base of a save that must find no head."""


def pack_save(namespace: str, *rest: int | str | None) -> bytes:
    """Return what a save asks for: namespace, stamp, base, expected, version, key, parent, with a NUL after each."""
    return "\0".join([namespace, *["" if part is None else str(part) for part in rest], ""]).encode()


class Row:
    """A checkpoint as the scripts give it, its blocks in the order of its refs, None for one that was not sent."""

    def __init__(self, answer: Sequence[Any]) -> None:
        version, stamp, counter, sizes = answer[0].split(b" ")
        self.version = int(version)
        self.stamp = _number(stamp)
        self.counter = int(counter)
        self.record: bytes = answer[1]
        self.blocks = cut(answer[2], sizes.decode())
        self.pending: list[bytes] = answer[3] if len(answer) > 3 else []


def _number(text: bytes) -> int | None:
    return None if text == _ABSENT else int(text)


def write_fields(namespace: str, key: str, task_id: str) -> bytes:
    """Return what the fields of a task's writes begin with; the index follows."""
    return "\0".join((namespace, key, task_id, "")).encode()


def pack_write(task_path: str, channel: str, data: bytes) -> bytes:
    """Return a pending write as it is stored; ``data`` is what ``writes.Item`` holds."""
    path, name = task_path.encode(), channel.encode()
    return b"".join((b"%d %d\n" % (len(path), len(name)), path, name, data))


def unpack_write(field: bytes, value: bytes | None) -> tuple[str, str, int, str, memoryview]:
    """Return task id, channel, index, task path and data of a stored write.

    Raises:
        CorruptError: it is missing or damaged.
    """
    task, _, index = field.rpartition(b"\0")
    sizes, newline, rest = (value or b"").partition(b"\n")
    try:
        path, name = map(int, sizes.split(b" "))
        if not newline or path + name > len(rest):
            raise ValueError("cut")
        return (
            task.decode(),
            rest[path : path + name].decode(),
            int(index),
            rest[:path].decode(),
            memoryview(rest)[path + name :],
        )
    except ValueError as exc:
        raise CorruptError(f"a write of task {task.decode(errors='replace')!r} is damaged or missing") from exc


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of a thread as they were read, by namespace."""

    fields: list[bytes]
    """Namespaces and heads in turns, as they are stored."""
    versions: dict[str, int]
    created_at: datetime
    updated_at: datetime


def unpack_heads(fields: list[bytes]) -> Heads:
    """Return the heads of a thread: stamp, counter, latest, created, updated and epoch of each namespace."""
    versions, created, updated = {}, [], []
    for namespace, head in zip(fields[::2], fields[1::2], strict=True):
        _, _, latest, made, used, _ = map(int, head.split(b" "))
        versions[namespace.decode()] = latest
        created.append(made)
        updated.append(used)
    return Heads(fields, versions, from_micros(min(created)), from_micros(max(updated)))


def in_pairs(found: Sequence[Any]) -> Mapping[bytes, Any]:
    """Return an answer of fields and values in turns as a dict."""
    return dict(zip(found[::2], found[1::2], strict=True))


def micros(span: timedelta) -> int:
    """Return a span of time in microseconds."""
    return span // timedelta(microseconds=1)
