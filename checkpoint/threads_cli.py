"""The subcommands about what is checkpointed: threads, checkpoints, prune."""

from __future__ import annotations

import argparse
import json
from datetime import timedelta
from typing import Any

from checkpoint import DatabaseCheckpointer
from persistence import DatabaseManager
from persistence.cli import DONE, Output, WrongUsageError
from persistence.connections_cli import add_connection_arguments, chosen, opened, positive, table, whole
from persistence.errors import ValidationError


def _filter(text: str | None) -> dict[str, Any] | None:
    """Return the metadata that is asked for."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ValidationError(f"--filter is no JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ValidationError("--filter is no JSON object")
    return found


def _store(manager: DatabaseManager, arguments: argparse.Namespace) -> DatabaseCheckpointer:
    """Return the store that is meant; to look at a database doesn't change its tables."""
    return DatabaseCheckpointer(manager, chosen(arguments, manager), tenant=arguments.tenant, migrate=False)


def user_stores(manager: DatabaseManager, name: str, tenant: str) -> list[DatabaseCheckpointer]:
    """Return the stores of this package that keep something of users, for the export of one."""
    return [DatabaseCheckpointer(manager, name, tenant=tenant, migrate=False)]


class Threads:
    """Lists threads by id, with their latest versions."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("--tenant", default="default", help="whose (default: %(default)s)")
        parser.add_argument("--filter", metavar="JSON", help="metadata that the latest checkpoint must contain")
        parser.add_argument(
            "--limit", type=whole(), default=100, metavar="N", help="at the most (default: %(default)s)"
        )
        parser.add_argument("--after", metavar="ID", help="begin behind this thread: the next page")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with opened(arguments) as manager:
            store = _store(manager, arguments)
            found = store.list_threads(filter=_filter(arguments.filter), limit=arguments.limit, after=arguments.after)
        values = [
            {
                "thread_id": each.thread_id,
                "versions": each.versions,
                "created_at": each.created_at.isoformat(),
                "updated_at": each.updated_at.isoformat(),
            }
            for each in found
        ]
        rows = [
            (
                each.thread_id,
                ", ".join(f"{name or 'main'}: {number}" for name, number in each.versions.items()),
                f"{each.updated_at:%Y-%m-%d %H:%M:%S}",
            )
            for each in found
        ]
        output.result({"threads": values}, table(rows, ("thread", "version", "updated")) if rows else "no threads")
        return DONE


class Checkpoints:
    """Lists the checkpoints of a thread, the newest first, without their states."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("thread", metavar="THREAD", help="the thread's id")
        parser.add_argument("--tenant", default="default", help="whose (default: %(default)s)")
        parser.add_argument("--namespace", default="", help="of a subgraph (default: the thread's own)")
        parser.add_argument("--filter", metavar="JSON", help="metadata that they must contain")
        parser.add_argument("--limit", type=whole(), default=20, metavar="N", help="at the most (default: %(default)s)")
        parser.add_argument("--before", type=whole(), metavar="N", help="begin below this version: the next page")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with opened(arguments) as manager:
            store = _store(manager, arguments)
            found = store.list_checkpoints(
                arguments.thread,
                limit=arguments.limit,
                before=arguments.before,
                filter=_filter(arguments.filter),
                namespace=arguments.namespace,
            )
        values = [
            {
                "version": each.version,
                "timestamp": each.timestamp.isoformat(),
                "node": each.node,
                "step": each.step,
                "metadata": each.metadata,
            }
            for each in found
        ]
        rows = [
            (each.version, f"{each.timestamp:%Y-%m-%d %H:%M:%S}", each.node, each.step, json.dumps(each.metadata)[:60])
            for each in found
        ]
        headings = ("version", "time", "node", "step", "metadata")
        output.result(
            {"checkpoints": values}, table(rows, headings) if rows else f"no checkpoints of {arguments.thread}"
        )
        return DONE


class Prune:
    """Deletes old checkpoints, of one thread or of all; what a kept checkpoint needs stays."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("--tenant", default="default", help="whose (default: %(default)s)")
        parser.add_argument("--thread", metavar="ID", help="only this thread")
        parser.add_argument("--keep-last", type=whole(), metavar="N", help="keep the newest N of each thread")
        parser.add_argument("--older-than", type=positive, metavar="DAYS", help="delete only what is older")
        parser.add_argument("--tagged-too", action="store_true", help="also what has a metadata key 'tag'")
        parser.add_argument("--dry-run", action="store_true", help="say what would go, and delete nothing")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        days = arguments.older_than
        if days is None and arguments.keep_last is None:
            raise WrongUsageError("prune what?", hint="--keep-last N, --older-than DAYS, or both")
        with opened(arguments) as manager:
            store = _store(manager, arguments)
            found = store.prune(
                arguments.thread,
                keep_last=arguments.keep_last,
                older_than=None if days is None else timedelta(days=days),
                keep_tagged=not arguments.tagged_too,
                dry_run=arguments.dry_run,
            )
        verb = "would go" if arguments.dry_run else "went"
        output.result(
            {"checkpoints": found.checkpoints, "bytes": found.bytes, "dry_run": arguments.dry_run},
            f"{found.checkpoints:,} checkpoints {verb}, {found.bytes:,} bytes",
        )
        return DONE
