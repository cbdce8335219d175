"""Own what a copy to another database must know of the tables of sessions: how SQLite's become PostgreSQL's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from persistence.dialect import from_micros
from persistence.transfers import Before, CopyPlan, Derived, RawRow, Route
from sessions.context import NAMESPACE
from sessions.item_batches import filterable
from sessions.items import LABEL_END

_PARTITION = "SELECT holdfast_event_partition(CAST(:stage AS text), CAST(:moment AS timestamptz))"


def _words(row: RawRow) -> str | None:
    # They are runs of \w, which mean nothing to a tsvector but themselves.
    return None if row["words"] is None else " ".join(json.loads(row["words"]))


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
            ("holdfast_messages", "words"): Derived(
                _words, "CAST(array_to_json(tsvector_to_array(…)) AS text)", _same_words
            ),
            ("holdfast_items", "fields"): Derived(
                _fields, "CAST(… AS text)", lambda text: None if text is None else json.loads(text)
            ),
        },
        before={"holdfast_events": Before(_PARTITION, _partition)},
    ),
    ("postgresql", "postgresql"): CopyPlan(
        left_out=frozenset({"holdfast_events.xid"}),
        before={"holdfast_events": Before(_PARTITION, _partition)},
    ),
}
