"""Own what a copy must know of checkpoints, and an archive: refs; what is of a thread and a user; what is sealed."""

from __future__ import annotations

import json
from collections.abc import Mapping

from checkpoint.refs import pack_refs, unpack_refs
from checkpoint.sealing import SEALED
from persistence.copied_columns import Derived, RawRow, Route
from persistence.copy_planning import Bound, CopyPlan

_REFS = ("holdfast_checkpoints", "refs")


def _to_numbers(row: RawRow) -> str:
    return pack_refs(json.loads(row["refs"]))


def _to_refs(row: RawRow) -> str:
    return json.dumps(unpack_refs(json.loads(f"[{row['refs']}]")))


COPY_PLANS: Mapping[Route, CopyPlan] = {
    ("sqlite", "postgresql"): CopyPlan(derived={_REFS: Derived(_to_numbers)}),
    ("postgresql", "sqlite"): CopyPlan(derived={_REFS: Derived(_to_refs)}),
}

_TABLES = ("holdfast_checkpoints", "holdfast_checkpoint_blocks", "holdfast_checkpoint_writes")
_THREAD = {"thread_id": "thread_id", "namespace": "namespace"}
# As the checkpointer tells whose a thread is: by the latest checkpoint of its main namespace.
_OF_USER = """copied.thread_id IN (
    SELECT h.thread_id FROM holdfast_checkpoint_threads AS h JOIN holdfast_checkpoints AS c
        ON c.tenant_id = h.tenant_id AND c.thread_id = h.thread_id AND c.namespace = h.namespace
        AND c.version = h.latest
    WHERE h.tenant_id = :tenant AND h.namespace = '' AND c.metadata→user_id = :user
)"""


def _is_sealed(row: RawRow) -> bool:
    return any(bytes(row.get(name) or b"")[:1] == SEALED for name in ("manifest", "data"))


ARCHIVE_PLAN = CopyPlan(
    heads=dict.fromkeys(_TABLES, ("holdfast_checkpoint_threads", _THREAD)),
    bound=dict.fromkeys(_TABLES, Bound("sealed checkpoints are of their tenant", _is_sealed, may_be_left_out=False)),
    of_user=dict.fromkeys(("holdfast_checkpoint_threads", *_TABLES), _OF_USER),
)
