# Generated from ../_async/remembering.py by tests/unasync.py: edit that one.
"""What checkpointers on every server share: their options, and the last checkpoints that this process has seen."""

from __future__ import annotations

from checkpoint.records import Durability, describe
from checkpoint.sealing import Sealing
from checkpoint.serializer import Serializer
from checkpoint.states import Base, Bases
from checkpoint.validation import check_durability
from persistence._sync.compat import Mutex
from persistence._sync.guards import SecretsOption, check_secrets
from persistence.errors import CorruptError
from persistence.secrets import Cipher

BASE_THREADS = 1024
BASE_BYTES = 64 * 1024 * 1024
"""How much of the last checkpoints seen a checkpointer remembers, in order to send only what changed."""


class Remembering:
    """A checkpointer that builds each save on what it remembers of the thread."""

    def __init__(
        self,
        name: str,
        tenant: str,
        *,
        serializer: Serializer | None,
        durability: Durability,
        cipher: Cipher | None,
        secrets: SecretsOption,
    ) -> None:
        self._durability = check_durability(durability)
        self._secrets = check_secrets(secrets)
        self._place: str | None = name
        self._serializer = serializer or Serializer()
        self._sealing = Sealing(cipher, tenant)
        self._mutex = Mutex()
        self._bases = Bases(BASE_THREADS, BASE_BYTES)

    def _damaged(self, exc: CorruptError, version: object, thread_id: str, namespace: str) -> CorruptError:
        """Return an error that says which checkpoint is damaged."""
        return CorruptError(
            f"checkpoint {version} of {describe(thread_id, namespace)}: {exc.message}",
            hint=exc.hint or "load an earlier version, or restore a backup",
            operation="load_checkpoint",
            connection=self._place,
        )

    def _recall(self, thread_id: str, namespace: str) -> Base | None:
        with self._mutex:
            return self._bases.get((thread_id, namespace))

    def _remember(self, thread_id: str, namespace: str, base: Base | None) -> None:
        with self._mutex:
            if base is None:
                self._bases.drop((thread_id, namespace))
            else:
                self._bases.put((thread_id, namespace), base)
