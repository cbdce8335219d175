"""Named connections to PostgreSQL, pgvector, Redis and SQLite: pools, transactions, migrations, health.

The three calls that a program needs::

    manager = DatabaseManager()
    manager.add_postgresql("main", "postgresql://user:password@localhost/app")
    manager.health_check()  # {"main": HealthStatus(healthy=True, …)}

Every class that waits has an async twin, ``AsyncDatabaseManager`` for ``DatabaseManager`` and so on, with the same
methods; ``close`` is ``aclose`` there.

**Connections.** ``DatabaseManager`` registers and hands out ``PostgreSQLDatabase``, ``PgVectorDatabase``,
``SQLiteDatabase`` and ``RedisConnection``. Their settings are ``PostgreSQLConfig``, ``PgVectorConfig``,
``SQLiteConfig`` and ``RedisConfig``, from fields, URLs or the environment.

**Statements and transactions.** ``Database`` runs SQL with ``:name`` parameters; ``Database.transaction`` gives a
``Transaction``, nested ones are savepoints; ``Database.run_transaction`` retries by a ``Backoff``. What is read with
``read_only=True`` may come from a replica (``PostgreSQLConfig.replicas``).

**Schema.** A ``MigrationLine`` of numbered files (``Migration``), applied and undone by a ``Migrator``, which tells how
far a database is (``MigrationStatus``, ``AppliedMigration``), tries what it would do (``TriedMigration``) and finds
where tables are not as they should be (``Difference``); ``Advice`` says what would stop a program in use. ``SQLStore``
is the base of stores. ``Database.back_up`` writes a ``Backup``.

**Transfer.** A ``Transfer`` copies what the packages keep from one database to another (a ``CopiedTable`` each), tells
its ``CopyProgress``, goes on after any end, and verifies (``CopyDifference``). A ``TenantArchive`` writes all of a
tenant, or of a user, to a file (an ``ArchivedTable`` each) and stores it in any database again, all or nothing.
``TenantData`` erases a tenant, and counts what went (an ``ErasedTable`` each).

**Maintenance.** A ``Maintenance`` runs the jobs that keep databases small, by one program at a time, and tells what
each did (``MaintenanceReport`` of ``JobReport``).

**Data.** A ``Repository`` reads and writes a table of yours as entities. ``KeyValueStore`` keeps values by key, with
versions and lifetimes; a ``Cache`` loads what it lacks, once for all who ask.

**Locks.** ``AdvisoryLock`` for as long as a transaction, ``LeaseLock`` with a fencing token.

**Notices.** ``PubSub`` publishes, and a ``Subscription`` gives each ``Notice``: LISTEN and NOTIFY, or Redis.

**Delivery elsewhere.** An ``Outbox`` takes what is to be delivered, with the transaction that decided it; a ``Relay``
hands each ``OutboxItem`` to a sink, in order by key, and keeps what it gave up as a ``DeadLetter``. ``WriteBehind``
writes in batches beside its caller what may be lost when the process is killed.

**From one store to another.** A ``DualWrite`` moves a running program between two of ``KeyedStore``, ``KeyedValues`` or
``KeyedEntities``, from phase to phase and back: ``DualStatus``, ``Backfilled``, ``Divergence``.

**Health.** ``HealthStatus``, ``PoolStats`` and ``Capabilities``; ``DatabaseManager.on_statement`` hears of each
``StatementEvent``. A ``HealthMonitor`` polls,
and tells of each ``HealthChange``.

**Secrets.** A ``Cipher`` encrypts what is stored, by AES-256-GCM with rotating keys (extra ``crypto``).
``find_secrets`` tells where a text holds a ``FoundSecret``: a key, a token, a password; ``redact`` takes them out. A
``SecretVault`` keeps them: it puts a ``SecretReference`` in place of each, lists each ``StoredSecret``, and records
each ``SecretAccess``; ``SecretAccessError`` is a refused one. Stores take a vault, or another ``SecretProtector``, as
their option ``secrets``.

**Embedded servers.** ``EmbeddedPostgreSQL`` and ``EmbeddedRedis`` start real servers for development and tests.

**Errors.** One tree under ``PersistenceError``, drawn in ``persistence.errors``.
"""

from persistence._async.archive import AsyncTenantArchive
from persistence._async.cache import AsyncCache
from persistence._async.database import AsyncDatabase
from persistence._async.dualwrite import AsyncDualWrite
from persistence._async.executor import Row
from persistence._async.guards import AsyncSecretProtector
from persistence._async.keyed import AsyncKeyedEntities, AsyncKeyedStore, AsyncKeyedValues
from persistence._async.keyvalue import AsyncKeyValueStore
from persistence._async.locks import AsyncAdvisoryLock, AsyncLeaseLock
from persistence._async.maintenance import AsyncMaintenance
from persistence._async.manager import AsyncDatabaseManager
from persistence._async.migrator import AsyncMigrator
from persistence._async.monitor import AsyncHealthMonitor
from persistence._async.outbox import AsyncOutbox
from persistence._async.postgresql import AsyncPgVectorDatabase, AsyncPostgreSQLDatabase
from persistence._async.pubsub import AsyncPubSub, AsyncSubscription
from persistence._async.redis import AsyncRedisClient, AsyncRedisConnection
from persistence._async.relay import AsyncRelay
from persistence._async.repository import AsyncRepository
from persistence._async.sqlite import AsyncSQLiteDatabase
from persistence._async.store import AsyncSQLStore
from persistence._async.tenants import AsyncTenantData
from persistence._async.transaction import AsyncTransaction
from persistence._async.transfer import AsyncTransfer
from persistence._async.vault import AsyncSecretVault
from persistence._async.writebehind import AsyncWriteBehind
from persistence._sync.archive import TenantArchive
from persistence._sync.cache import Cache
from persistence._sync.database import Database
from persistence._sync.dualwrite import DualWrite
from persistence._sync.guards import SecretProtector
from persistence._sync.keyed import KeyedEntities, KeyedStore, KeyedValues
from persistence._sync.keyvalue import KeyValueStore
from persistence._sync.locks import AdvisoryLock, LeaseLock
from persistence._sync.maintenance import Maintenance
from persistence._sync.manager import DatabaseManager
from persistence._sync.migrator import Migrator
from persistence._sync.monitor import HealthMonitor
from persistence._sync.outbox import Outbox
from persistence._sync.postgresql import PgVectorDatabase, PostgreSQLDatabase
from persistence._sync.pubsub import PubSub, Subscription
from persistence._sync.redis import RedisClient, RedisConnection
from persistence._sync.relay import Relay
from persistence._sync.repository import Repository
from persistence._sync.sqlite import SQLiteDatabase
from persistence._sync.store import SQLStore
from persistence._sync.tenants import TenantData
from persistence._sync.transaction import Transaction
from persistence._sync.transfer import Transfer
from persistence._sync.vault import SecretVault
from persistence._sync.writebehind import WriteBehind
from persistence.archives import ArchivedTable
from persistence.backups import Backup
from persistence.caching import CacheStats
from persistence.capabilities import Capabilities
from persistence.config import Config, PgVectorConfig, PostgreSQLConfig, RedisConfig, SQLiteConfig
from persistence.dualwrite import Backfilled, Divergence, DualStatus
from persistence.embedded import EmbeddedPostgreSQL, EmbeddedRedis
from persistence.errors import (
    CapabilityError,
    ClosedError,
    CommitUnknownError,
    ConfigError,
    ConflictError,
    ConnectError,
    ConnectionLostError,
    ConstraintError,
    CorruptError,
    DeadlineError,
    DeadlockError,
    DuplicateError,
    ForeignKeyError,
    LockTimeoutError,
    MigrationError,
    MissingExtraError,
    NestedCheckoutError,
    NotFoundError,
    NotReplicatedError,
    PersistenceError,
    PoolFullError,
    PoolTimeoutError,
    QueryError,
    ReadOnlyError,
    SavepointError,
    SerializationError,
    StorageFullError,
    TransactionError,
    UnavailableError,
    UnknownConnectionError,
    ValidationError,
    WrongKindError,
    WrongLoopError,
)
from persistence.fields import Secret
from persistence.health import HealthChange, HealthStatus, PoolStats
from persistence.keyvalues import KeyValue
from persistence.maintaining import JobReport, MaintenanceReport
from persistence.migration_advice import Advice
from persistence.migrations import AppliedMigration, Migration, MigrationLine, MigrationStatus, TriedMigration
from persistence.notices import Notice
from persistence.observing import StatementEvent
from persistence.outbox import DeadLetter, OutboxItem, OutboxStatus, RelayReport
from persistence.redaction import redact
from persistence.retry import Backoff
from persistence.schemas import Difference
from persistence.secret_search import FoundSecret, find_secrets
from persistence.secrets import Cipher
from persistence.tenants import ErasedTable
from persistence.transfers import CopiedTable, CopyDifference, CopyProgress
from persistence.vaults import SecretAccess, SecretAccessError, SecretReference, StoredSecret

__all__ = [
    "Advice",
    "AdvisoryLock",
    "AppliedMigration",
    "ArchivedTable",
    "AsyncAdvisoryLock",
    "AsyncCache",
    "AsyncDatabase",
    "AsyncDatabaseManager",
    "AsyncDualWrite",
    "AsyncHealthMonitor",
    "AsyncKeyValueStore",
    "AsyncKeyedEntities",
    "AsyncKeyedStore",
    "AsyncKeyedValues",
    "AsyncLeaseLock",
    "AsyncMaintenance",
    "AsyncMigrator",
    "AsyncOutbox",
    "AsyncPgVectorDatabase",
    "AsyncPostgreSQLDatabase",
    "AsyncPubSub",
    "AsyncRedisClient",
    "AsyncRedisConnection",
    "AsyncRelay",
    "AsyncRepository",
    "AsyncSQLStore",
    "AsyncSQLiteDatabase",
    "AsyncSecretProtector",
    "AsyncSecretVault",
    "AsyncSubscription",
    "AsyncTenantArchive",
    "AsyncTenantData",
    "AsyncTransaction",
    "AsyncTransfer",
    "AsyncWriteBehind",
    "Backfilled",
    "Backoff",
    "Backup",
    "Cache",
    "CacheStats",
    "Capabilities",
    "CapabilityError",
    "Cipher",
    "ClosedError",
    "CommitUnknownError",
    "Config",
    "ConfigError",
    "ConflictError",
    "ConnectError",
    "ConnectionLostError",
    "ConstraintError",
    "CopiedTable",
    "CopyDifference",
    "CopyProgress",
    "CorruptError",
    "Database",
    "DatabaseManager",
    "DeadLetter",
    "DeadlineError",
    "DeadlockError",
    "Difference",
    "Divergence",
    "DualStatus",
    "DualWrite",
    "DuplicateError",
    "EmbeddedPostgreSQL",
    "EmbeddedRedis",
    "ErasedTable",
    "ForeignKeyError",
    "FoundSecret",
    "HealthChange",
    "HealthMonitor",
    "HealthStatus",
    "JobReport",
    "KeyValue",
    "KeyValueStore",
    "KeyedEntities",
    "KeyedStore",
    "KeyedValues",
    "LeaseLock",
    "LockTimeoutError",
    "Maintenance",
    "MaintenanceReport",
    "Migration",
    "MigrationError",
    "MigrationLine",
    "MigrationStatus",
    "Migrator",
    "MissingExtraError",
    "NestedCheckoutError",
    "NotFoundError",
    "NotReplicatedError",
    "Notice",
    "Outbox",
    "OutboxItem",
    "OutboxStatus",
    "PersistenceError",
    "PgVectorConfig",
    "PgVectorDatabase",
    "PoolFullError",
    "PoolStats",
    "PoolTimeoutError",
    "PostgreSQLConfig",
    "PostgreSQLDatabase",
    "PubSub",
    "QueryError",
    "ReadOnlyError",
    "RedisClient",
    "RedisConfig",
    "RedisConnection",
    "Relay",
    "RelayReport",
    "Repository",
    "Row",
    "SQLStore",
    "SQLiteConfig",
    "SQLiteDatabase",
    "SavepointError",
    "Secret",
    "SecretAccess",
    "SecretAccessError",
    "SecretProtector",
    "SecretReference",
    "SecretVault",
    "SerializationError",
    "StatementEvent",
    "StorageFullError",
    "StoredSecret",
    "Subscription",
    "TenantArchive",
    "TenantData",
    "Transaction",
    "TransactionError",
    "Transfer",
    "TriedMigration",
    "UnavailableError",
    "UnknownConnectionError",
    "ValidationError",
    "WriteBehind",
    "WrongKindError",
    "WrongLoopError",
    "find_secrets",
    "redact",
]
