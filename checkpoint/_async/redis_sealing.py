"""Encryption on Redis: what is stored is sealed anew for another key, value by value and beside writers.

A value is exchanged only while it is what it was when it was read: what was saved meanwhile is sealed with the key of
whoever saved it, and what was deleted stays so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha1

from checkpoint._async.redis_listing import AsyncRedisListing
from checkpoint.records import describe
from checkpoint.redis_format import in_pairs, pack_write, unpack_record, unpack_write
from persistence.errors import ConfigError, CorruptError
from persistence.validation import check_id

_PAGE = 20
"""Blocks may be large: about so many are read at once."""
_THREADS = 500
_DATA, _WRITES = 2, 4
"""Which of a thread's keys hold what is sealed."""


class AsyncRedisSealing(AsyncRedisListing):
    """The sealing of AsyncRedisCheckpointer."""

    async def rotate_keys(self, thread_id: str | None = None) -> int:
        """Seal with the current key what another key sealed, or none; return how many things that were.

        Of one thread, or of all of this tenant, beside writers. A run that was cut off is simply run again.

        Raises:
            ConfigError: this checkpointer has no cipher, or its cipher lacks a key that is in use.
            CorruptError: something was changed, or belongs elsewhere; what was done before stays done.
        """
        if not self._sealing.is_on:
            raise ConfigError("this checkpointer has no cipher", hint="DatabaseCheckpointer(…, cipher=Cipher(…))")
        if thread_id is not None:
            return await self._rotate_thread(check_id("the thread id", thread_id))
        count, after = 0, ""
        while True:
            threads = await self._list_threads(_THREADS, after, None)
            for thread in threads:
                count += await self._rotate_thread(thread.thread_id)
            if len(threads) < _THREADS:
                return count
            after = threads[-1].thread_id

    async def _rotate_thread(self, thread_id: str) -> int:
        keys, count = self._keys(thread_id), 0
        for which in (_DATA, _WRITES):
            cursor = b"0"
            while True:
                cursor, *page = await self._run("sealed", keys, which, cursor, _PAGE)
                changed = [*self._renewed(thread_id, which, page)]
                if changed:
                    count += await self._run("seal", keys, which, *changed)
                if cursor == b"0":
                    break
        return count

    def _renewed(self, thread_id: str, which: int, page: Sequence[bytes]) -> Iterator[object]:
        """Yield field, SHA-1 as it was read and new value of what isn't sealed with the current key."""
        for field, value in in_pairs(page).items():
            namespace = (field if which == _WRITES else field[1:]).partition(b"\0")[0].decode()
            try:
                renew = self._renew_write if which == _WRITES else self._renew_data
                new = renew(thread_id, namespace, field, value)
            except CorruptError as exc:
                raise CorruptError(
                    f"{describe(thread_id, namespace)}: {exc.message}", hint=exc.hint, connection=self._place
                ) from exc
            if new is not None:
                yield from (field, sha1(value, usedforsecurity=False).hexdigest(), new)

    def _renew_data(self, thread_id: str, namespace: str, field: bytes, value: bytes) -> bytes | None:
        """Return a record with its manifest, or a block, as it is sealed now; None: it may stay."""
        place = field.rpartition(b"\0")[2]
        if field.startswith(b"b"):
            version, ordinal = place.split(b".")
            return self._sealing.renew(value, *self._sealing.block(thread_id, namespace, int(version), int(ordinal)))
        if not field.startswith(b"c"):
            return None
        record = unpack_record(int(place), value)
        manifest = self._sealing.renew(
            record.manifest, *self._sealing.manifest(thread_id, namespace, record.version, record.key)
        )
        return None if manifest is None else value[: len(value) - len(record.manifest)] + manifest

    def _renew_write(self, thread_id: str, namespace: str, field: bytes, value: bytes) -> bytes | None:
        """Return a pending write as it is sealed now; None: it may stay."""
        _, key, rest = field.split(b"\0", 2)
        task_id, channel, index, task_path, data = unpack_write(rest, value)
        place = self._sealing.write(thread_id, namespace, key.decode(), task_id, index, channel)
        renewed = self._sealing.renew(data, *place)
        return None if renewed is None else pack_write(task_path, channel, renewed)
