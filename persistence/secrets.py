"""Encryption at rest: ``Cipher`` turns bytes into bytes that only a holder of the key can read or alter unnoticed.

It does no I/O. A store hands it what goes into a column and, as associated data, where that will lie
(:meth:`Cipher.associate`), so that a row copied to another place does not decrypt there.

Format 1, which stays readable for ever::

    byte 0        01, the format
    byte 1        n, the length of the key's id, 1 to 32
    bytes 2…      the id, n bytes of A-Z a-z 0-9 _ . -
    12 bytes      the nonce, random
    the rest      the ciphertext, as long as the plaintext, and the tag of 16 bytes

AES-256-GCM (NIST SP 800-38D). What is authenticated besides the ciphertext is the header (format, length, id) followed
by the associated data; the header says its own length, so the two can't be shifted against each other.

Nonces are random, so one key may encrypt 2³² messages, counted over all processes and restarts (SP 800-38D, 8.3).
A Cipher sees only its own: at each quarter of ``max_messages`` it logs a warning, and past it refuses to encrypt.
Decryption is never refused.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Never, Self, TypeAlias, TypeGuard

from persistence.errors import ConfigError, CorruptError, ValidationError
from persistence.extras import extra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Buffer: TypeAlias = bytes | bytearray | memoryview

KEY_BYTES = 32
MESSAGES_PER_KEY = 2**32
MAX_BYTES = 2**30

_FORMAT = 1
_NONCE_BYTES = 12
_TAG_BYTES = 16
_MAX_ID_BYTES = 32
_OVERHEAD = 2 + _MAX_ID_BYTES + _NONCE_BYTES + _TAG_BYTES
_ID = re.compile(rf"[A-Za-z0-9_.-]{{1,{_MAX_ID_BYTES}}}", re.ASCII)
_log = logging.getLogger(__name__)


class Cipher:
    """Keys by id, one of which encrypts while all of them decrypt. Immutable, and safe to share between threads.

    ``keys`` are 32 bytes each (:meth:`generate_key`); an id is 1 to 32 characters of ``A-Z a-z 0-9 _ . -``, goes into
    everything that its key encrypts, and is no secret. ``current`` is the id of the key that encrypts.
    ``max_messages`` is how many encryptions this object allows, at most 2³²: give each of sixteen processes 2²⁸.

    A copy is the object itself, and pickling is refused, because it would spill the keys.

    Raises: ConfigError with all problems, never with a byte of a key; MissingExtraError without the extra ``crypto``.
    """

    __slots__ = ("_aeads", "_current", "_header", "_max_messages", "_messages")

    def __init__(self, keys: Mapping[str, bytes], current: str, *, max_messages: int = MESSAGES_PER_KEY) -> None:
        problems = tuple(_problems(keys, current, max_messages))
        if problems:
            hint = "Cipher({'2026-01': Cipher.generate_key()}, current='2026-01')"
            raise ConfigError(f"Cipher: {'; '.join(problems)}", problems=problems, hint=hint)
        aead = _aesgcm()
        self._aeads: dict[str, AESGCM] = {key_id: aead(bytes(key)) for key_id, key in keys.items()}
        self._current = current
        self._header = bytes((_FORMAT, len(current))) + current.encode("ascii")
        self._max_messages = max_messages
        # next() on it is one atomic step, unlike a lock that a fork may copy while it is held.
        self._messages = itertools.count(1)

    @classmethod
    def from_env(
        cls,
        prefix: str = "HOLDFAST_KEY_",
        *,
        environ: Mapping[str, str] | None = None,
        max_messages: int = MESSAGES_PER_KEY,
    ) -> Self:
        """Read a key from each variable ``<prefix><ID>``, in base64, and the current one's id from ``<prefix>CURRENT``.

        Both alphabets of base64 (RFC 4648, 4 and 5) are read. Case counts in ids.

        Raises: ConfigError with all problems, never with a variable's value; MissingExtraError.
        """
        if not prefix:
            raise ConfigError("from_env needs a prefix", hint="for example 'HOLDFAST_KEY_'")
        source = os.environ if environ is None else environ
        found = {name.removeprefix(prefix): text for name, text in source.items() if name.startswith(prefix)}
        current = found.pop("CURRENT", "")
        keys = {key_id: _from_base64(text) for key_id, text in found.items()}
        try:
            return cls(keys, current, max_messages=max_messages)
        except ConfigError as exc:
            raise ConfigError(
                f"Cipher from the environment ({prefix}…): {'; '.join(exc.problems)}",
                problems=exc.problems,
                hint=f"{prefix}<ID> holds 32 bytes in base64, {prefix}CURRENT the id of the one that encrypts",
            ) from exc

    @staticmethod
    def generate_key() -> bytes:
        """Return a new key of 32 bytes from the operating system's generator."""
        return os.urandom(KEY_BYTES)

    @staticmethod
    def associate(*parts: str | int | bytes) -> bytes:
        """Return bytes that stand for these parts, in this order, and for no others: associated data for a place.

        ``("a", "bc")`` and ``("ab", "c")`` differ, as do ``1``, ``"1"`` and ``b"1"``. Each part becomes a letter for
        its type, its length in 8 bytes, and its content: UTF-8, or big-endian two's complement in one byte more than
        its bits fill. What is stored depends on it, so it never changes.

        Raises: ValidationError for a part of another type, bool among them.
        """
        encoded: list[bytes] = []
        for part in parts:
            tag, content = _encode_part(part)
            encoded += (tag, len(content).to_bytes(8, "big"), content)
        return b"".join(encoded)

    @property
    def current(self) -> str:
        """The id of the key that encrypts."""
        return self._current

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all keys, sorted."""
        return tuple(sorted(self._aeads))

    def encrypt(self, plain: Buffer, associated: Buffer = b"") -> bytes:
        """Encrypt up to 1 GiB with the current key; the result is 30 bytes and the key's id longer.

        ``associated`` is not stored: decrypting needs the same again.

        Raises: ValidationError for what isn't bytes or is too long; ConfigError after ``max_messages`` encryptions.
        """
        plain = _bytes(plain, "what to encrypt", MAX_BYTES)
        associated = _bytes(associated, "associated data", MAX_BYTES)
        self._count()
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._aeads[self._current].encrypt(nonce, plain, b"".join((self._header, associated)))
        return b"".join((self._header, nonce, sealed))

    def decrypt(self, stored: Buffer, associated: Buffer = b"") -> bytes:
        """Return what was encrypted, from whichever key its header names.

        Raises: CorruptError when a bit of it is not as it was written, when it lay elsewhere (other associated data),
        or when another key had that id; ConfigError when this Cipher has no key of that id: nothing is known then
        about the bytes, which may well be sound, so it is no CorruptError; ValidationError for what isn't bytes.
        """
        stored = _bytes(stored, "what to decrypt", MAX_BYTES + _OVERHEAD)
        associated = _bytes(associated, "associated data", MAX_BYTES)
        key_id, start = _read_header(stored)
        aead = self._aeads.get(key_id)
        if aead is None:
            raise ConfigError(
                f"no key {key_id!r} to decrypt with, only {', '.join(map(repr, self.key_ids))}",
                hint=f"add the key {key_id!r} to the Cipher; the stored bytes may be sound",
            )
        view = memoryview(stored)  # slices of bytes would copy them
        header, nonce, sealed = view[:start], view[start : start + _NONCE_BYTES], view[start + _NONCE_BYTES :]
        from cryptography.exceptions import InvalidTag

        try:
            return aead.decrypt(nonce, sealed, b"".join((header, associated)))
        except InvalidTag as exc:
            raise CorruptError(
                f"{len(stored)} bytes encrypted with key {key_id!r} are not what was written here",
                hint="they were changed, cut or moved from another row, or another key had this id",
            ) from exc

    def key_id(self, stored: Buffer) -> str:
        """Return the id of the key that encrypted it, this Cipher's or not, read from the header without proof.

        Raises: CorruptError when it is no header of ours or too short; ValidationError for what isn't bytes.
        """
        return _read_header(_bytes(stored, "what to look at", MAX_BYTES + _OVERHEAD))[0]

    def needs_rotation(self, stored: Buffer) -> bool:
        """Tell whether another than the current key encrypted it. Raises as :meth:`key_id`."""
        return self.key_id(stored) != self._current

    def rotate(self, stored: Buffer, associated: Buffer = b"") -> bytes:
        """Return it encrypted with the current key; what is so already comes back as it is, checked too.

        Raises: as :meth:`decrypt` and :meth:`encrypt`.
        """
        plain = self.decrypt(stored, associated)
        return self.encrypt(plain, associated) if self.needs_rotation(stored) else bytes(stored)

    def _count(self) -> None:
        count = next(self._messages)
        if count > self._max_messages:
            raise ConfigError(
                f"key {self._current!r} has encrypted {self._max_messages} messages here, which is the limit",
                hint="make a new key the current one; the old one goes on decrypting",
            )
        if count % max(1, self._max_messages // 4) == 0:
            _log.warning(
                "key %r has encrypted %d messages here, of at most %d: rotate it before all processes together "
                "reach 2**32",
                self._current,
                count,
                self._max_messages,
            )

    def __repr__(self) -> str:
        return f"Cipher({', '.join(map(repr, self.key_ids))}; current={self._current!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> Never:
        raise ValidationError(
            "a Cipher can't be pickled: that would spill its keys",
            hint="make one in each process, for example by Cipher.from_env()",
        )


def _aesgcm() -> type[AESGCM]:
    with extra("crypto"):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    return AESGCM


def _problems(keys: object, current: object, max_messages: object) -> Iterator[str]:
    """Yield what is wrong; an id that isn't well-formed is not shown, because a key may have been put in its place."""
    if not isinstance(keys, Mapping):
        yield "keys is no mapping from ids to bytes"
        return
    if not keys:
        yield "there is no key"
    owners: dict[bytes, str] = {}
    for number, (key_id, key) in enumerate(keys.items(), 1):
        name = repr(key_id) if _is_id(key_id) else f"number {number}"
        if not _is_id(key_id):
            yield f"the id of key {name} is not 1 to {_MAX_ID_BYTES} characters of A-Z a-z 0-9 _ . -"
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            yield f"key {name} is not {KEY_BYTES} bytes"
        elif owners.setdefault(key, name) != name:
            yield f"keys {owners[key]} and {name} are the same"
    if not _is_id(current):
        yield "current is no key's id"
    elif current not in keys:
        yield f"there is no key {current!r}, which is to be the current one"
    if isinstance(max_messages, bool) or not isinstance(max_messages, int):
        yield "max_messages is no whole number"
    elif not 1 <= max_messages <= MESSAGES_PER_KEY:
        yield f"max_messages {max_messages} is not within 1 and {MESSAGES_PER_KEY}"


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _from_base64(text: str) -> bytes:
    """Return the key, or no bytes where the text is no base64, which is then refused for its length."""
    try:
        return base64.b64decode(text.strip().translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _encode_part(part: object) -> tuple[bytes, bytes]:
    if isinstance(part, str):
        # Names may hold lone surrogates, and no two texts have the same bytes this way.
        return b"s", part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return b"b", part
    if isinstance(part, int) and not isinstance(part, bool):
        return b"i", part.to_bytes((part.bit_length() + 8) // 8, "big", signed=True)
    raise ValidationError(f"a part of associated data is {type(part).__name__}, not str, int or bytes")


def _bytes(value: object, what: str, limit: int) -> bytes | memoryview:
    """Return it as bytes or as a view of single bytes, without a copy."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValidationError(f"{what} is {type(value).__name__}, not bytes")
    view = memoryview(value)
    if view.nbytes > limit:
        raise ValidationError(f"{what} has {view.nbytes} bytes, more than {limit}")
    if isinstance(value, bytes):
        return value
    if not view.c_contiguous:
        raise ValidationError(f"{what} is a memoryview with gaps", hint="pass its tobytes()")
    return view.cast("B") if view.nbytes else b""


def _read_header(stored: bytes | memoryview) -> tuple[str, int]:
    """Return the key's id and where the nonce begins."""
    if not len(stored):
        raise CorruptError("no bytes where encrypted ones were expected")
    if stored[0] != _FORMAT:
        raise CorruptError(
            f"{len(stored)} bytes are in no known format of encryption: they begin with {stored[0]}",
            hint="they were changed, were never encrypted, or come from a newer holdfast",
        )
    end = 2 + (stored[1] if len(stored) > 1 else 0)
    if len(stored) < end + _NONCE_BYTES + _TAG_BYTES:
        raise CorruptError(f"encrypted bytes were cut: only {len(stored)} are there")
    # Latin-1 takes every byte, and the pattern then refuses all that isn't ASCII.
    key_id = bytes(stored[2:end]).decode("latin-1")
    if not _is_id(key_id):
        raise CorruptError(f"the header of {len(stored)} encrypted bytes holds no key's id")
    return key_id, end
