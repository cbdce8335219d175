"""The subcommands ``export`` and ``import``: all of a tenant, or a thread, a graph, a context, a person's data.

One thing is a file of JSON lines. The last line of it says how many lines there are and their SHA-256, so that a torn
or edited file is refused before anything is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from persistence import DatabaseManager, MigrationLine, Migrator
from persistence.archive_cli import export_archive, import_archive
from persistence.backups import new_file, put_in_place, writing
from persistence.cli import DONE, Output, WrongUsageError
from persistence.connections_cli import add_connection_arguments, chosen, opened
from persistence.errors import CorruptError, ValidationError
from sessions import ContextStore, EventLog, MemoryGraph, MessageStore, TaskStore, UserData

_USER_STORES: Mapping[str, str] = {
    "sessions": "sessions.transfer_cli:user_stores",
    "checkpoint": "checkpoint.threads_cli:user_stores",
    "vectorstore": "vectorstore.search_cli:user_stores",
}
"""Where each package tells which of its stores keep something of users: none imports another."""
_FLAGS = ("--json", "--merge", "--verify", "--without-bound", "--help")
_Opened = tuple[DatabaseManager, str, argparse.Namespace]


def _may_migrate(arguments: argparse.Namespace) -> bool:
    """Tell whether the tables may be made: to write what a database holds to a file doesn't change it."""
    return bool(arguments.command == "import")


def _context(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> ContextStore:
    context = ContextStore(manager, name, tenant=arguments.tenant, migrate=_may_migrate(arguments))
    return context if arguments.of is None else context.for_user(arguments.of)


def _graph(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> MemoryGraph:
    graph = MemoryGraph(manager, name, tenant=arguments.tenant, migrate=_may_migrate(arguments))
    return graph if arguments.of is None else graph.in_scope(arguments.of)


def _messages(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> MessageStore:
    return MessageStore(manager, name, tenant=arguments.tenant, migrate=_may_migrate(arguments))


def _users(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> UserData:
    """Return the data of users in every store of a connection that has tables there."""
    stores = stores_of_users(manager, name, arguments.tenant)
    return UserData(manager, name, tenant=arguments.tenant, migrate=False, stores=stores)


def stores_of_users(manager: DatabaseManager, name: str, tenant: str) -> list[Any]:
    """Return the stores of every package that keep something of users, beside UserData's own."""
    found = list[Any]()
    for package, attribute in _USER_STORES.items():
        if find_spec(package) is not None and has_tables(manager, name, package):
            module, _, function = attribute.partition(":")
            found += getattr(import_module(module), function)(manager, name, tenant)
    return found


def has_tables(manager: DatabaseManager, name: str, package: str) -> bool:
    """Tell whether a package keeps anything on a connection."""
    connection = manager.get(name)
    if connection.kind == "redis":
        return package not in ("persistence", "vectorstore")
    line = MigrationLine.of_package(package)
    return Migrator(manager.get_database(name)).status(line).current > 0


def user_stores(manager: DatabaseManager, name: str, tenant: str) -> list[Any]:
    """Return the stores of this package beside UserData's own that keep something of users."""
    tasks = TaskStore(manager, name, tenant=tenant, migrate=False)
    if manager.get(name).kind == "redis":
        return [tasks]
    scopes = manager.get_database(name).fetch_all(
        "SELECT DISTINCT scope FROM holdfast_graph_nodes WHERE tenant_id = :tenant ORDER BY scope LIMIT 10000",
        {"tenant": tenant},
    )
    graph = MemoryGraph(manager, name, tenant=tenant, migrate=False)
    return [
        *(graph.in_scope(row["scope"]) for row in scopes),
        EventLog(manager, name, tenant=tenant, migrate=False),
        tasks,
    ]


_EXPORTS: Mapping[str, Callable[[DatabaseManager, str, argparse.Namespace], Iterator[str]]] = {
    "context": lambda *given: _context(*given).export(),
    "graph": lambda *given: _graph(*given).export_graph(),
    "messages": lambda *given: _messages(*given).export_messages(given[2].of),
    "user": lambda *given: _users(*given).export_user(given[2].of),
}
_IMPORTS: Mapping[str, Callable[[_Opened, Iterable[str]], int]] = {
    "context": lambda given, lines: _context(*given).import_(lines),
    "graph": lambda given, lines: sum(_graph(*given).import_graph(lines, approved_by=given[2].approved_by)),
    "messages": lambda given, lines: _messages(*given).import_messages(lines, thread_id=given[2].of),
}


ALL = "all"


class Export:
    """Writes to a new file: all of a tenant, all of one user (--user), or one thing as lines of JSON."""

    def fill_in(self, given: Sequence[str]) -> list[str]:
        """Return the command line with WHAT, which may be left out: then all is meant."""
        return with_what(given, (ALL, *_EXPORTS))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        parser.usage = "%(prog)s [WHAT] FILE [options]"
        add_connection_arguments(parser, one=True)
        parser.add_argument(
            "what",
            metavar="WHAT",
            choices=(ALL, *sorted(_EXPORTS)),
            help="all (default), which import takes whole; or context, graph, messages, user: one thing, to read",
        )
        parser.add_argument(
            "file", metavar="FILE", help="is not there yet; only its owner may read it; .zst compresses (all)"
        )
        parser.add_argument("--tenant", help="whose (default: default)")
        parser.add_argument("--user", metavar="ID", help="only what is of this user (all)")
        parser.add_argument(
            "--of", metavar="ID", help="the thread (messages), scope (graph) or user (context, user); none: shared"
        )

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        _check_fits(arguments, {"of": arguments.of}, {"user": arguments.user})
        if arguments.what == ALL:
            return export_archive(arguments, output)
        arguments.tenant = arguments.tenant or "default"
        if arguments.of is None and arguments.what in ("messages", "user"):
            raise WrongUsageError(f"export {arguments.what} of whom?", hint="--of ID")
        path = Path(arguments.file)
        with opened(arguments) as manager:
            lines = _EXPORTS[arguments.what](manager, chosen(arguments, manager), arguments)
            count = _write(path, lines)
        output.result({"path": str(path), "lines": count}, f"{path}: {count:,} lines")
        return DONE


class Import:
    """Stores what export wrote, in this database or another kind. Exit code 3: --verify found a difference."""

    def fill_in(self, given: Sequence[str]) -> list[str]:
        """Return the command line with WHAT, which may be left out: then all is meant."""
        return with_what(given, (ALL, *_IMPORTS))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        parser.usage = "%(prog)s [WHAT] FILE [options]"
        add_connection_arguments(parser, one=True)
        parser.add_argument(
            "what",
            metavar="WHAT",
            choices=(ALL, *sorted(_IMPORTS)),
            help="all (default): of a tenant or a user, all or nothing; or context, graph, messages",
        )
        parser.add_argument("file", metavar="FILE", help="a whole file that holdfast export wrote")
        parser.add_argument("--tenant", help="as this tenant's (default: all: the file's own; else: default)")
        parser.add_argument("--merge", action="store_true", help="leave alone what the tenant has already (all)")
        parser.add_argument(
            "--without-bound", action="store_true", help="as another tenant: leave out secrets and audit entries (all)"
        )
        parser.add_argument("--verify", action="store_true", help="then read every row again and compare (all)")
        parser.add_argument("--of", metavar="ID", help="as another thread, in another scope, for another user")
        parser.add_argument("--approved-by", metavar="NAME", help="where the scope of the graph wants an approval")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        one = {"of": arguments.of, "approved-by": arguments.approved_by}
        _check_fits(arguments, one, {name: getattr(arguments, name) for name in ("merge", "verify", "without_bound")})
        if arguments.what == ALL:
            return import_archive(arguments, output)
        arguments.tenant = arguments.tenant or "default"
        path = Path(arguments.file)
        _check_whole(path)
        with opened(arguments, may_create=True) as manager:
            given = (manager, chosen(arguments, manager), arguments)
            count = _IMPORTS[arguments.what](given, (line for line, is_last in _lines(path) if not is_last))
        output.result({"imported": count}, f"{count:,} imported")
        return DONE


def with_what(given: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a command line whose first word is one of ``names``: ``all`` is put there where no word is one."""
    words, takes = list[str](), False
    for text in given[1:]:
        if not takes and not text.startswith("-"):
            words.append(text)
        takes = text.startswith("--") and "=" not in text and text not in _FLAGS
    return [*given] if len(words) != 1 or words[0] in names else [given[0], ALL, *given[1:]]


def _check_fits(arguments: argparse.Namespace, of_one: Mapping[str, object], of_all: Mapping[str, object]) -> None:
    """Refuse an option of one form in the other.

    Raises:
        WrongUsageError: there is such an option; it is never ignored.
    """
    for name, value in (of_one if arguments.what == ALL else of_all).items():
        if value:
            raise WrongUsageError(
                f"--{name.replace('_', '-')} is not for {arguments.what}", hint=f"holdfast {arguments.command} --help"
            )


def _write(path: Path, lines: Iterable[str]) -> int:
    """Write lines to a file of its owner's alone, which appears once it is whole, and return their number."""
    target, draft = new_file(path)
    digest, count = hashlib.sha256(), 0
    try:
        with writing(path):
            with draft.open("w", encoding="utf-8", newline="") as file:
                for count, line in enumerate(lines, 1):  # noqa: B007 - the number of the last line is their count
                    data = f"{line}\n"
                    digest.update(data.encode())
                    file.write(data)
                file.write(json.dumps({"holdfast": "end", "lines": count, "sha256": digest.hexdigest()}) + "\n")
            put_in_place(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return count


def _lines(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a file, and of each whether it is the last."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            before = next(file, None)
            for line in file:
                if before is not None:
                    yield before.removesuffix("\n"), False
                before = line
            if before is not None:
                yield before.removesuffix("\n"), True
    except (OSError, UnicodeDecodeError) as exc:
        raise ValidationError(f"{path} can't be read: {exc}") from exc


def _check_whole(path: Path) -> None:
    """Read a file to its end.

    Raises:
        CorruptError: its last line doesn't say what the others are.
    """
    digest, count, end = hashlib.sha256(), 0, ""
    for line, is_last in _lines(path):
        if is_last:
            end = line
        else:
            count += 1
            digest.update(f"{line}\n".encode())
    try:
        found = json.loads(end)
    except ValueError:
        found = None
    if found != {"holdfast": "end", "lines": count, "sha256": digest.hexdigest()}:
        raise CorruptError(f"{path} is torn or was edited", hint="export it again")
