"""Checkpoints of workflows: save the state of each step, load it, list and delete, on PostgreSQL, SQLite or in memory.

The three calls that a program needs::

    checkpointer = DatabaseCheckpointer(manager, "main")
    saved = checkpointer.save_checkpoint(Checkpoint("thread-1", {"messages": ["hello"], "step": 1}))
    checkpointer.load_checkpoint("thread-1").state  # {"messages": ["hello"], "step": 1}

Every class that waits has an async twin, ``AsyncDatabaseCheckpointer`` for ``DatabaseCheckpointer`` and so on, with
the same methods.

**Checkpointers.** ``Checkpointer`` is the contract. ``DatabaseCheckpointer`` keeps checkpoints on a PostgreSQL or
SQLite connection of a manager and joins its transactions; ``FileCheckpointer`` keeps them in a SQLite file of its own,
``MemoryCheckpointer`` in the process. ``CachedCheckpointer`` keeps the latest of each thread in Redis besides
PostgreSQL, and counts in ``CacheStats``.

**Records.** ``Checkpoint`` goes in and comes out; ``CheckpointInfo`` and ``ThreadInfo`` are what lists return.

**Retries.** A ``key`` makes a save safe to repeat; ``put_writes`` keeps each ``PendingWrite`` of a step's tasks.

**Time travel.** ``history``, ``at_step``, ``at_node``, ``diff`` (a ``StateDiff``), ``fork``, ``copy_thread`` and
``rewind``.

**Retention.** ``prune`` (a ``PruneReport``), ``set_ttl``, ``delete_expired``, ``delete_threads``.

**Durability.** ``durability="sync"``, ``"async"`` or ``"exit"``, of a checkpointer or a save; ``flush``,
``discard_held``.

**Values.** A state may hold what ``Serializer`` knows, and the classes registered with it.

Errors are those of ``persistence``: NotFoundError, DuplicateError, ConflictError, ValidationError, CorruptError.
"""

from checkpoint._async.cached import AsyncCachedCheckpointer
from checkpoint._async.checkpointer import AsyncCheckpointer
from checkpoint._async.file import AsyncFileCheckpointer
from checkpoint._async.memory import AsyncMemoryCheckpointer
from checkpoint._async.sql import AsyncDatabaseCheckpointer
from checkpoint._sync.cached import CachedCheckpointer
from checkpoint._sync.checkpointer import Checkpointer
from checkpoint._sync.file import FileCheckpointer
from checkpoint._sync.memory import MemoryCheckpointer
from checkpoint._sync.sql import DatabaseCheckpointer
from checkpoint.caching import CacheStats
from checkpoint.records import Checkpoint, CheckpointInfo, PendingWrite, PruneReport, StateDiff, ThreadInfo
from checkpoint.serializer import Serializer

__all__ = [
    "AsyncCachedCheckpointer",
    "AsyncCheckpointer",
    "AsyncDatabaseCheckpointer",
    "AsyncFileCheckpointer",
    "AsyncMemoryCheckpointer",
    "CacheStats",
    "CachedCheckpointer",
    "Checkpoint",
    "CheckpointInfo",
    "Checkpointer",
    "DatabaseCheckpointer",
    "FileCheckpointer",
    "MemoryCheckpointer",
    "PendingWrite",
    "PruneReport",
    "Serializer",
    "StateDiff",
    "ThreadInfo",
]
