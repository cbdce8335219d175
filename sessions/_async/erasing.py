"""What a memory graph, an event log and a task store have of one user: exported and erased, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from persistence.errors import ConflictError, NotFoundError
from persistence.validation import check_id
from sessions.events import Event, event_from_row
from sessions.graph import Edge, Node
from sessions.graph_rows import escaped, node_from_row
from sessions.scopes import Approval
from sessions.tasks import Task, task_from_row
from sessions.user_lines import USER_ID, edge_line, event_line, node_line, task_line

if TYPE_CHECKING:
    from sessions._async.events import AsyncEventLog
    from sessions._async.graph import AsyncMemoryGraph
    from sessions._async.tasks import AsyncTaskStore

TRIES = 10
"""How often a task that turns out to have others below it is tried."""
PAGE = 500
"""How many records are read or erased at once."""


def _of(user_id: str, after: tuple[datetime | None, str | int | None] | None) -> dict[str, Any]:
    """Return what a listing of a user takes; ``after`` is the time and the id of the last record of the page before."""
    moment, id = after or (None, None)
    return {"user": user_id, "limit": PAGE, "after_time": moment, "after_id": id}


async def _nodes(graph: AsyncMemoryGraph, user_id: str, last: Node | None = None) -> list[Node]:
    values = _of(escaped({USER_ID: user_id})[USER_ID], (last.updated_at, last.id) if last else None)
    return await graph._read_all(node_from_row, "list_user_nodes", values)


async def export_nodes(graph: AsyncMemoryGraph, user_id: str) -> AsyncIterator[str]:
    """Yield the nodes of a user as JSON lines, those written last first, each followed by its edges."""
    user, last = check_id("user_id", user_id), None
    graph._may_read()
    while page := await _nodes(graph, user, last):
        for node in page:
            yield node_line(node)
            async for edge in _edges(graph, node.id, user):
                yield edge_line(edge)
        last = page[-1]


async def _edges(graph: AsyncMemoryGraph, node_id: str, user_id: str) -> AsyncIterator[Edge]:
    """Yield a node's edges, but those that come in from another node of the user, whose they are already."""
    after = None
    while page := await graph.edges(node_id, direction="both", limit=PAGE, after=after):
        sources = await graph.get_nodes([edge.source for edge in page if edge.source != node_id])
        own = {source.id for source in sources if source.attributes.get(USER_ID) == user_id}
        for edge in page:
            if edge.source not in own:
                yield edge
        after = page[-1].cursor


async def erase_nodes(graph: AsyncMemoryGraph, user_id: str, approved_by: str | Approval | None) -> dict[str, int]:
    """Delete the nodes of a user with their edges and histories, and what is known of those deleted before."""
    user, counts = check_id("user_id", user_id), {"nodes": 0, "edges": 0}
    graph._may_read()
    while page := await _nodes(graph, user):
        for node in page:
            gone = await graph.delete_node(node.id, forget_history=True, approved_by=approved_by)
            counts["nodes"] += gone.nodes
            counts["edges"] += gone.edges
    stored = escaped({USER_ID: user})[USER_ID]
    while await graph._change("graph_erase_history", {"user": stored, "limit": PAGE}):
        pass
    return counts


async def _events(log: AsyncEventLog, user_id: str, last: Event | None) -> list[Event]:
    values = _of(user_id, (last.time, last.id) if last else None)
    return await log._read_all(event_from_row, "list_user_events", values)


async def export_events(log: AsyncEventLog, user_id: str) -> AsyncIterator[str]:
    """Yield the events of a user as JSON lines, newest first."""
    user, last = check_id("user_id", user_id), None
    while page := await _events(log, user, last):
        for event in page:
            yield event_line(event)
        last = page[-1]


async def erase_events(log: AsyncEventLog, user_id: str) -> dict[str, int]:
    """Delete the events of a user but those of audit chains, which would be broken."""
    user, last, count = check_id("user_id", user_id), None, 0
    while page := await _events(log, user, last):
        count += await log._erase([event for event in page if event.chain is None])
        last = page[-1]
    return {"events": count}


async def _tasks(tasks: AsyncTaskStore, user_id: str, last: Task | None = None) -> list[Task]:
    if tasks._is_on_redis:  # which has an index of no metadata
        return await tasks.find(where={USER_ID: user_id}, limit=PAGE, after=last.cursor if last else None)
    values = {**_of(user_id, (last.created_at, last.id) if last else None), "view": tasks._view}
    return await tasks._read_all(task_from_row, "list_user_tasks", values)


async def export_tasks(tasks: AsyncTaskStore, user_id: str) -> AsyncIterator[str]:
    """Yield the tasks of a user as JSON lines, newest first, each followed by what is below it; a task comes once."""
    user, last = check_id("user_id", user_id), None
    while page := await _tasks(tasks, user, last):
        for task in page:
            yield task_line(task)
            async for below in _below(tasks, task, user):
                yield task_line(below)
        last = page[-1]


async def _below(tasks: AsyncTaskStore, root: Task, user_id: str) -> AsyncIterator[Task]:
    """Yield the tasks below one, but those that name the user, which come by themselves with what is below them."""
    parents, met = [root.id or ""], {root.id}
    while parents:
        parent, after = parents.pop(), None
        while page := await tasks.find(parent=parent, limit=PAGE, after=after):
            for task in page:
                if task.metadata.get(USER_ID) != user_id and task.id not in met:
                    yield task
                    parents.append(task.id or "")
                    met.add(task.id)
            after = page[-1].cursor


async def erase_tasks(tasks: AsyncTaskStore, user_id: str) -> dict[str, int]:
    """Delete the tasks of a user and what is below them; open ones are cancelled first."""
    user, count = check_id("user_id", user_id), 0
    while page := await _tasks(tasks, user):
        for task in page:
            count += await _erase_tree(tasks, task.id or "")
    return {"tasks": count}


async def _erase_tree(tasks: AsyncTaskStore, root: str) -> int:
    """Delete a task after all that are below it; return how many went.

    Raises:
        ConflictError: it has others below it that this store doesn't see, or is given new ones all the time.
    """
    count, tries, waiting, met = 0, TRIES, [root], {root}
    while waiting:
        children = [child.id or "" for child in await tasks.find(parent=waiting[-1], limit=PAGE)]
        if new := [child for child in children if child not in met]:
            waiting += new
            met.update(new)
            continue
        task_id = waiting.pop()
        with suppress(ConflictError, NotFoundError):  # it has ended, or is gone
            await tasks.cancel(task_id)
        try:
            count += await tasks.delete(task_id)
        except ConflictError:
            tries -= 1
            if not tries:
                raise
            waiting.append(task_id)  # somebody added one below it meanwhile
    return count
