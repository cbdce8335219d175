"""What a checkpointer takes and gives: checkpoints with and without states, pending writes, threads, reports."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any, Literal

Durability = Literal["sync", "async", "exit"]
"""Durable when the save returns; soon after; or when the workflow ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWrite:
    """What a task of a step wrote to a channel, kept until the step's checkpoint goes.

    ``index`` is its place among the task's writes; a negative one names a special write, which may be overwritten.
    """

    task_id: str
    channel: str
    value: Any
    index: int
    task_path: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a workflow at one step.

    ``state`` is a dict by channel name; a save stores the channels that changed. ``metadata`` is JSON, for listings.
    ``version``, ``timestamp`` and ``parent_version`` left None are filled in by the save: the next version of the
    thread, the time now, and the version that was the latest until then (None for the first). ``namespace`` sets
    apart the checkpoints of a subgraph, which have versions of their own. ``node`` and ``step`` say what made it.
    ``key`` is an idempotency key, unique in the thread and namespace: saving it again gives what is there.
    ``writes`` are filled in by a load that asks for them; a save doesn't store them. ``unchanged`` is a hint to a save:
    channels known to have the values of ``parent_version``. If that is the latest, and this process has it in mind,
    they are not looked at, which spares serializing large values to compare them. So does ``appended``: by channel, how
    many items its list got at the end since then, while those before are the same. ``volatile`` is one too: channels
    that change with every save, whose place is in the checkpoint's own row.
    """

    thread_id: str
    state: dict[str, Any]
    _: KW_ONLY
    metadata: dict[str, Any] = field(default_factory=dict)
    version: int | None = None
    timestamp: datetime | None = None
    parent_version: int | None = None
    namespace: str = ""
    node: str | None = None
    step: int | None = None
    key: str | None = None
    writes: tuple[PendingWrite, ...] = ()
    unchanged: Set[str] = field(default=frozenset(), repr=False, compare=False)
    appended: Mapping[str, int] | None = field(default=None, repr=False, compare=False)
    volatile: Set[str] = field(default=frozenset(), repr=False, compare=False)


def as_saved(checkpoint: Checkpoint, version: int, timestamp: datetime, parent_version: int | None) -> Checkpoint:
    """Return a checkpoint as it was saved, without what is for the save alone; a third of what ``replace`` takes."""
    return Checkpoint(
        checkpoint.thread_id,
        checkpoint.state,
        metadata=checkpoint.metadata,
        version=version,
        timestamp=timestamp,
        parent_version=parent_version,
        namespace=checkpoint.namespace,
        node=checkpoint.node,
        step=checkpoint.step,
        key=checkpoint.key,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint as it is listed: everything but its state."""

    thread_id: str
    version: int
    timestamp: datetime
    metadata: dict[str, Any]
    parent_version: int | None = None
    namespace: str = ""
    node: str | None = None
    step: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadInfo:
    """A thread as it is listed: the latest version in each of its namespaces (0: none left), and when it was used.

    ``updated_at`` is the time of the last save.
    """

    thread_id: str
    versions: dict[str, int]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDiff:
    """How one state became another, by channel: new values, old values, and pairs of both.

    A channel has changed when its stored bytes are others: 1, 1.0 and True differ, NaN and NaN don't.
    """

    added: dict[str, Any]
    removed: dict[str, Any]
    changed: dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What a prune removed, or would: ``bytes`` as stored, of values and manifests, without the rows' own overhead."""

    checkpoints: int
    bytes: int


def describe(thread_id: str, namespace: str) -> str:
    """Return how messages name a thread."""
    return f"thread {thread_id!r}" + (f", namespace {namespace!r}" if namespace else "")
