"""The subcommand that deletes all of a tenant."""

from __future__ import annotations

import argparse

from persistence._sync.manager import DatabaseManager
from persistence._sync.tenants import TenantData
from persistence.cli import DONE, Output
from persistence.connections_cli import add_connection_arguments, chosen, opened, positive, table


class EraseTenant:
    """Deletes every row of a tenant, all or nothing, and counts them; on Redis its keys, page by page.

    End the tenant's programs first. Nothing of other tenants is touched; backups and archives that have it stay.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("--tenant", required=True, metavar="TENANT", help="whose; none is meant by default")
        parser.add_argument(
            "--timeout",
            type=positive,
            default=3600.0,
            metavar="S",
            help="then nothing is deleted (default: %(default)g)",
        )
        sure = parser.add_mutually_exclusive_group(required=True)
        sure.add_argument("--dry-run", action="store_true", help="only count what would be deleted")
        sure.add_argument("--yes", action="store_true", help="yes, delete it")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with opened(arguments) as manager:
            return _erased(arguments, manager, output)


def _erased(arguments: argparse.Namespace, manager: DatabaseManager, output: Output) -> int:
    name, tenant = chosen(arguments, manager), arguments.tenant
    found = TenantData(manager, name, tenant=tenant).erase_tenant(dry_run=arguments.dry_run, timeout=arguments.timeout)
    rows, what = sum(each.rows for each in found), "keys" if manager.names()[name] == "redis" else "rows"
    others = [each for each in manager.names() if each != name]
    lines = (
        [table([(each.name, each.rows) for each in found], ("table" if what == "rows" else "", what))] if found else []
    )
    lines.append(f"{name}: {rows:,} {what} of {tenant} {'would go' if arguments.dry_run else 'are gone'}")
    lines += [f"not looked at: {', '.join(others)}"] if others else []
    values = {"tenant": tenant, "rows": rows, "tables": {each.name: each.rows for each in found}, "left_out": others}
    output.result({**values, "dry_run": arguments.dry_run}, "\n".join(lines))
    return DONE
