# Generated from ../_async/store.py by tests/unasync.py: edit that one.
"""What every store that keeps its rows in a SQL database shares: its connection, its tenant, its tables."""

from __future__ import annotations

from typing import ClassVar

from persistence._sync.database import Database
from persistence._sync.manager import DatabaseManager, named_connection
from persistence._sync.migrator import Migrator
from persistence._sync.postgresql import PostgreSQLDatabase
from persistence.migrations import MigrationLine
from persistence.validation import check_tenant


class SQLStore:
    """A store on the connection ``name`` of a manager, bound to one tenant.

    The connection is looked up on each call, so replacing it in the manager reaches every store. The tables are made
    by the store's migration line on first use; with ``migrate=False`` a missing migration is an error that names it.
    """

    line: ClassVar[MigrationLine]

    @named_connection
    def __init__(
        self, manager: DatabaseManager, name: str, *, tenant: str = "default", migrate: bool = True
    ) -> None:
        self._manager = manager
        self._name = name
        self._tenant = check_tenant(tenant)
        self._migrate = migrate
        manager.get_database(name)

    def _database(self) -> Database:
        """Return the database, its tables made."""
        database = self._manager.get_database(self._name)
        if self.line.name not in database.migrated:
            migrator = Migrator(database)
            (migrator.ensure(self.line) if self._migrate else migrator.check(self.line))
        return database

    def _ensure_vector(self, database: Database) -> None:
        """Have pgvector where PostgreSQL is to compare vectors: created as the tables are, by ``migrate=True``.

        Raises:
            CapabilityError: it is missing, and can't or shouldn't be created.
        """
        if isinstance(database, PostgreSQLDatabase):
            database.ensure_vector(create=self._migrate)
