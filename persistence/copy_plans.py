"""Own what an archive must know of these tables: what goes together, and what is true of its tenant alone."""

from __future__ import annotations

from collections.abc import Mapping

from persistence.copied_columns import Route
from persistence.copy_planning import Bound, CopyPlan

COPY_PLANS: Mapping[Route, CopyPlan] = {}

_KEY = {"topic": "topic", "key": "key"}

ARCHIVE_PLAN = CopyPlan(
    heads={
        "holdfast_outbox": ("holdfast_outbox_keys", _KEY),
        "holdfast_outbox_dead": ("holdfast_outbox_keys", _KEY),
    },
    bound={"holdfast_secrets": Bound("secrets are sealed for their tenant", lambda row: True)},
)
