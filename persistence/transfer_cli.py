"""The subcommand that copies what is in one database to another."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable

from persistence._sync.manager import DatabaseManager
from persistence._sync.transfer import Transfer
from persistence.cli import DONE, NOT_AS_IT_SHOULD, Output
from persistence.connections_cli import add_connection, connection_urls, table, whole
from persistence.migrations import PACKAGES, shipped_lines
from persistence.transfers import BATCH_ROWS, CopyProgress


class Copy:
    """Copies every table of the packages, goes on where it was ended, and verifies. Exit code 3: the sides differ."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        parser.add_argument("--from", dest="source", required=True, metavar="URL|NAME", help="is only read")
        parser.add_argument("--to", dest="target", required=True, metavar="URL|NAME", help="is empty, or has --merge")
        parser.add_argument("--config", metavar="FILE", help="the TOML file that names connections")
        parser.add_argument("--only", action="append", choices=PACKAGES, help="only this package; may be given again")
        parser.add_argument("--batch-rows", type=whole(), default=BATCH_ROWS, metavar="N", help="at most (%(default)s)")
        parser.add_argument("--merge", action="store_true", help="leave alone what the target has already")
        parser.add_argument("--verify", action="store_true", help="then read every row of both sides and compare")
        parser.add_argument("--dry-run", action="store_true", help="only count what would be copied")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with DatabaseManager() as manager:
            for name, given in (("source", arguments.source), ("target", arguments.target)):
                add_connection(manager, name, _url(given, arguments), may_create=name == "target")
            lines = [line for line in shipped_lines() if line.name in (arguments.only or PACKAGES)]
            source, target = manager.get_database("source"), manager.get_database("target")
            transfer = Transfer(source, target, lines=lines, batch_rows=arguments.batch_rows)
            if arguments.dry_run:
                return _counted(transfer, output)
            return _copied(transfer, arguments, output)


def _url(given: str, arguments: argparse.Namespace) -> str:
    """Return the URL that is meant: itself, or that of a name, so that no list of processes shows a password."""
    if "://" in given:
        return given
    named = connection_urls(argparse.Namespace(url=None, config=arguments.config), os.environ)
    return named.get(given, given)


def shown_on(output: Output) -> Callable[[CopyProgress], None]:
    """Return what tells people how far it is."""
    return lambda progress: output.progress(str(progress))


def _counted(transfer: Transfer, output: Output) -> int:
    found = transfer.count()
    output.result({"tables": found}, table(list(found.items()), ("table", "rows")))
    return DONE


def _copied(transfer: Transfer, arguments: argparse.Namespace, output: Output) -> int:
    copied = transfer.copy(merge=arguments.merge, progress=shown_on(output))
    rows = [(each.name, each.package, each.rows, each.kept) for each in copied]
    values = {"tables": [dataclasses.asdict(each) for each in copied]}
    text = table(rows, ("table", "package", "rows", "kept"))
    if not arguments.verify:
        output.result(values, text)
        return DONE
    found = transfer.verify(progress=shown_on(output))
    lines = [str(each) for each in found] or ["both sides are the same"]
    output.result({**values, "differences": [dataclasses.asdict(each) for each in found]}, "\n".join([text, *lines]))
    return NOT_AS_IT_SHOULD if found else DONE
