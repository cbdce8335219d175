"""Encryption of what a checkpointer stores: each thing sealed to the place where it lies (docs/formats.md).

Sealed are manifests (and with them the channels' names), blocks and pending writes. Thread ids, namespaces, keys,
steps, nodes and metadata are not: they are what listings search. A sealed thing begins with the byte ``SEALED``, which
nothing else here begins with, and then is what ``Cipher`` made. Its associated data says where it lies, so that it
opens nowhere else: in another thread, tenant or version, under another key, as another block.
"""

from __future__ import annotations

from checkpoint.blocks import Added
from checkpoint.states import Written
from persistence.errors import ConfigError, CorruptError
from persistence.secrets import Cipher

SEALED = b"\2"


class Sealing:
    """Seals and opens what one tenant's checkpointer stores; without a cipher everything stays as it is."""

    def __init__(self, cipher: Cipher | None, tenant: str) -> None:
        self._cipher = cipher
        self._tenant = tenant
        self.is_on = cipher is not None

    def seal_written(self, written: Written, thread_id: str, namespace: str, version: int, key: str | None) -> Written:
        """Return a state as it is stored, sealed as that of a version."""
        if not self.is_on:
            return written
        added = written.added
        place = (thread_id, namespace, version)
        beside = None if added.beside is None else self.seal(added.beside, *self.block(*place, 0))
        extra = [self.seal(data, *self.block(*place, ordinal)) for ordinal, data in enumerate(added.extra, 1)]
        return written._replace(
            manifest=self.seal(written.manifest, *self.manifest(*place, key)),
            added=Added(added.places, beside, extra),
        )

    def manifest(self, thread_id: str, namespace: str, version: int, key: str | None) -> tuple[str | int, ...]:
        """Return the place of a manifest."""
        return ("manifest", thread_id, namespace, version, "" if key is None else key)

    def block(self, thread_id: str, namespace: str, version: int, ordinal: int) -> tuple[str | int, ...]:
        """Return the place of a block: wherever its checkpoint is deleted, it keeps it."""
        return ("block", thread_id, namespace, version, ordinal)

    def write(
        self, thread_id: str, namespace: str, key: str, task_id: str, index: int, channel: str
    ) -> tuple[str | int, ...]:
        """Return the place of a pending write."""
        return ("write", thread_id, namespace, key, task_id, index, channel)

    def seal(self, data: bytes, *place: str | int) -> bytes:
        """Return data as it is stored at a place."""
        if self._cipher is None:
            return data
        return SEALED + self._cipher.encrypt(data, Cipher.associate(self._tenant, *place))

    def open(self, data: bytes | memoryview, *place: str | int) -> bytes | memoryview:
        """Return data that is stored at a place.

        Raises:
            CorruptError: it was changed, belongs elsewhere, or was never sealed.
            ConfigError: it is sealed, and there is no cipher, or no key of that id.
        """
        is_sealed = bytes(data[:1]) == SEALED
        if self._cipher is None:
            if is_sealed:
                raise ConfigError("it is encrypted", hint="give the checkpointer its cipher")
            return data
        if not is_sealed:
            raise CorruptError("it is not encrypted", hint="rotate_keys() encrypts what was saved without a cipher")
        return self._cipher.decrypt(data[1:], Cipher.associate(self._tenant, *place))

    def renew(self, data: bytes | memoryview, *place: str | int) -> bytes | None:
        """Return data sealed with the current key, from another key or none; None where it is so already.

        Raises:
            CorruptError: it was changed, or belongs elsewhere.
            ConfigError: there is no key of its id.
        """
        if self._cipher is None:
            return None
        if bytes(data[:1]) != SEALED:
            return self.seal(bytes(data), *place)
        if not self._cipher.needs_rotation(data[1:]):
            return None
        return SEALED + self._cipher.rotate(data[1:], Cipher.associate(self._tenant, *place))
