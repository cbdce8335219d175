"""What a secret vault says of secrets and accesses, and how references stand in texts. It does no I/O.

A reference is ``{SECRET:<id>:<kind>}``, the id being 128 random bits in hexadecimal. Text that only looks like one gets
a backslash before its first colon, and one more if it has some already; :func:`opened` takes one away again. So a
reference in a text that was protected is always a secret's, and every text comes back as it was.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, cast

from persistence.dialect import Dialect
from persistence.errors import PersistenceError, ValidationError
from persistence.redaction import map_texts, secrets_in
from persistence.secrets import Cipher
from persistence.validation import shown

SecretOutcome = Literal["revealed", "other context", "not allowed", "missing", "expired", "unreadable"]
"""How an access to a secret ended."""

REFERENCES = 10_000
"""The most references of one value."""

_MARK = "{SECRET"
_REFERENCE = re.compile(r"\{SECRET(\\*+):([0-9a-f]{32}):([a-z0-9-]{1,40})\}", re.ASCII)


class SecretAccessError(PersistenceError):
    """A secret was not given: its context is another, or the actor may not have it. The access was recorded."""


@dataclass(frozen=True, slots=True)
class SecretReference:
    """What stands in place of a secret: ``str()`` of it is the text."""

    id: str
    kind: str

    def __str__(self) -> str:
        return f"{_MARK}:{self.id}:{self.kind}}}"


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """What is known of a secret without its key. ``key_id`` is the key that sealed it."""

    reference: SecretReference
    context: str
    key_id: str
    created_at: datetime
    expires_at: datetime | None

    @property
    def cursor(self) -> str:
        """Where a listing goes on after this one."""
        return self.reference.id


@dataclass(frozen=True, slots=True)
class SecretAccess:
    """An access to a secret, given or refused. ``context`` is the one that was asked with.

    ``number`` grows with each access of the tenant; a listing goes on before it.
    """

    number: int
    reference: SecretReference
    context: str
    actor: str
    outcome: SecretOutcome
    at: datetime


def reference_of(text: object) -> SecretReference:
    """Return the reference that a text is.

    Raises:
        ValidationError: it is none; the text isn't shown, for it may be a secret.
    """
    if isinstance(text, SecretReference):
        text = str(text)
    found = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
    if found is None or found[1]:
        raise ValidationError("it is no reference to a secret", hint="{SECRET:<id>:<kind>}, as protect() put it there")
    return SecretReference(found[2], found[3])


def references_in(value: Any) -> list[SecretReference]:
    """Return what stands as a reference in the texts of a nested value, ours or not, in order, each once.

    Raises:
        ValidationError: there are more than 10,000.
    """
    found: dict[SecretReference, None] = {}

    def look(text: str, name: str) -> str:
        if _MARK in text:
            for match in _REFERENCE.finditer(text):
                if not match[1]:
                    found[SecretReference(match[2], match[3])] = None
        return text

    map_texts(value, look)
    if len(found) > REFERENCES:
        raise ValidationError(f"{len(found):,} references to secrets are more than {REFERENCES:,}")
    return list(found)


@dataclass(slots=True)
class Protection:
    """A value whose secrets are being replaced: ``taken`` are they, each by the reference that stands for it now.

    ``own`` are the references in it that are secrets' of the context already; they stay. ``recalled`` are references
    that ``recall`` gave for a kind and a secret, in place of new ones.
    """

    own: frozenset[SecretReference]
    recall: Callable[[str, str], SecretReference | None]
    taken: dict[SecretReference, str] = field(default_factory=dict)
    recalled: set[SecretReference] = field(default_factory=set)

    def of(self, value: Any) -> Any:
        """Return the value with references in place of its secrets."""
        return map_texts(value, self._text)

    def _text(self, text: str, name: str) -> str:
        found = secrets_in(text, name)
        if not found and _MARK not in text:
            return text
        parts: list[str] = []
        at = 0
        for kind, start, end in found:
            parts += (self._escaped(text[at:start]), str(self._reference(kind, text[start:end])))
            at = end
        return "".join((*parts, self._escaped(text[at:])))

    def _reference(self, kind: str, secret: str) -> SecretReference:
        known = self.recall(kind, secret)
        if known is not None:
            self.recalled.add(known)
            return known
        reference = SecretReference(secrets.token_hex(16), kind)
        self.taken[reference] = secret
        return reference

    def _escaped(self, text: str) -> str:
        return _REFERENCE.sub(self._escape, text) if _MARK in text else text

    def _escape(self, match: re.Match[str]) -> str:
        if not match[1] and SecretReference(match[2], match[3]) in self.own:
            return match[0]
        return f"{_MARK}{match[1]}\\:{match[2]}:{match[3]}}}"


def opened(value: Any, revealed: Mapping[SecretReference, str]) -> Any:
    """Return a protected value with secrets in place of their references; one that isn't revealed stays."""

    def open_one(match: re.Match[str]) -> str:
        if match[1]:
            return f"{_MARK}{match[1][1:]}:{match[2]}:{match[3]}}}"
        return revealed.get(SecretReference(match[2], match[3]), match[0])

    def open_all(text: str, name: str) -> str:
        if _MARK not in text:
            return text
        changed = _REFERENCE.sub(open_one, text)
        return text if changed == text else changed

    return map_texts(value, open_all)


class KnownSecrets:
    """The references of the last ``size`` secrets, by a keyed hash of each, so that none is kept in the clear."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._key = secrets.token_bytes(32)
        self._references: OrderedDict[bytes, SecretReference] = OrderedDict()

    def get(self, context: str, kind: str, secret: str) -> SecretReference | None:
        """Return the reference of a secret, if it is known."""
        if not self._size:
            return None
        return self._references.get(self._digest(context, kind, secret))

    def add(self, context: str, taken: Mapping[SecretReference, str]) -> None:
        """Remember the references of secrets; the oldest are forgotten."""
        for reference, secret in taken.items() if self._size else ():
            self._references[self._digest(context, reference.kind, secret)] = reference
            while len(self._references) > self._size:
                self._references.popitem(last=False)

    def drop(self, gone: Collection[SecretReference]) -> None:
        """Forget references."""
        for digest in [digest for digest, reference in self._references.items() if reference in gone]:
            del self._references[digest]

    def _digest(self, *parts: str) -> bytes:
        return hashlib.blake2b(Cipher.associate(*parts), key=self._key, digest_size=32).digest()


def access_from_row(row: Mapping[str, Any], dialect: Dialect) -> SecretAccess:
    """Return the access that a row holds."""
    return SecretAccess(
        row["number"],
        SecretReference(row["secret_id"], row["kind"]),
        row["context"],
        row["actor"],
        row["outcome"],
        cast(datetime, dialect.moment(row["at"])),
    )


def stored_from_row(row: Mapping[str, Any], dialect: Dialect) -> StoredSecret:
    """Return what a row says of a secret."""
    return StoredSecret(
        SecretReference(row["id"], row["kind"]),
        row["context"],
        row["key_id"],
        cast(datetime, dialect.moment(row["created_at"])),
        dialect.moment(row["expires_at"]),
    )


def refusal(reference: SecretReference, outcome: SecretOutcome, context: str, actor: str) -> tuple[str, str]:
    """Return the message and the hint of a refused access."""
    what = f"the secret {reference} is not given to {shown(actor)} with the context {shown(context)}"
    return {
        "other context": (f"{what}: it is another's", "ask with the context that it was protected with"),
        "not allowed": (f"{what}: may_reveal says no", "the access was recorded"),
        "missing": (f"there is no secret {reference}", "it was deleted, or is another tenant's"),
        "expired": (f"the secret {reference} has expired", "protect it anew"),
    }[outcome]
