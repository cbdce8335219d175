# Generated from ../_async/erasing.py by tests/unasync.py: edit that one.
"""What a memory graph, an event log and a task store have of one user: exported and erased, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from persistence.errors import ConflictError, NotFoundError
from persistence.validation import check_id
from sessions.graph_rows import escaped
from sessions.scopes import Approval
from sessions.user_lines import USER_ID, event_line, node_line, task_line

if TYPE_CHECKING:
    from sessions._sync.events import EventLog
    from sessions._sync.graph import MemoryGraph
    from sessions._sync.tasks import TaskStore

TRIES = 10
"""How often a task that turns out to have others below it is tried."""
PAGE = 500
"""How many records are read or erased at once."""


def _of(user_id: object) -> dict[str, Any]:
    return {USER_ID: check_id("user_id", user_id)}


def export_nodes(graph: MemoryGraph, user_id: str) -> Iterator[str]:
    """Yield the nodes of a user as JSON lines, those written last first."""
    where, after = _of(user_id), None
    while page := graph.find(where=where, limit=PAGE, after=after):
        for node in page:
            yield node_line(node)
        after = page[-1].cursor


def erase_nodes(graph: MemoryGraph, user_id: str, approved_by: str | Approval | None) -> dict[str, int]:
    """Delete the nodes of a user with their edges and histories, and what is known of those deleted before."""
    where, counts = _of(user_id), {"nodes": 0, "edges": 0}
    while page := graph.find(where=where, limit=PAGE):
        for node in page:
            gone = graph.delete_node(node.id, forget_history=True, approved_by=approved_by)
            counts["nodes"] += gone.nodes
            counts["edges"] += gone.edges
    user = escaped(where)[USER_ID]
    while graph._change("graph_erase_history", {"user": user, "limit": PAGE}):
        pass
    return counts


def export_events(log: EventLog, user_id: str) -> Iterator[str]:
    """Yield the events of a user as JSON lines, newest first."""
    tags, after = _of(user_id), None
    while page := log.query(tags=tags, limit=PAGE, after=after):
        for event in page:
            yield event_line(event)
        after = page[-1].cursor


def erase_events(log: EventLog, user_id: str) -> dict[str, int]:
    """Delete the events of a user but those of audit chains, which would be broken."""
    tags, after, count = _of(user_id), None, 0
    while page := log.query(tags=tags, limit=PAGE, after=after):
        count += log._erase([event for event in page if event.chain is None])
        after = page[-1].cursor
    return {"events": count}


def export_tasks(tasks: TaskStore, user_id: str) -> Iterator[str]:
    """Yield the tasks of a user as JSON lines, newest first."""
    where, after = _of(user_id), None
    while page := tasks.find(where=where, limit=PAGE, after=after):
        for task in page:
            yield task_line(task)
        after = page[-1].cursor


def erase_tasks(tasks: TaskStore, user_id: str) -> dict[str, int]:
    """Delete the tasks of a user and what is below them; open ones are cancelled first."""
    where, count = _of(user_id), 0
    while page := tasks.find(where=where, limit=PAGE):
        for task in page:
            count += _erase_tree(tasks, task.id or "")
    return {"tasks": count}


def _erase_tree(tasks: TaskStore, root: str) -> int:
    """Delete a task after all that are below it; return how many went.

    Raises:
        ConflictError: it has others below it that this store doesn't see, or is given new ones all the time.
    """
    count, tries, waiting = 0, TRIES, [root]
    while waiting:
        children = tasks.find(parent=waiting[-1], limit=PAGE)
        if children:
            waiting += [child.id or "" for child in children]
            continue
        task_id = waiting.pop()
        with suppress(ConflictError, NotFoundError):  # it has ended, or is gone
            tasks.cancel(task_id)
        try:
            count += tasks.delete(task_id)
        except ConflictError:
            tries -= 1
            if not tries:
                raise
            waiting.append(task_id)  # somebody added one below it meanwhile
    return count
