# Generated from ../_async/redis_base.py by tests/unasync.py: edit that one.
"""What the parts of the checkpointer on Redis share: the connection, scripts, keys, and what the process remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from checkpoint._sync.remembering import Remembering
from checkpoint.blocks import LAST_ORDINAL
from checkpoint.records import Durability
from checkpoint.redis_format import Record, tenant_keys, thread_keys, unpack_record
from checkpoint.redis_scripts import ALONE, READS, script
from checkpoint.sealing import SEALED
from checkpoint.serializer import Serializer
from persistence._sync.guards import SecretsOption
from persistence._sync.manager import DatabaseManager, named_connection
from persistence._sync.redis import RedisConnection
from persistence.errors import CorruptError
from persistence.secrets import Cipher
from persistence.validation import check_tenant

_MANY = 100


class CheckpointKeys(Remembering):
    """A store on the keys of checkpoints in Redis, bound to one tenant."""

    @named_connection
    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        tenant: str = "default",
        serializer: Serializer | None = None,
        durability: Durability = "sync",
        cipher: Cipher | None = None,
        secrets: SecretsOption = None,
    ) -> None:
        super().__init__(name, tenant, serializer=serializer, durability=durability, cipher=cipher, secrets=secrets)
        self._manager = manager
        self._name = name
        self._tenant = check_tenant(tenant)
        manager.get_redis(name)

    @property
    def _is_cluster(self) -> bool:
        """Whether two threads may be on two servers."""
        return self._manager.get_redis(self._name).config.cluster

    def _keys(self, thread_id: str) -> tuple[bytes, ...]:
        return thread_keys(self._tenant, thread_id)

    def _run(self, name: str, keys: Sequence[bytes], *arguments: object) -> Any:
        """Return the answer of a script; one that only reads is sent again after a dropped connection."""
        connection = self._manager.get_redis(self._name)
        return connection.run_script(script(name), keys, arguments, reads=name in READS)

    def _run_registered(self, name: str, thread_id: str, *arguments: object, more: Sequence[bytes] = ()) -> Any:
        """Do as ``_run`` for a script that may make a thread, which is registered before, if it can be in one trip."""
        calls = [
            ("register", tenant_keys(self._tenant)[:2], (thread_id,)),
            (name, (*self._keys(thread_id), *more), arguments),
        ]
        return (self._run_many(calls))[1]

    def _run_many(self, calls: Sequence[tuple[str, Sequence[bytes], Sequence[object]]]) -> list[Any]:
        """Return the answers of scripts in order, a hundred in each round trip; in a cluster one in each."""
        connection = self._manager.get_redis(self._name)
        if connection.config.cluster:
            # Each is on a node of its own, and what goes to several at once comes to them in no order.
            return [self._run(name, keys, *arguments) for name, keys, arguments in calls]
        answers: list[Any] = []
        for start in range(0, len(calls), _MANY):
            answers += self._run_batch(connection, calls[start : start + _MANY])
        return answers

    def _run_batch(
        self, connection: RedisConnection, calls: Sequence[tuple[str, Sequence[bytes], Sequence[object]]]
    ) -> list[Any]:
        pipeline: Any = connection.client.pipeline(transaction=False)
        for name, keys, arguments in calls:
            known = script(name)
            command = ("EVAL", known.text) if name in ALONE else ("EVALSHA", known.sha)
            pipeline.execute_command(*command, len(keys), *keys, *arguments, reads=name in READS)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        for place, answer in enumerate(answers):
            name, keys, arguments = calls[place]
            if isinstance(answer, NoScriptError):
                answers[place] = self._run(name, keys, *arguments)
            elif isinstance(answer, RedisError):
                raise connection.failure(answer, "EVALSHA") from answer
        return answers

    def _records(self, found: Sequence[bytes | None], thread_id: str, namespace: str) -> list[Record]:
        """Return the records in an answer of versions and records in turns."""
        records = []
        for version, data in zip(found[::2], found[1::2], strict=True):
            try:
                records.append(unpack_record(int(version or 0), data))
            except CorruptError as exc:
                raise self._damaged(exc, int(version or 0), thread_id, namespace) from exc
        return records

    def _unsealed(
        self, thread_id: str, namespace: str, record: Record, stored: Sequence[Any]
    ) -> tuple[bytes, Sequence[Any]]:
        """Return the manifest and the blocks of a checkpoint, opened where they are sealed."""
        sealing, version = self._sealing, record.version
        if not sealing.is_on and record.manifest[:1] != SEALED:
            return record.manifest, stored
        manifest = bytes(sealing.open(record.manifest, *sealing.manifest(thread_id, namespace, version, record.key)))
        blocks = [
            data
            if data is None
            else sealing.open(data, *sealing.block(thread_id, namespace, version - (ref >> 8), ref & LAST_ORDINAL))
            for ref, data in zip(record.refs, stored, strict=True)
        ]
        return manifest, blocks
