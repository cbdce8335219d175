"""The subcommand ``erase-user``: everything of one person, in every store of a connection."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from persistence import DatabaseManager
from persistence.cli import DONE, Output
from persistence.connections_cli import add_connection_arguments, chosen, opened, table
from persistence.queries import load_queries
from sessions import MemoryGraph, UserData
from sessions.context import context_of
from sessions.transfer_cli import has_tables, stores_of_users

_PAGE = 1000


class EraseUser:
    """Deletes everything of a user: of each store, collection, namespace, graph scope and owner of a connection.

    All or nothing, but on Redis. Threads of checkpoints are those whose latest names the user; audit events stay.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("--user", required=True, metavar="ID", help="whose")
        parser.add_argument("--tenant", default="default", help="of this tenant (default: %(default)s)")
        parser.add_argument("--approved-by", metavar="NAME", help="where a scope of the graph wants an approval")
        sure = parser.add_mutually_exclusive_group(required=True)
        sure.add_argument("--dry-run", action="store_true", help="only count what there is, by kind")
        sure.add_argument("--yes", action="store_true", help="yes, delete it")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        tenant, user = arguments.tenant, arguments.user
        with opened(arguments) as manager:
            name = chosen(arguments, manager)
            stores = [_approved(each, arguments.approved_by) for each in stores_of_users(manager, name, tenant)]
            if has_tables(manager, name, "persistence"):
                stores.append(_ContextSecrets(manager, name, tenant))
            users = UserData(manager, name, tenant=tenant, migrate=False, stores=stores)
            if arguments.dry_run:
                counts = Counter(json.loads(line)["kind"] for line in users.export_user(user))
            else:
                counts = Counter(users.erase_user(user))
        total = sum(counts.values())
        lines = [table(list(counts.items()), ("kind", ""))] if counts else []
        lines.append(f"{name}: {total:,} records of {user} {'would go' if arguments.dry_run else 'are gone'}")
        output.result({"user": user, "dry_run": arguments.dry_run, "counts": dict(counts)}, "\n".join(lines))
        return DONE


def _approved(store: Any, approved_by: str | None) -> Any:
    return _ApprovedGraph(store, approved_by) if isinstance(store, MemoryGraph) else store


class _ApprovedGraph:
    """A graph whose scope may want an approval."""

    def __init__(self, graph: MemoryGraph, approved_by: str | None) -> None:
        self._graph = graph
        self._approved_by = approved_by
        self.export_user = graph.export_user

    def erase_user(self, user_id: str) -> dict[str, int]:
        return self._graph.erase_user(user_id, approved_by=self._approved_by)


class _ContextSecrets:
    """The secrets that a vault keeps for a user's shared context, without the vault's key."""

    def __init__(self, manager: DatabaseManager, name: str, tenant: str) -> None:
        self._database = manager.get_database(name)
        self._tenant = tenant

    def erase_user(self, user_id: str) -> dict[str, int]:
        sql = load_queries("persistence", self._database.kind).forget_secrets
        values = {"tenant": self._tenant, "context": context_of(user_id), "limit": _PAGE}
        count = 0
        while gone := self._database.execute(sql, values):
            count += gone
        return {"secrets": count}

    def export_user(self, user_id: str) -> Iterator[str]:
        sql = load_queries("persistence", self._database.kind).list_secrets
        values: dict[str, Any] = {"tenant": self._tenant, "context": context_of(user_id), "limit": _PAGE, "after": ""}
        while rows := self._database.fetch_all(sql, values):
            for row in rows:
                yield json.dumps({"kind": "secret", "id": row["id"]})
            values["after"] = rows[-1]["id"]
