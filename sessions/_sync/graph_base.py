# Generated from ../_async/graph_base.py by tests/unasync.py: edit that one.
"""What the parts of the memory graph share: scope, actor and policy, and how a write that found nothing is told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Self, TypeVar

from persistence import Database, DatabaseManager
from persistence._sync.guards import SecretsOption, check_secrets, guarded
from persistence._sync.manager import named_connection
from persistence.errors import ConflictError, DuplicateError, NotFoundError
from persistence.validation import check_id, shown
from sessions._sync.store import SessionsStore
from sessions.graph import Edge, Node
from sessions.graph_rows import named_attributes, node_from_row, with_names
from sessions.scopes import (
    OPEN,
    Approval,
    ScopePolicy,
    approval_of,
    check_readable,
    check_writable,
    policies_of,
    scope_name,
)

R = TypeVar("R", Node, Edge)

TRIES = 4
"""How often a write that met a deletion of the same record is tried."""


class GraphBase(SessionsStore):
    """A graph's connection, tenant, scope and actor."""

    _scope = "LOCAL"
    _actor: str | None = None

    @named_connection
    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        tenant: str = "default",
        migrate: bool = True,
        policies: Mapping[str, ScopePolicy] | None = None,
        secrets: SecretsOption = None,
    ) -> None:
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self._policies = policies_of(policies)
        self._secrets = check_secrets(secrets)

    @property
    def scope(self) -> str:
        """The scope that it is bound to."""
        return self._scope

    def in_scope(self, scope: str) -> Self:
        """Return the same graph, bound to a scope: LOCAL, IDENTITY, ENVIRONMENT, COMMUNITY, NETWORK or one of your own.

        Nothing of another scope is there for it.
        """
        bound = copy.copy(self)
        bound._scope = scope_name(scope)
        return bound

    def for_actor(self, actor: str) -> Self:
        """Return the same graph, bound to who acts: what it writes says so, and policies are asked about them."""
        bound = copy.copy(self)
        bound._actor = check_id("the actor", actor)
        return bound

    def _prepared(self, database: Any, name: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return super()._prepared(database, name, {"scope": self._scope, "actor": self._actor, **values})

    def _guarded(self, given: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Return attributes, each given with the id of its node, with what is to be kept of the secrets in them."""
        context = f"graph/{self._scope}"
        named = [named_attributes(id, attributes) for id, attributes in given]
        kept = guarded(self._secrets, named, "a record of the graph", context)
        return [
            attributes if new is old else with_names(attributes, new)
            for (_, attributes), new, old in zip(given, kept, named, strict=True)
        ]

    def _guarded_rows(
        self, records: Sequence[R], row: Callable[[object, str], dict[str, Any]], rows: list[Any]
    ) -> list[Any]:
        """Return the rows of nodes or edges, already checked, as they are to be kept."""
        if self._secrets is None:
            return rows
        given = [(getattr(record, "id", ""), record.attributes) for record in records]
        kept = self._guarded(given)
        return [
            old if new is record.attributes else row(replace(record, attributes=new), self._scope)
            for old, new, record in zip(rows, kept, records, strict=True)
        ]

    def _may_read(self) -> None:
        check_readable(self._scope, self._policies.get(self._scope, OPEN), self._actor, self._name)

    def _may_change(self) -> None:
        """Check a write that changes nothing of what is known now, and so takes no approval."""
        policy = replace(self._policies.get(self._scope, OPEN), needs_approval=False)
        check_writable(self._scope, policy, self._actor, None, self._name)

    def _may_write(self, approved_by: str | Approval | None) -> dict[str, Any]:
        """Check a write against the policy, and return the approval as the statements take it."""
        approval = approval_of(approved_by)
        check_writable(self._scope, self._policies.get(self._scope, OPEN), self._actor, approval, self._name)
        return {
            "approved_by": None if approval is None else approval.by,
            "approval_reason": None if approval is None else approval.reason,
        }

    def _written(self, name: str, values: dict[str, Any]) -> tuple[Database, list[dict[str, Any]]]:
        """Run a write and return its rows.

        A record that somebody deletes meanwhile leaves a version that this statement didn't see, and the number that it
        took is taken: outside a transaction it is run again.
        """
        database = self._database()
        sql, parameters = self._prepared(database, name, values)
        for _ in range(TRIES):
            try:
                return database, database.fetch_all(sql, parameters)
            except DuplicateError as exc:
                if database.in_transaction:
                    raise
                failure = exc
        raise failure

    def _explain(self, name: str, id: str, expected: int | None) -> NoReturn:
        """Raise the reason for which a write found no node, which a second statement tells."""
        current = self._read_one(node_from_row, "graph_get_node", {"id": id})
        self._raise_conflict(name, f"node {shown(id)}", None if current is None else current.version, expected)

    def _raise_conflict(self, name: str, what: str, actual: int | None, expected: int | None) -> NoReturn:
        """Raise what a write that expected a version met; an expected version of 0 is that of what isn't there."""
        if actual is None and expected != 0:
            raise NotFoundError(
                f"there is no {what} in the scope {self._scope}",
                hint="it was never added, or was deleted",
                operation=name,
                connection=self._name,
            )
        if expected is not None and actual != expected:
            raise self._outdated(what, name, expected, actual)
        raise ConflictError(
            f"{what} was changed while it was written",
            expected=expected,
            actual=actual,
            hint="run it again",
            operation=name,
            connection=self._name,
        )
