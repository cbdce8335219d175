"""Own the scopes of a memory graph: who may read and write in which, and what it takes to write there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from persistence.errors import ValidationError
from persistence.validation import check_id, check_text, shown
from sessions.context import NotPermittedError

SCOPE_BYTES = 64
"""The longest name of a scope in bytes of UTF-8."""
REASON_BYTES = 10_000
"""The longest reason of an approval in bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class Approval:
    """Who agreed to a write, and why; it is stored with it."""

    by: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopePolicy:
    """Who may do what in a scope.

    ``readers`` and ``writers`` are the actors that may read and write there, None everybody, also a graph that is bound
    to no actor. With ``needs_approval`` each write takes an approval by somebody other than the actor: by anybody
    (``approvers=None``), or by one of ``approvers``.

    It guards programs against themselves. Who reaches the database by other means is held by the database's own rights.
    """

    readers: frozenset[str] | None = None
    writers: frozenset[str] | None = None
    needs_approval: bool = False
    approvers: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for name in ("readers", "writers", "approvers"):
            given = getattr(self, name)
            if given is not None:
                if isinstance(given, str) or not isinstance(given, list | tuple | set | frozenset):
                    raise ValidationError(f"{name} is a {type(given).__name__}, not a set of actors")
                object.__setattr__(self, name, frozenset(check_id(f"one of {name}", actor) for actor in given))


OPEN = ScopePolicy()
POLICIES: Mapping[str, ScopePolicy] = {
    "LOCAL": OPEN,
    "IDENTITY": ScopePolicy(needs_approval=True),
    "ENVIRONMENT": OPEN,
    "COMMUNITY": OPEN,
    "NETWORK": OPEN,
}
"""The scopes that are there without being named; any other name is a scope of the user's own, and open."""


def scope_name(scope: object) -> str:
    """Return the name of a scope, checked."""
    return check_id("the scope", scope, limit=SCOPE_BYTES)


def policies_of(given: object) -> dict[str, ScopePolicy]:
    """Return the policy of each scope: those given, and for the rest our own.

    Raises:
        ValidationError: it is no mapping of names to policies.
    """
    if given is None:
        return dict(POLICIES)
    if not isinstance(given, Mapping):
        raise ValidationError(f"policies is a {type(given).__name__}, not a mapping of scopes to policies")
    found = dict(POLICIES)
    for scope, policy in given.items():
        if not isinstance(policy, ScopePolicy):
            raise ValidationError(f"the policy of {str(scope)[:80]!r} is a {type(policy).__name__}, no ScopePolicy")
        found[scope_name(scope)] = policy
    return found


def approval_of(approved_by: object) -> Approval | None:
    """Return an approval, checked; a text is who gives it."""
    if approved_by is None:
        return None
    found = approved_by if isinstance(approved_by, Approval) else Approval(cast(str, approved_by))
    check_id("who approves", found.by)
    if found.reason is not None:
        check_text("the approval's reason", found.reason, limit=REASON_BYTES)
    return found


def check_readable(scope: str, policy: ScopePolicy, actor: str | None, connection: str) -> None:
    """Raise NotPermittedError unless the actor may read in a scope."""
    if policy.readers is not None and actor not in policy.readers:
        raise _refused(f"{_named(actor)} may not read in the scope {scope}", "bind a reader: for_actor()", connection)


def check_writable(
    scope: str, policy: ScopePolicy, actor: str | None, approval: Approval | None, connection: str
) -> None:
    """Raise NotPermittedError unless the actor may write in a scope, with this approval."""
    if policy.writers is not None and actor not in policy.writers:
        raise _refused(f"{_named(actor)} may not write in the scope {scope}", "bind a writer: for_actor()", connection)
    if not policy.needs_approval:
        return
    if approval is None:
        raise _refused(f"a write in the scope {scope} needs an approval", "approved_by=", connection)
    if approval.by == actor or (policy.approvers is not None and approval.by not in policy.approvers):
        reason = "what they write themselves" if approval.by == actor else f"writes in the scope {scope}"
        raise _refused(f"{shown(approval.by)} may not approve {reason}", "ask one of its approvers", connection)


def _named(actor: str | None) -> str:
    return "a graph without an actor" if actor is None else f"the actor {shown(actor)}"


def _refused(message: str, hint: str, connection: str) -> NotPermittedError:
    return NotPermittedError(message, hint=hint, connection=connection)
