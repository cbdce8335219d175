"""Moving threads from another LangGraph saver into one of ours, with their history and pending writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoint.langgraph_reading import whole_values
from persistence.errors import NotFoundError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

Place = tuple[str, str]


class Imported(NamedTuple):
    """What an import moved: how many threads, checkpoints and pending writes."""

    threads: int
    checkpoints: int
    writes: int


def import_langgraph(
    source: BaseCheckpointSaver[Any], target: BaseCheckpointSaver[Any], *, threads: Iterable[str] | None = None
) -> Imported:
    """Copy every thread of a saver (PostgresSaver, SqliteSaver, …), or those named, into another; say how many.

    Each thread comes oldest first and under the same ids, so a graph goes on where it was; whatever is there already
    stays, so an import that stopped half way is run again. Nothing is changed in the source. Writes come in the order
    in which the source returns them. Let nobody run the graphs meanwhile.

    Raises:
        ValidationError: a value is of a class that isn't registered with the target (``classes=``), or that can't be
            imported here, and of which LangGraph's serializer would give back the fields alone.
        NotFoundError: a thread that was named isn't there.
    """
    with whole_values(source):
        return _import(source, target, threads)


def _import(
    source: BaseCheckpointSaver[Any], target: BaseCheckpointSaver[Any], threads: Iterable[str] | None
) -> Imported:
    wanted = None if threads is None else [str(thread) for thread in threads]
    found = _ids(source, wanted)
    missing = sorted(set(wanted or ()) - {thread_id for thread_id, _ in found})
    if missing:
        raise NotFoundError(f"the source has no thread {missing[0]!r}", operation="import_langgraph")
    checkpoints = writes = 0
    for (thread_id, namespace), ids in found.items():
        # LangGraph's ids are in the order of their times, and the last one is the latest to its savers.
        for checkpoint_id in sorted(ids):
            named = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
            each = source.get_tuple({"configurable": named})
            if each is not None:
                writes += _copy(each, target)
                checkpoints += 1
    return Imported(len({thread_id for thread_id, _ in found}), checkpoints, writes)


def _ids(source: BaseCheckpointSaver[Any], threads: list[str] | None) -> dict[Place, list[str]]:
    """Return the ids of all checkpoints; nothing else is asked while a list is read, which some savers don't bear."""
    found: dict[Place, list[str]] = {}
    configs: list[Any] = [None] if threads is None else [{"configurable": {"thread_id": each}} for each in threads]
    for config in configs:
        for each in source.list(config):
            named = each.config["configurable"]
            place = (str(named["thread_id"]), named.get("checkpoint_ns", ""))
            found.setdefault(place, []).append(named["checkpoint_id"])
    return found


def _copy(found: CheckpointTuple, target: BaseCheckpointSaver[Any]) -> int:
    named = found.config["configurable"]
    parent = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
    place = {"thread_id": str(named["thread_id"]), "checkpoint_ns": named.get("checkpoint_ns", "")}
    config: Any = {"configurable": {**place, **({"checkpoint_id": parent} if parent else {})}}
    stored = target.put(config, found.checkpoint, found.metadata, found.checkpoint["channel_versions"])
    by_task: dict[str, list[tuple[str, Any]]] = {}
    for task_id, channel, value in found.pending_writes or ():
        by_task.setdefault(task_id, []).append((channel, value))
    # A tuple has lost the paths of its tasks, by which writes are ordered; their places do the same.
    for place_of_task, (task_id, task_writes) in enumerate(by_task.items()):
        target.put_writes(stored, task_writes, task_id, f"imported, {place_of_task:06}")
    return len(found.pending_writes or ())
