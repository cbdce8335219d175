"""The command ``holdfast``, also ``python -m persistence``: finds its subcommands, and says how they ended.

A subcommand is a class as ``Command`` describes it, named in ``COMMANDS`` or by an entry point of the group
``holdfast.commands``; its module is imported when it is run. Results go to stdout, as text or with ``--json`` as one
JSON object; progress and errors go to stderr. No output shows a password.

Exit codes: 0 done; 1 it failed, and the message says why; 2 the command line is wrong; 3 it ran to its end, and what it
checked is not as it should be; 130 interrupted; 141 nobody reads its output any more.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points, version
from io import TextIOWrapper
from typing import Any, Protocol, TextIO

from persistence.errors import PersistenceError, UnavailableError, ValidationError

DONE, FAILED, WRONG_USAGE, NOT_AS_IT_SHOULD, INTERRUPTED, UNREAD = 0, 1, 2, 3, 130, 141
EXIT_CODES = (
    "Exit codes: 0 done; 1 it failed, and the message says why; 2 the command line is wrong; 3 it ran to its end, and "
    "what it checked is not as it should be; 130 interrupted; 141 nobody reads its output any more."
)

COMMANDS: Mapping[str, tuple[str, str]] = {
    "backup": ("persistence.operations_cli:BackUp", "write a whole database to a file"),
    "checkpoints": ("checkpoint.threads_cli:Checkpoints", "list the checkpoints of a thread"),
    "citus-plan": (
        "persistence.citus_cli:CitusPlan",
        "print the script that distributes the tables by tenant on Citus",
    ),
    "copy": ("persistence.transfer_cli:Copy", "copy what one database holds to another, and verify it"),
    "demo": ("checkpoint.demo_cli:Demo", "kill a workflow half way, and see it go on"),
    "doctor": ("persistence.operations_cli:Doctor", "look for what loses data, service, time or room"),
    "erase-tenant": ("persistence.tenant_cli:EraseTenant", "delete all of a tenant, and nothing of others"),
    "erase-user": ("sessions.erase_cli:EraseUser", "delete everything of a user, in every store"),
    "export": ("sessions.transfer_cli:Export", "write all of a tenant or a user, or one thing, to a file"),
    "health": ("persistence.operations_cli:Health", "poll every connection"),
    "import": ("sessions.transfer_cli:Import", "store what export wrote, in this database or another kind"),
    "import-langgraph": (
        "checkpoint.cli:ImportLangGraph",
        "take threads over from LangGraph's PostgresSaver or SqliteSaver",
    ),
    "migrate": ("persistence.migrate_cli:Migrate", "bring a database's tables up to date or back, and check them"),
    "prune": ("checkpoint.threads_cli:Prune", "delete old checkpoints"),
    "restore": ("persistence.operations_cli:Restore", "replace what a database holds by a backup"),
    "search": ("vectorstore.search_cli:Search", "search documents by words or by a vector"),
    "stats": ("persistence.operations_cli:Stats", "say how large databases and tables are"),
    "threads": ("checkpoint.threads_cli:Threads", "list the threads that have checkpoints"),
}
"""Where each subcommand of the distribution is, and what ``--help`` says of it."""


class WrongUsageError(ValidationError):
    """The command line is wrong in a way that its parser doesn't know: exit code 2."""


class Command(Protocol):
    """A subcommand. With a method ``fill_in`` it gets the command line first, and returns it completed."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its own arguments; ``--json`` is there."""

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code. A PersistenceError becomes its message and exit code 1."""


class Output:
    """Where a subcommand writes to."""

    def __init__(self, *, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self._as_json = as_json
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        for stream in (self._stdout, self._stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter shows its number
        self._on_one_line = self._stderr.isatty()
        self._unfinished = False

    def progress(self, text: str) -> None:
        """Say how far it is, for people: in a terminal each text takes the place of the one before."""
        if self._on_one_line:
            print(f"\r\x1b[K{text[:160]}", end="", file=self._stderr, flush=True)
            self._unfinished = True
        elif not self._as_json:
            print(text, file=self._stderr, flush=True)

    def result(self, values: Mapping[str, Any], text: str) -> None:
        """Write the result: the values as JSON, or the text."""
        self._end_line()
        print(json.dumps(values, ensure_ascii=True) if self._as_json else text, file=self._stdout, flush=True)

    def error(self, message: str) -> None:
        """Write why it failed."""
        self._end_line()
        print(f"holdfast: {message}", file=self._stderr, flush=True)

    def _end_line(self) -> None:
        if self._unfinished:
            print(file=self._stderr)
            self._unfinished = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        SystemExit: for ``--help``, and with code 2 where the command line is wrong.
    """
    given = [*sys.argv[1:]] if arguments is None else [*arguments]
    found = {**COMMANDS, **_installed()}
    parser = argparse.ArgumentParser(
        prog="holdfast",
        description="What agents and workflows keep, from the command line. See holdfast COMMAND --help.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"holdfast {version('holdfast')}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    command: Command | None = None
    for name, (target, summary) in sorted(found.items()):
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name in given[:1]:
            module, _, attribute = target.partition(":")
            command = getattr(import_module(module), attribute)()
            subparser.description = inspect.getdoc(command) or summary
            command.add_arguments(subparser)
            subparser.add_argument("--json", action="store_true", help="write the result as one JSON object")
    fill_in = getattr(command, "fill_in", None)
    parsed = parser.parse_args(given if fill_in is None else fill_in(given))
    if command is None:
        parser.error(f"{parsed.command} comes first")
    output = Output(as_json=parsed.json)
    try:
        return _run(command, parsed, output)
    except PersistenceError as exc:
        output.error(str(exc))
        return WRONG_USAGE if isinstance(exc, WrongUsageError) else FAILED
    except KeyboardInterrupt:
        output.error("interrupted")
        return INTERRUPTED


def _run(command: Command, parsed: argparse.Namespace, output: Output) -> int:
    try:
        return command.run(parsed, output)
    except BrokenPipeError:
        # What Python flushes at its end has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except OSError as exc:
        raise UnavailableError(f"{exc.strerror or exc}" + (f": {exc.filename}" if exc.filename else "")) from exc


def _installed() -> dict[str, tuple[str, str]]:
    """Return the subcommands that other distributions bring."""
    return {found.name: (found.value, f"from {found.module}") for found in entry_points(group="holdfast.commands")}
