"""The classes that LangGraph keeps in checkpoints, each named here; stored bytes can make no other.

LangGraph and LangChain are imported where they are used: this module belongs to the adapter, and comes without the
extra as well.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any

from checkpoint.langgraph_messages import register_model
from checkpoint.serializer import Serializer
from persistence.errors import CorruptError, ValidationError

ADDRESSES: tuple[type, ...] = (
    ipaddress.IPv4Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Address,
    ipaddress.IPv6Interface,
    ipaddress.IPv6Network,
)


def register_classes(serializer: Serializer, classes: Iterable[type]) -> None:
    """Allow what LangGraph itself stores, LangChain's messages and documents, and a user's classes.

    What is registered already stays as it is registered.
    """
    from langgraph.checkpoint.serde.types import _DeltaSnapshot
    from langgraph.store.base import GetOp, Item

    for cls in _langchain_types():
        if not _knows(serializer, cls):
            register_model(serializer, cls)
    for cls in (*_graph_types(), _DeltaSnapshot, GetOp, *classes):
        _register(serializer, cls)
    for cls in ADDRESSES:
        _register(serializer, cls, str, cls)
    _register(serializer, re.Pattern, lambda found: [found.pattern, found.flags], _pattern)
    _register(serializer, Item, _fields_of_item, lambda stored: Item(**dict(zip(_ITEM, stored, strict=True))))
    _register_send(serializer)


def _register(
    serializer: Serializer,
    cls: type,
    to_state: Callable[[Any], Any] | None = None,
    from_state: Callable[[Any], Any] | None = None,
) -> None:
    if not _knows(serializer, cls):
        serializer.register(cls, None, to_state, from_state)


def _knows(serializer: Serializer, cls: type) -> bool:
    return cls in serializer._registry.by_type


def _langchain_types() -> tuple[type, ...]:
    from langchain_core import messages
    from langchain_core.documents import Document

    return (
        Document,
        messages.AIMessage,
        messages.AIMessageChunk,
        messages.ChatMessage,
        messages.ChatMessageChunk,
        messages.FunctionMessage,
        messages.FunctionMessageChunk,
        messages.HumanMessage,
        messages.HumanMessageChunk,
        messages.RemoveMessage,
        messages.SystemMessage,
        messages.SystemMessageChunk,
        messages.ToolMessage,
        messages.ToolMessageChunk,
    )


def _graph_types() -> tuple[type, ...]:
    """Return the types of langgraph itself, which a saver works without."""
    try:
        from langgraph import types
    except ImportError:
        return ()
    return (
        types.Command,
        types.Interrupt,
        types.Overwrite,
        types.PregelTask,
        types.StateSnapshot,
        types.TimeoutPolicy,
    )


def _register_send(serializer: Serializer) -> None:
    try:
        from langgraph.types import Send
    except ImportError:
        return

    def send(stored: list[Any]) -> Send:
        node, arg, timeout = stored
        return Send(node, arg, timeout=timeout)

    _register(serializer, Send, lambda sent: [sent.node, sent.arg, sent.timeout], send)


def register_named(serializer: Serializer, names: Collection[tuple[str, ...]]) -> None:
    """Allow the classes of a graph's schemas, by module and name; what isn't imported or needs more is left out."""
    for module, *path in names:
        found: Any = sys.modules.get(module)
        for part in ".".join(path).split("."):
            found = getattr(found, part, None)
        if not isinstance(found, type):
            continue
        try:
            _register(serializer, found)
        except ValidationError:
            # Either it needs no registering, or a save that meets it says what it needs.
            continue


def pointing_out(exc: ValidationError | CorruptError) -> ValidationError | CorruptError:
    """Return the error of an unregistered class with the way that it is registered here."""
    if "register" not in (exc.hint or "") and "register" not in exc.message:
        return exc
    return type(exc)(
        exc.message,
        hint="HoldfastSaver(…, classes=[TheClass]) and HoldfastSaver.from_url(…, classes=[TheClass]) allow a class; "
        "one that needs to_state= and from_state= is registered with the checkpointer's Serializer",
        operation=exc.operation,
        connection=exc.connection,
    )


def _pattern(stored: list[Any]) -> re.Pattern[Any]:
    return re.compile(*stored)


_ITEM = ("namespace", "key", "value", "created_at", "updated_at")


def _fields_of_item(item: Any) -> list[Any]:
    return [getattr(item, name) for name in _ITEM]
