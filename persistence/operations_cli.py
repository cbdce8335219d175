"""The subcommands about connections and databases as a whole: health, stats, doctor, backup, restore."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from time import sleep
from typing import Any

from persistence._sync.examination import examine
from persistence._sync.manager import DatabaseManager
from persistence._sync.measurement import measure
from persistence._sync.redis import RedisConnection
from persistence.cli import DONE, NOT_AS_IT_SHOULD, Output
from persistence.connections_cli import add_connection_arguments, chosen, opened, positive, table, whole
from persistence.health import HealthStatus
from persistence.migrations import shipped_lines


class Health:
    """Polls every connection once, or again and again. Exit code 3: one of them is ill."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser)
        parser.add_argument(
            "--timeout", type=positive, default=2.0, metavar="S", help="for each poll (default: %(default)s)"
        )
        parser.add_argument("--watch", type=positive, metavar="S", help="poll every S seconds, until interrupted")
        parser.add_argument("--times", type=whole(), metavar="N", help="with --watch: end after N polls")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with opened(arguments) as manager:
            polls = 0
            while True:
                statuses = manager.health_check(timeout=arguments.timeout)
                output.result({"health": [_health(status) for status in statuses.values()]}, _health_table(statuses))
                polls += 1
                if arguments.watch is None or polls == arguments.times:
                    return DONE if all(statuses.values()) else NOT_AS_IT_SHOULD
                sleep(arguments.watch)


def _health(status: HealthStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "kind": status.kind,
        "healthy": status.healthy,
        "latency_seconds": round(status.latency, 6),
        "error": status.error,
        "server_version": status.server_version,
        "checked_at": status.checked_at.isoformat(),
    }


def _health_table(statuses: dict[str, HealthStatus]) -> str:
    rows = [
        (
            each.name,
            each.kind,
            "healthy" if each else "ILL",
            each.latency * 1000,
            each.error or each.server_version or "",
        )
        for each in statuses.values()
    ]
    return table(rows, ("connection", "kind", "status", "ms", ""))


class Stats:
    """Says how large the databases are, and their tables, the largest first.

    Of rows it says too what their number is: counted, estimated by the server, at least as many, or unknown.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser)
        parser.add_argument("--limit", type=whole(), default=20, metavar="N", help="tables each (default: %(default)s)")
        parser.add_argument(
            "--timeout",
            type=positive,
            default=10.0,
            metavar="S",
            help="for the tables of each; what takes longer is unknown (default: %(default)s)",
        )

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with opened(arguments) as manager:
            found = {name: _measured(manager, name, arguments) for name in manager.names()}
        output.result({"connections": found}, "\n".join(_size_lines(found)))
        return DONE


def _size_lines(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, measured in found.items():
        yield f"{name}: {measured['bytes']:,} bytes" + (f", {measured['keys']:,} keys" if "keys" in measured else "")
        if measured["tables"]:
            rows = [(each["name"], each["rows"], each["rows_are"], each["bytes"]) for each in measured["tables"]]
            yield table(rows, ("table", "rows", "", "bytes"))
        if measured.get("note"):
            yield measured["note"]


def _measured(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    connection = manager.get(name)
    if isinstance(connection, RedisConnection):
        info: Any = connection.client.info("memory")
        return {"bytes": int(info["used_memory"]), "keys": int(connection.client.dbsize()), "tables": []}
    return dataclasses.asdict(measure(connection, limit=arguments.limit, timeout=arguments.timeout))


class Doctor:
    """Looks for what loses data, service, time or room, and says the way out. Exit code 3: there is a problem."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser)

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with opened(arguments) as manager:
            found = examine(manager, shipped_lines())
            count = len(manager.names())
        text = "\n".join(f"{each.connection}: {each.severity}: {each.what}\n  {each.way_out}" for each in found)
        output.result(
            {"findings": [dataclasses.asdict(each) for each in found]},
            text or f"nothing to say about {count} connection{'s' if count > 1 else ''}",
        )
        return NOT_AS_IT_SHOULD if any(each.severity == "problem" for each in found) else DONE


class BackUp:
    """Writes a whole database to a new file: SQLite's online backup, or pg_dump's archive."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("file", metavar="FILE", help="is not there yet")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with opened(arguments) as manager:
            made = manager.get_database(chosen(arguments, manager)).back_up(arguments.file)
        output.result(
            {"path": str(made.path), "bytes": made.size, "sha256": made.sha256}, f"{made.path}: {made.size:,} bytes"
        )
        return DONE


class Restore:
    """Replaces what a database holds by what a backup holds, all or nothing."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("file", metavar="FILE", help="a file that holdfast backup wrote")
        parser.add_argument("--yes", action="store_true", required=True, help="yes, replace what the database holds")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with opened(arguments, may_create=True) as manager:
            name = chosen(arguments, manager)
            manager.get_database(name).restore(arguments.file)
        output.result({"restored": name}, f"{name} holds what {arguments.file} holds")
        return DONE
