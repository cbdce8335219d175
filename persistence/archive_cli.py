"""What ``export`` and ``import`` do where all of a tenant, or of a user, is meant."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from persistence._sync.archive import TenantArchive
from persistence._sync.database import Database
from persistence._sync.manager import DatabaseManager
from persistence.archives import ArchivedTable, ArchiveReader, no_archive
from persistence.cli import DONE, NOT_AS_IT_SHOULD, Output
from persistence.connections_cli import chosen, opened, table
from persistence.transfer_cli import shown_on


def export_archive(arguments: argparse.Namespace, output: Output) -> int:
    """Write an archive, and return the exit code."""
    with opened(arguments) as manager:
        archive = TenantArchive(_database(arguments, manager), tenant=arguments.tenant or "default")
        left_out = [name for name, kind in manager.names().items() if kind == "redis"]
        found = archive.export(arguments.file, user=arguments.user, progress=shown_on(output))
    rows = sum(each.rows for each in found)
    text = [table([(each.name, each.rows) for each in found], ("table", "rows"))] if found else []
    values = {
        "path": arguments.file,
        "rows": rows,
        "tables": {each.name: each.rows for each in found},
        "left_out": left_out,
    }
    notes = [f"not in it: {', '.join(left_out)}, for an archive holds nothing of Redis"] if left_out else []
    output.result(values, "\n".join([*text, f"{arguments.file}: {rows:,} rows", *notes]))
    return DONE


def import_archive(arguments: argparse.Namespace, output: Output) -> int:
    """Store what an archive holds, as of its own tenant unless another is named, and return the exit code."""
    tenant = arguments.tenant
    if tenant is None:
        with ArchiveReader(Path(arguments.file)) as reader:
            tenant = reader.header.tenant
    with opened(arguments, may_create=True) as manager:
        archive = TenantArchive(_database(arguments, manager), tenant=tenant)
        without = arguments.without_bound
        found = archive.import_(arguments.file, merge=arguments.merge, without_bound=without, progress=shown_on(output))
        differences = archive.verify(arguments.file, without_bound=without) if arguments.verify else ()
    values = {**_counted(found), "tenant": tenant, "tables": [dataclasses.asdict(each) for each in found]}
    rows = [(each.name, each.rows, each.kept, each.left_out) for each in found]
    lines = [table(rows, ("table", "rows", "kept", "left out"))] if rows else []
    lines.append(f"{values['imported']:,} imported as {tenant}")
    if arguments.verify:
        values["differences"] = [dataclasses.asdict(each) for each in differences]
        lines += [str(each) for each in differences] or ["the file and the database are the same"]
    output.result(values, "\n".join(lines))
    return NOT_AS_IT_SHOULD if differences else DONE


def _database(arguments: argparse.Namespace, manager: DatabaseManager) -> Database:
    """Return the database that is meant.

    Raises:
        CapabilityError: it is a Redis.
    """
    name = chosen(arguments, manager)
    if manager.names()[name] == "redis":
        raise no_archive(name)
    return manager.get_database(name)


def _counted(found: tuple[ArchivedTable, ...]) -> dict[str, object]:
    rows, kept = sum(each.rows for each in found), sum(each.kept for each in found)
    return {"imported": rows - kept, "kept": kept}
