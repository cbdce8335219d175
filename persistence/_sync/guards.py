# Generated from ../_async/guards.py by tests/unasync.py: edit that one.
"""What a store does with secrets in what it is given: nothing, take them out, refuse them, have a vault keep them."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias, TypeVar

from persistence.errors import ValidationError
from persistence.redaction import redact, refuse

V = TypeVar("V")


class SecretProtector(Protocol):
    """What puts references in place of the secrets in a value, as ``SecretVault`` does."""

    def protect(self, value: V, *, context: str) -> V:
        """Return the value with references in place of its secrets, which are kept under the context."""


SecretsOption: TypeAlias = SecretProtector | Literal["redact", "refuse"] | None
"""The option ``secrets`` of a store: a vault, ``"redact"``, ``"refuse"``, or None for nothing."""


def check_secrets(secrets: SecretsOption) -> SecretsOption:
    """Return the option ``secrets`` of a store, checked.

    Raises:
        ValidationError: it is none of those.
    """
    if secrets is None or secrets in ("redact", "refuse") or callable(getattr(secrets, "protect", None)):
        return secrets
    raise ValidationError("secrets is no vault, 'redact' or 'refuse'", hint="SecretVault(manager, name, cipher)")


def guarded(secrets: SecretsOption, value: V, what: str, context: str) -> V:
    """Return what a store is to keep of a value; where there are no secrets in it, the value itself.

    Raises:
        ValidationError: it holds a secret that is refused; ``what`` names it.
    """
    if secrets is None:
        return value
    if secrets == "redact":
        return redact(value)
    if secrets == "refuse":
        return refuse(value, what)
    return secrets.protect(value, context=context)
