"""Own what a copy to another database must know of sessions: how SQLite's tables become PostgreSQL's, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from persistence.copied_columns import Derived, RawRow, Route
from persistence.copy_planning import Before, Bound, CopyPlan
from persistence.dialect import from_micros
from sessions.context import NAMESPACE
from sessions.item_batches import filterable
from sessions.items import LABEL_END

_PARTITION = "SELECT holdfast_event_partition(CAST(:stage AS text), CAST(:moment AS timestamptz))"


def _words(row: RawRow) -> str | None:
    # They are runs of \w, which mean nothing to a tsvector but themselves.
    return None if row["words"] is None else " ".join(json.loads(row["words"]))


def _word_list(row: RawRow) -> str | None:
    # In the order in which the store writes them.
    return None if row["words"] is None else json.dumps(sorted(json.loads(row["words"])), ensure_ascii=False)


def _same_words(value: Any) -> Any:
    if value is None:
        return None
    return sorted(set(json.loads(value) if value.startswith("[") else value.split()))


def _fields(row: RawRow) -> str | None:
    is_filtered = row["namespace"] != NAMESPACE and not row["namespace"].startswith(f"state{LABEL_END}")
    return filterable(row["value"]) if is_filtered else None


def _partition(row: RawRow) -> Mapping[str, Any]:
    day = 24 * 3600 * 1_000_000
    return {"stage": row["retention"], "moment": from_micros(row["at"] // day * day)}


_WORDS = "CAST(array_to_json(tsvector_to_array(…)) AS text)"
# Of the rows that are there, whoever wrote them: where merging kept one, these are its own words.
_ADD_GRAPH_WORDS = """
INSERT OR IGNORE INTO holdfast_graph_words (tenant_id, scope, word, id)
SELECT :tenant_id, :scope, found.word, :id FROM (
    SELECT DISTINCT w.value AS word
    FROM holdfast_graph_nodes AS n, json_each(n.words) AS a, json_each(a.value) AS w
    WHERE n.tenant_id = :tenant_id AND n.scope = :scope AND n.id = :id ORDER BY 1 LIMIT 2500
) AS found
"""

_NODES = """(
    SELECT n.id FROM holdfast_graph_nodes AS n
    WHERE n.tenant_id = :tenant AND n.scope = copied.scope AND n.attributes→user_id = :user
)"""
_TASK = "p.tenant_id = copied.tenant_id AND p.id = copied.parent_id AND p.metadata→user_id = :user"
_SESSION = "s.tenant_id = copied.tenant_id AND s.id = copied.session_id AND s.user_id = :user"
_AUDIT = "the hashes of audit chains are over their tenant"
_NODE = {"scope": "scope", "id": "id"}

ARCHIVE_PLAN = CopyPlan(
    heads={
        "holdfast_messages": ("holdfast_threads", {"thread_id": "id"}),
        "holdfast_item_vectors": ("holdfast_items", {name: name for name in ("user_id", "namespace", "key")}),
        "holdfast_graph_history": ("holdfast_graph_nodes", _NODE),
        "holdfast_graph_vectors": ("holdfast_graph_nodes", _NODE),
        "holdfast_events": ("holdfast_event_chains", {"chain": "chain"}),
    },
    bound={
        "holdfast_events": Bound(_AUDIT, lambda row: row.get("chain") is not None),
        "holdfast_event_chains": Bound(_AUDIT, lambda row: True),
    },
    of_user={
        **dict.fromkeys(
            (
                "holdfast_sessions",
                "holdfast_threads",
                "holdfast_items",
                "holdfast_item_vectors",
                "holdfast_context_agents",
            ),
            "copied.user_id = :user",
        ),
        "holdfast_messages": (
            "copied.thread_id IN"
            " (SELECT t.id FROM holdfast_threads AS t WHERE t.tenant_id = :tenant AND t.user_id = :user)"
        ),
        "holdfast_graph_nodes": "copied.attributes→user_id = :user",
        "holdfast_graph_vectors": f"copied.id IN {_NODES}",
        "holdfast_graph_edges": f"copied.source IN {_NODES} AND copied.target IN {_NODES}",
        "holdfast_graph_history": f"copied.id IN {_NODES} AND (copied.target = '' OR copied.target IN {_NODES})",
        "holdfast_events": "copied.tags→user_id = :user",
        "holdfast_tasks": "copied.metadata→user_id = :user",
    },
    # A thread in another's session, and a task below another's, come alone; an audit entry comes without its chain.
    cut={
        ("holdfast_threads", "session_id"): (
            f"CASE WHEN EXISTS (SELECT 1 FROM holdfast_sessions AS s WHERE {_SESSION}) THEN copied.session_id END"
        ),
        ("holdfast_tasks", "parent_id"): (
            f"CASE WHEN EXISTS (SELECT 1 FROM holdfast_tasks AS p WHERE {_TASK}) THEN copied.parent_id END"
        ),
        **{("holdfast_events", name): "NULL" for name in ("chain", "chain_seq", "hash")},
    },
)

COPY_PLANS: Mapping[Route, CopyPlan] = {
    ("sqlite", "postgresql"): CopyPlan(
        left_out=frozenset(
            {
                # PostgreSQL has the words in columns.
                "holdfast_message_words",
                "holdfast_graph_words",
                # The key of the append under way.
                "holdfast_threads.last_key",
                # Who follows events begins anew: the two sides number them differently.
                "holdfast_events.seq",
                "holdfast_events.xid",
            }
        ),
        derived={
            ("holdfast_messages", "words"): Derived(_words, _WORDS, _same_words),
            ("holdfast_items", "fields"): Derived(
                _fields, "CAST(… AS text)", lambda text: None if text is None else json.loads(text)
            ),
        },
        before={"holdfast_events": Before(_PARTITION, _partition)},
    ),
    ("postgresql", "sqlite"): CopyPlan(
        left_out=frozenset(
            {
                "holdfast_items.fields",
                "holdfast_threads.last_key",
                "holdfast_events.seq",
                "holdfast_events.xid",
            }
        ),
        derived={("holdfast_messages", "words"): Derived(_word_list, read=_WORDS)},
        keys={"holdfast_events": ("tenant_id", "at", "id", "retention")},
        after={"holdfast_graph_nodes": _ADD_GRAPH_WORDS},
        triggers=frozenset({"holdfast_messages_indexed"}),
    ),
    ("postgresql", "postgresql"): CopyPlan(
        left_out=frozenset({"holdfast_events.xid"}),
        before={"holdfast_events": Before(_PARTITION, _partition)},
    ),
}
