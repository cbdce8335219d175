"""How a LangGraph checkpoint lies in one of ours: a channel is a key of the state, and what else it has goes beside.

The checkpoint's id is our key, its ``ts`` our timestamp, its metadata our metadata, as far as it is JSON. The rest is
in three keys of the state, of which the first changes every step and is kept small, and the others hardly ever change:

- ``langgraph.step``: the parent's id, the channels' versions and the versions seen without names, what was updated;
- ``langgraph.layout``: the names that belong to them, and the format's version ``v``;
- ``langgraph.more``: what a checkpoint or its metadata has that neither JSON nor LangGraph's own keys hold.

A channel whose own name begins with ``langgraph.`` is kept as ``langgraph.=`` and that name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import cache
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from checkpoint.records import Checkpoint
from persistence.errors import CorruptError, ValidationError
from persistence.validation import ID_BYTES, is_plain_json, metadata_json

# LangGraph is imported where it is used: this module belongs to the adapter, and comes without the extra as well.
if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import Checkpoint as GraphCheckpoint
    from langgraph.checkpoint.base import CheckpointMetadata, CheckpointTuple

RESERVED = "langgraph."
STEP = "langgraph.step"
LAYOUT = "langgraph.layout"
MORE = "langgraph.more"
OWN = "langgraph.="

_VOLATILE = frozenset({STEP})
_PLAIN: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}
_KNOWN = frozenset({"v", "ts", "id", "channel_values", "channel_versions", "versions_seen", "updated_channels"})


def thread_of(config: RunnableConfig) -> tuple[str, str, str | None]:
    """Return the thread, the namespace and the checkpoint's id (None: the latest) that a config names.

    Raises:
        ValidationError: it names no thread.
    """
    named = config.get("configurable", {})
    thread_id = named.get("thread_id")
    if thread_id is None:
        raise ValidationError(
            "the config names no thread", hint='pass {"configurable": {"thread_id": "…"}} to the graph'
        )
    if isinstance(thread_id, int) and not isinstance(thread_id, bool):
        thread_id = str(thread_id)
    return thread_id, named.get("checkpoint_ns") or "", checkpoint_id_of(config)


def checkpoint_id_of(config: RunnableConfig | None) -> str | None:
    """Return the id of the checkpoint that a config names, if it names one; it need not name the thread."""
    return (config or {}).get("configurable", {}).get("checkpoint_id") or None


def config_of(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    """Return the config that names a checkpoint."""
    return {
        "configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id},
    }


class Seen(NamedTuple):
    """A checkpoint of a thread as it was saved last: what the next one may have in common with it."""

    versions: dict[str, Any]
    seen: dict[str, list[str]]
    layout: list[Any]
    places: dict[str, int]
    """The place of each channel among those that have a version."""
    plain: frozenset[str]
    """The channels among them that are kept under their own names."""
    lists: dict[str, tuple[object, ...]]
    """What was in the lists of the channels that are only appended to."""


def to_record(
    place: tuple[str, str, str | None],
    config: RunnableConfig,
    graph: GraphCheckpoint,
    metadata: CheckpointMetadata,
    parent_version: int | None,
    before: Seen | None = None,
    append_only: Collection[str] = (),
) -> tuple[Checkpoint, Seen]:
    """Return our checkpoint for one of LangGraph's; the config names its thread and its parent: ``place``.

    ``before`` is the parent, if it was the last to be saved: a channel of the same version has the same value, and one
    that is only appended to has the same items before the new ones, where those are the same objects.
    """
    thread_id, namespace, parent_id = place
    described, more = _split(_merged(config, metadata))
    moment = _moment(graph["ts"])
    values, versions, nodes = graph["channel_values"], graph["channel_versions"], graph["versions_seen"]
    lists = {name: (*values[name],) for name in append_only if type(values.get(name)) is list}
    now, known_layout = _look(graph, before, lists)
    places = now.places
    unchanged: set[str] = set()
    if before is not None:
        known = before.versions
        unchanged = {name for name, version in versions.items() if known.get(name) == version}
    if len(now.plain) == len(versions) and now.plain.issuperset(values):
        state = dict(values)
    else:
        state = {_inside(name): value for name, value in values.items()}
        unchanged = set(map(_inside, unchanged))
    if known_layout:
        unchanged.add(LAYOUT)
    state[LAYOUT] = now.layout
    updated = graph.get("updated_channels")
    state[STEP] = [
        parent_id,
        [*versions.values()],
        [version for channels in nodes.values() for version in channels.values()],
        # Absent, None and a list are three things.
        [places.get(name, name) for name in updated] if updated is not None else "updated_channels" in graph,
        graph["ts"] if moment is None else None,
    ]
    if more or not _KNOWN.issuperset(graph):
        state[MORE] = [{name: value for name, value in graph.items() if name not in _KNOWN}, more]
    step = described.get("step")
    record = Checkpoint(
        thread_id,
        state,
        metadata=described,
        timestamp=moment,
        parent_version=parent_version,
        namespace=namespace,
        step=step if type(step) is int else None,
        key=graph["id"],
        unchanged=unchanged,
        appended=_appended(lists, before) if lists else None,
        volatile=_VOLATILE,
    )
    return record, now


def _appended(lists: Mapping[str, tuple[object, ...]], before: Seen | None) -> dict[str, int]:
    """Return how many items each list got, of those that begin with the objects that they had."""
    found = {}
    for name, items in lists.items():
        known = None if before is None else before.lists.get(name)
        if known is not None and len(known) <= len(items) and all(map(is_, known, items)):
            found[_inside(name)] = len(items) - len(known)
    return found


def _look(graph: GraphCheckpoint, before: Seen | None, lists: dict[str, tuple[object, ...]]) -> tuple[Seen, bool]:
    """Return what the next checkpoint may have in common with this one, and whether its layout is that before."""
    versions = dict(graph["channel_versions"])
    names = [*versions]
    seen = {node: [*channels] for node, channels in graph["versions_seen"].items()}
    if before is not None and before.layout[1] == names and before.layout[0] == graph["v"] and before.seen == seen:
        return Seen(versions, seen, before.layout, before.places, before.plain, lists), True
    places = {name: place for place, name in enumerate(names)}
    shown = [[node, [places.get(name, name) for name in channels]] for node, channels in seen.items()]
    plain = frozenset([name for name in names if not name.startswith(RESERVED)])
    return Seen(versions, seen, [graph["v"], names, shown], places, plain, lists), False


def to_tuple(record: Checkpoint) -> CheckpointTuple:
    """Return LangGraph's checkpoint of one of ours, with its pending writes.

    Raises:
        CorruptError: it wasn't saved by ``to_record``.
    """
    from langgraph.checkpoint.base import CheckpointTuple

    state = record.state
    if record.key is None or STEP not in state or LAYOUT not in state:
        raise CorruptError(
            f"checkpoint {record.version} of thread {record.thread_id!r} wasn't saved by LangGraph",
            hint="give LangGraph threads of their own",
        )
    v, names, nodes = state[LAYOUT]
    parent, versions, seen, updated, ts = state[STEP]
    rest, more = state.get(MORE, ({}, {}))
    values = {name: value for name, value in state.items() if not name.startswith(RESERVED)}
    if len(values) + 2 + (MORE in state) < len(state):  # names that begin as ours do
        values = {_outside(name): value for name, value in state.items() if not _is_ours(name)}
    graph: dict[str, Any] = {
        "v": v,
        "ts": ts if ts is not None or record.timestamp is None else record.timestamp.isoformat(),
        "id": record.key,
        "channel_values": values,
        "channel_versions": dict(zip(names, versions, strict=True)),
        "versions_seen": _versions_seen(nodes, names, seen),
        **rest,
    }
    if updated is not False:
        graph["updated_channels"] = None if updated is True else [_name(name, names) for name in updated]
    return CheckpointTuple(
        config=config_of(record.thread_id, record.namespace, record.key),
        checkpoint=cast("GraphCheckpoint", graph),
        metadata=cast("CheckpointMetadata", {**record.metadata, **more}),
        parent_config=config_of(record.thread_id, record.namespace, parent) if parent else None,
        pending_writes=[(write.task_id, write.channel, write.value) for write in record.writes],
    )


def _versions_seen(nodes: list[Any], names: list[str], flat: list[Any]) -> dict[str, dict[str, Any]]:
    """Return what each node has seen; ``flat`` are the versions of all of them end to end."""
    found, start = {}, 0
    for node, channels in nodes:
        end = start + len(channels)
        named = [names[channel] if type(channel) is int else channel for channel in channels]
        found[node] = dict(zip(named, flat[start:end], strict=True))
        start = end
    return found


def just_before(thread_id: str) -> str | None:
    """Return an id that is less than this one, with hardly any between them; None: there is no lesser one."""
    last = ord(thread_id[-1]) - 1
    if last < 1:
        return thread_id[:-1] or None
    if 0xD800 <= last <= 0xDFFF:
        last = 0xD7FF
    return thread_id[:-1] + chr(last) + "\U0010ffff" * (len(thread_id.encode()) < ID_BYTES - 4)


def parent_of(found: CheckpointTuple) -> str | None:
    """Return the id of a checkpoint's parent."""
    return None if found.parent_config is None else thread_of(found.parent_config)[2]


def numbered(writes: list[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], list[int]]:
    """Return writes with the indices under which LangGraph keeps them: its own channels have fixed ones below zero.

    Of two writes to such a channel the last counts. An exception is kept as its repr, as LangGraph's serializer does.
    """
    from langgraph.checkpoint.base import WRITES_IDX_MAP

    by_index: dict[int, tuple[str, Any]] = {}
    for index, (channel, value) in enumerate(writes):
        by_index[WRITES_IDX_MAP.get(channel, index)] = (
            channel,
            repr(value) if isinstance(value, BaseException) else value,
        )
    return list(by_index.values()), list(by_index)


def _merged(config: RunnableConfig, metadata: CheckpointMetadata) -> dict[str, Any]:
    """Return the metadata with what LangGraph takes along from the config; get_checkpoint_metadata would drop NULs."""
    merged: dict[str, Any] = dict(metadata)
    left_out = _left_out()
    sources: tuple[Mapping[str, Any] | None, ...] = (config.get("metadata"), config.get("configurable"))
    for source in sources:
        for name, value in (source or {}).items():
            if name in merged or name in left_out or name.startswith("__"):
                continue
            plain = next((base for base in (bool, str, int, float) if isinstance(value, base)), None)
            if plain is not None:
                # A member of a text enum, as it may stand in a config, counts as its text.
                merged[name] = value if type(value) is plain else _PLAIN[plain](value)
    return merged


@cache
def _left_out() -> frozenset[str]:
    from langgraph.checkpoint.base import EXCLUDED_METADATA_KEYS

    return frozenset(EXCLUDED_METADATA_KEYS)


def _split(metadata: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metadata that JSON holds faithfully, and the rest, which listings can't filter by."""
    if _is_json(metadata):
        return metadata, {}
    # LangGraph says itself that it keeps these pairs as JSON lists.
    counters = metadata.get("counters_since_delta_snapshot")
    if isinstance(counters, dict):
        metadata["counters_since_delta_snapshot"] = {name: list(pair) for name, pair in counters.items()}
    described = {name: value for name, value in metadata.items() if _is_json({name: value})}
    return described, {name: value for name, value in metadata.items() if name not in described}


def _is_json(metadata: dict[str, Any]) -> bool:
    if is_plain_json(metadata):
        return True
    try:
        metadata_json(metadata)
    except ValidationError:
        return False
    return True


def _moment(ts: object) -> datetime | None:
    """Return the time that a text is the exact form of, None when it has another form."""
    if not isinstance(ts, str):
        return None
    try:
        moment = datetime.fromisoformat(ts)
    except ValueError:
        return None
    return moment if moment.tzinfo is UTC and moment.isoformat() == ts else None


def _name(stored: int | str, names: list[str]) -> str:
    return names[stored] if isinstance(stored, int) else stored


def _inside(channel: str) -> str:
    return OWN + channel if channel.startswith(RESERVED) else channel


def _outside(name: str) -> str:
    return name.removeprefix(OWN)


def _is_ours(name: str) -> bool:
    return name.startswith(RESERVED) and not name.startswith(OWN)
