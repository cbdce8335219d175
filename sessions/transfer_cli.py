"""The subcommands ``export`` and ``import``: a thread, a graph, a context or a person's data as a file of JSON lines.

The last line of a file says how many lines there are and their SHA-256, so that a torn or edited file is refused
before anything is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from persistence import DatabaseManager
from persistence.cli import DONE, Output
from persistence.connections_cli import add_connection_arguments, chosen, opened
from persistence.errors import CorruptError, ValidationError
from sessions import ContextStore, MemoryGraph, MessageStore, UserData

_Opened = tuple[DatabaseManager, str, argparse.Namespace]


def _context(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> ContextStore:
    context = ContextStore(manager, name, tenant=arguments.tenant)
    return context if arguments.of is None else context.for_user(arguments.of)


def _graph(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> MemoryGraph:
    graph = MemoryGraph(manager, name, tenant=arguments.tenant)
    return graph if arguments.of is None else graph.in_scope(arguments.of)


def _messages(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> MessageStore:
    return MessageStore(manager, name, tenant=arguments.tenant)


def _users(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> UserData:
    return UserData(manager, name, tenant=arguments.tenant)


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


class Export:
    """Writes a thread's messages, a graph, a context, or what is stored of a person, to a new file of JSON lines."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("what", choices=sorted(_EXPORTS))
        parser.add_argument("file", metavar="FILE", help="is not there yet; only its owner may read it")
        parser.add_argument(
            "--of", metavar="ID", help="the thread (messages), scope (graph) or user (context, user); none: shared"
        )
        parser.add_argument("--tenant", default="default", help="whose (default: %(default)s)")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        if arguments.of is None and arguments.what in ("messages", "user"):
            raise ValidationError(f"export {arguments.what} of whom?", hint="--of ID")
        path = Path(arguments.file)
        with opened(arguments) as manager:
            lines = _EXPORTS[arguments.what](manager, chosen(arguments, manager), arguments)
            count = _write(path, lines)
        output.result({"path": str(path), "lines": count}, f"{path}: {count:,} lines")
        return DONE


class Import:
    """Stores what ``export`` wrote of a thread, a graph or a context, in this database or another kind."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("what", choices=sorted(_IMPORTS))
        parser.add_argument("file", metavar="FILE", help="a whole file that holdfast export wrote")
        parser.add_argument("--of", metavar="ID", help="as another thread, in another scope, for another user")
        parser.add_argument("--approved-by", metavar="NAME", help="where the scope of the graph wants an approval")
        parser.add_argument("--tenant", default="default", help="whose (default: %(default)s)")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        path = Path(arguments.file)
        _check_whole(path)
        with opened(arguments) as manager:
            given = (manager, chosen(arguments, manager), arguments)
            count = _IMPORTS[arguments.what](given, (line for line, is_last in _lines(path) if not is_last))
        output.result({"imported": count}, f"{count:,} imported")
        return DONE


def _write(path: Path, lines: Iterable[str]) -> int:
    """Write lines to a file that appears once it is whole, and return their number."""
    part = path.with_name(f"{path.name}.part")
    digest, count = hashlib.sha256(), 0
    try:
        if path.exists():
            raise ValidationError(f"{path} is there already", hint="name a new file")
        private = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(private, "w", encoding="utf-8", newline="") as file:
            for count, line in enumerate(lines, 1):  # noqa: B007 - the number of the last line is their count
                data = f"{line}\n"
                digest.update(data.encode())
                file.write(data)
            file.write(json.dumps({"holdfast": "end", "lines": count, "sha256": digest.hexdigest()}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as exc:
        raise ValidationError(f"{path} can't be written: {exc.strerror}") from exc
    finally:
        part.unlink(missing_ok=True)
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
