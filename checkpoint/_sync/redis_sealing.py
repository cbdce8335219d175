# Generated from ../_async/redis_sealing.py by tests/unasync.py: edit that one.
"""Encryption on Redis: what is stored is sealed anew for another key or thread, value by value and beside writers.

A value is exchanged only while it is what it was when it was read: what was saved meanwhile is sealed with the key of
whoever saved it, and what was deleted stays so.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1

from checkpoint._sync.redis_base import CheckpointKeys
from checkpoint.records import ThreadInfo, describe
from checkpoint.redis_format import in_pairs, pack_write, unpack_record, unpack_write
from persistence.errors import ConfigError, ConflictError, CorruptError
from persistence.validation import check_id

_PAGE = 20
"""Blocks may be large: about so many are read at once."""
_THREADS = 500
_PREPARED_MILLISECONDS = 3_600_000
"""How long a copy may take to be sealed."""
_DATA, _WRITES = 2, 4
"""Which of a thread's keys hold what is sealed."""

Change = Callable[..., bytes | None]
"""Makes of sealed bytes and their place what will be there; None: they stay."""


class RedisSealing(CheckpointKeys):
    """The sealing of RedisCheckpointer."""

    def rotate_keys(self, thread_id: str | None = None) -> int:
        """Seal with the current key what another key sealed, or none; return how many things that were.

        Of one thread, or of all of this tenant, beside writers. A run that was cut off is simply run again.

        Raises:
            ConfigError: this checkpointer has no cipher, or its cipher lacks a key that is in use.
            CorruptError: something was changed, or belongs elsewhere; what was done before stays done.
        """
        if not self._sealing.is_on:
            raise ConfigError("this checkpointer has no cipher", hint="DatabaseCheckpointer(…, cipher=Cipher(…))")
        if thread_id is not None:
            return self._rotate_thread(check_id("the thread id", thread_id))
        count, after = 0, ""
        while True:
            threads = self._list_threads(_THREADS, after, None)
            for thread in threads:
                count += self._rotate_thread(thread.thread_id)
            if len(threads) < _THREADS:
                return count
            after = threads[-1].thread_id

    def _rotate_thread(self, thread_id: str) -> int:
        return self._seal_anew(thread_id, self._keys(thread_id), self._sealing.renew)

    def _copy_sealed(self, thread_id: str, new_thread: str) -> int | None:
        """Copy a thread; None: it is not there, -1: the new one is.

        The copy is prepared under other names, from which it goes by itself if this ends half way.
        """
        prepared = tuple(key + b":" + secrets.token_hex(8).encode() for key in self._keys(new_thread))
        source, stamp = self._keys(thread_id), secrets.randbits(62)
        if self._is_cluster:
            dumps = self._run("dump_thread", source)
            if dumps is None:
                return None
            self._run("restore_thread", prepared, stamp, *dumps, _PREPARED_MILLISECONDS)
        elif self._run("copy_thread", (*prepared, *source), stamp, _PREPARED_MILLISECONDS) is None:
            return None

        def change(data: bytes | memoryview, *place: str | int) -> bytes:
            kind, _, *rest = place
            return self._sealing.seal(bytes(self._sealing.open(data, *place)), kind, new_thread, *rest)

        self._seal_anew(thread_id, prepared, change)
        copied: int | None = self._run_registered("publish", new_thread, more=prepared)
        if copied is None:
            raise ConflictError(
                f"copying {describe(thread_id, '')} took too long",
                hint="fork() its latest checkpoint",
                operation="copy_thread",
                connection=self._place,
            )
        return copied

    def _seal_anew(self, thread_id: str, keys: Sequence[bytes], change: Change) -> int:
        """Change everything that is sealed under the keys of a thread; return how many things did change."""
        count = 0
        for which in (_DATA, _WRITES):
            cursor = b"0"
            while True:
                cursor, *page = self._run("sealed", keys, which, cursor, _PAGE)
                changed = [*self._changed(thread_id, which, page, change)]
                if changed:
                    count += self._run("seal", keys, which, *changed)
                if cursor == b"0":
                    break
        return count

    def _changed(self, thread_id: str, which: int, page: Sequence[bytes], change: Change) -> Iterator[object]:
        """Yield field, SHA-1 as it was read and new value of what doesn't stay."""
        for field, value in in_pairs(page).items():
            namespace = (field if which == _WRITES else field[1:]).partition(b"\0")[0].decode()
            make = self._change_write if which == _WRITES else self._change_data
            try:
                new = make(thread_id, namespace, field, value, change)
            except CorruptError as exc:
                raise CorruptError(
                    f"{describe(thread_id, namespace)}: {exc.message}", hint=exc.hint, connection=self._place
                ) from exc
            if new is not None:
                yield from (field, sha1(value, usedforsecurity=False).hexdigest(), new)

    def _change_data(self, thread_id: str, namespace: str, field: bytes, value: bytes, change: Change) -> bytes | None:
        """Return a record with its manifest changed, or a block; None: it stays."""
        place = field.rpartition(b"\0")[2]
        if field.startswith(b"b"):
            version, ordinal = place.split(b".")
            return change(value, *self._sealing.block(thread_id, namespace, int(version), int(ordinal)))
        if not field.startswith(b"c"):
            return None
        record = unpack_record(int(place), value)
        manifest = change(record.manifest, *self._sealing.manifest(thread_id, namespace, record.version, record.key))
        return None if manifest is None else value[: len(value) - len(record.manifest)] + manifest

    def _change_write(self, thread_id: str, namespace: str, field: bytes, value: bytes, change: Change) -> bytes | None:
        """Return a pending write, changed; None: it stays."""
        _, key, rest = field.split(b"\0", 2)
        task_id, channel, index, task_path, data = unpack_write(rest, value)
        changed = change(data, *self._sealing.write(thread_id, namespace, key.decode(), task_id, index, channel))
        return None if changed is None else pack_write(task_path, channel, changed)

    def _list_threads(self, limit: int, after: str, wanted: str | None) -> list[ThreadInfo]:
        raise NotImplementedError
