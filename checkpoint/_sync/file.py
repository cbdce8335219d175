# Generated from ../_async/file.py by tests/unasync.py: edit that one.
"""Checkpoints in one SQLite file, for a program that has no manager: the checkpointer owns its connection."""

from __future__ import annotations

import os

from checkpoint._sync.sql import DatabaseCheckpointer
from checkpoint.records import Durability
from checkpoint.serializer import Serializer
from persistence._sync.guards import SecretsOption
from persistence._sync.manager import DatabaseManager
from persistence._sync.sqlite import SQLiteDatabase
from persistence.config import SQLiteConfig
from persistence.errors import ConnectError, ValidationError
from persistence.secrets import Cipher
from persistence.validation import check_text, shown

_NAME = "checkpoints"


class _OneFile(DatabaseManager):
    """A manager whose one file is opened by the first call, for a constructor can't wait."""

    def __init__(self, config: SQLiteConfig) -> None:
        super().__init__()
        self._connections[_NAME] = SQLiteDatabase(_NAME, config)


class FileCheckpointer(DatabaseCheckpointer):
    """A checkpointer on the SQLite file ``path``; ``close`` or ``with`` closes it.

    Its folder is made at once, the file by the first call; what is new, only its owner may read. Any number of
    processes may use one path at the same time. A save is on the disk when it returns. An async one is made on the
    event loop that it is used on.

    Raises:
        ValidationError: the path is none of a file (``MemoryCheckpointer`` keeps checkpoints in memory).
        ConnectError: the folder can't be made; from the first call: the file can't be opened.
        CorruptError: from the first call: the file is not a SQLite database, or a damaged one; it is left as it is.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        tenant: str = "default",
        serializer: Serializer | None = None,
        durability: Durability = "sync",
        cipher: Cipher | None = None,
        secrets: SecretsOption = None,
    ) -> None:
        self.path = _checked(path)
        super().__init__(
            _OneFile(SQLiteConfig(path=self.path)),
            _NAME,
            tenant=tenant,
            serializer=serializer,
            durability=durability,
            cipher=cipher,
            secrets=secrets,
        )
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        except OSError as exc:
            raise ConnectError(
                f"can't make the folder of {self.path}: {exc.strerror}", hint="check the path and its permissions"
            ) from exc

    def close(self) -> None:
        """Save what is held back, and close the file, also after a failure. Safe to call twice."""
        try:
            super().close()
        finally:
            self._manager.close()


def _checked(path: object) -> str:
    """Return the absolute path of a file."""
    found = check_text("the path", os.fspath(path) if isinstance(path, os.PathLike) else path, may_be_empty=False)
    if found == ":memory:" or os.path.isdir(found):
        raise ValidationError(f"{shown(found)} is no path of a file", hint='a path such as "state/checkpoints.db"')
    return os.path.abspath(found)
