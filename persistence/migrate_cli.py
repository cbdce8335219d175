"""The subcommand ``holdfast migrate``: status, up, down, history, validate, advice, create and adopt."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from persistence._sync.copy_rows import copy_tables_of
from persistence._sync.database import Database
from persistence._sync.migrator import LOCK_SECONDS, Migrator
from persistence._sync.schema import read_schema
from persistence.cli import DONE, NOT_AS_IT_SHOULD, WRONG_USAGE, Output
from persistence.connections_cli import add_connection_arguments, chosen, opened, positive, whole
from persistence.dialect import Kind
from persistence.errors import CapabilityError
from persistence.migration_advice import advice
from persistence.migrations import PACKAGES, Migration, MigrationLine, shipped_lines


class Migrate:
    """Brings the tables of a database up to date or back, and says how they are."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        parser.epilog = "Exit code 3: something is pending (status), or not as it should be (validate, advice)."
        parser.add_argument("action", choices=sorted(_ACTIONS), help="what to do")
        parser.add_argument("what", nargs="?", metavar="NAME|N", help="the new file's name (create), or number (adopt)")
        add_connection_arguments(parser, one=True)
        parser.add_argument(
            "--line", action="append", metavar="NAME", help="only this line; may be given several times"
        )
        parser.add_argument("--folder", metavar="PATH", help="the folder of a line of your own, named by --line")
        parser.add_argument(
            "--to", type=whole(0), metavar="N", help="stop at this number (up), or undo all above it (down)"
        )
        parser.add_argument("--dry-run", action="store_true", help="run it, roll it back, and print its statements")
        parser.add_argument("--backup", metavar="FILE", help="where the backup before up and down goes")
        parser.add_argument("--no-backup", action="store_true", help="go on without a backup")
        parser.add_argument("--language", choices=("sql", "py"), default="sql", help="of the new file (create)")
        parser.add_argument(
            "--lock-timeout", type=positive, default=LOCK_SECONDS, metavar="S", help="wait so long for another program"
        )

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        wrong = _wrong(arguments)
        if wrong:
            output.error(wrong)
            return WRONG_USAGE
        with opened(arguments, may_create=True) as manager:
            database = manager.get_database(chosen(arguments, manager))
            return _ACTIONS[arguments.action](_Migration(database, arguments, output))


def _wrong(arguments: argparse.Namespace) -> str | None:
    needs_what = arguments.action in ("create", "adopt")
    one_line = needs_what or arguments.folder is not None or (arguments.action == "down")
    if needs_what != (arguments.what is not None):
        return f"{arguments.action} {'needs its NAME or N' if needs_what else 'takes no NAME'}"
    if arguments.action == "adopt" and not arguments.what.isdecimal():
        return f"adopt needs a number, not {arguments.what!r}"
    if one_line and len(arguments.line or ()) != 1:
        return f"{'--folder' if arguments.folder else arguments.action} needs one --line"
    if arguments.action == "create" and arguments.folder is None:
        return "create needs --folder"
    if arguments.folder is None:
        unknown = [name for name in arguments.line or () if name not in PACKAGES]
        if unknown:
            return f"no line is called {unknown[0]!r}: name its --folder, or take one of {', '.join(PACKAGES)}"
    return None


class _Migration:
    """What the actions have in common: the database, its migrator, the lines that were asked for."""

    def __init__(self, database: Database, arguments: argparse.Namespace, output: Output) -> None:
        self.database = database
        self.arguments = arguments
        self.output = output
        self.migrator = Migrator(database)
        self.kind: Kind = database.kind
        if arguments.folder is not None:
            self.lines = [MigrationLine(arguments.line[0], Path(arguments.folder))]
        else:
            wanted = arguments.line or PACKAGES
            self.lines = [line for line in shipped_lines() if line.name in wanted]

    def backup_path(self) -> Path | None:
        """Return where to write the backup, None where none is wanted, or there is no table to lose."""
        if self.arguments.no_backup or self.arguments.dry_run:
            return None
        if self.arguments.backup is not None:
            return Path(self.arguments.backup)
        if not read_schema(self.database):
            return None
        suffix = "db" if self.kind == "sqlite" else "dump"
        return Path(f"holdfast-{datetime.now(UTC):%Y%m%dT%H%M%S}.{suffix}")

    def told(self, values: Mapping[str, Any], lines: list[str], code: int = DONE) -> int:
        """Write the result and return the exit code."""
        self.output.result(values, "\n".join(lines))
        return code


def _status(run: _Migration) -> int:
    found = [run.migrator.status(line) for line in run.lines]
    lines = []
    for each in found:
        begun = f"; {each.begun} was begun and has not ended" if each.begun else ""
        lines.append(f"{each.line}: {each.current} of {each.target}{begun}")
        lines += [f"  pending {migration}" for migration in each.pending]
    values = {
        each.line: {
            "current": each.current,
            "target": each.target,
            "pending": [str(migration) for migration in each.pending],
            "begun": each.begun,
        }
        for each in found
    }
    return run.told({"lines": values}, lines, NOT_AS_IT_SHOULD if any(each.pending for each in found) else DONE)


def _up(run: _Migration) -> int:
    return _move(run, down=False)


def _down(run: _Migration) -> int:
    return _move(run, down=True)


def _move(run: _Migration, *, down: bool) -> int:
    verb, timeout, to = "undone" if down else "applied", run.arguments.lock_timeout, run.arguments.to
    if run.arguments.dry_run:
        tried = [
            each for line in run.lines for each in run.migrator.dry_run(line, down=down, to=to, lock_timeout=timeout)
        ]
        lines = []
        for each in tried:
            lines.append(f"-- {each.migration}{'' if each.tried else ' (not tried: it runs without a transaction)'}")
            lines += [f"{text};" for text in each.statements]
        values = [
            {"migration": str(each.migration), "tried": each.tried, "statements": list(each.statements)}
            for each in tried
        ]
        return run.told({"dry_run": values}, lines or ["nothing to do"])
    backup, done = run.backup_path(), list[Migration]()
    made: Path | None = None
    for line in run.lines:
        move: Callable[..., tuple[Migration, ...]] = run.migrator.down if down else run.migrator.up
        if not down and run.arguments.folder is None and run.migrator.pending(line):
            _prepare(run, line)
        try:
            moved = move(line, to=to, lock_timeout=timeout, backup=None if made else backup)
        except CapabilityError as exc:
            exc.hint = f"{exc.hint}; or go on without a backup by --no-backup"
            raise
        made = made or (backup if moved and backup else None)
        done += moved
    lines = [f"{verb} {migration}" for migration in done] or ["nothing to do"]
    values_done = {verb: [str(migration) for migration in done], "backup": None if made is None else str(made)}
    return run.told(values_done, [*([f"backup in {made}"] if made else []), *lines])


def _prepare(run: _Migration, line: MigrationLine) -> None:
    """Make what a line of ours needs and doesn't make itself: the type of vectors."""
    module = copy_tables_of(line.name)
    if not hasattr(module, "prepare"):
        return
    try:
        module.prepare(run.database)
    except CapabilityError as exc:
        exc.hint = f"{exc.hint}; or name the lines that are wanted by --line"
        raise


def _history(run: _Migration) -> int:
    found = [each for line in run.lines for each in run.migrator.history(line)]
    values = [{"migration": str(each), "applied_at": each.applied_at.isoformat()} for each in found]
    return run.told(
        {"history": values}, [f"{each.applied_at:%Y-%m-%d %H:%M:%S} {each}" for each in found] or ["nothing applied"]
    )


def _validate(run: _Migration) -> int:
    found = [each for line in run.lines for each in run.migrator.validate(line)]
    values = [
        {"kind": each.kind, "table": each.table, "name": each.name, "expected": each.expected, "actual": each.actual}
        for each in found
    ]
    lines = [str(each) for each in found] or ["every table is as its migrations make it"]
    return run.told({"differences": values}, lines, NOT_AS_IT_SHOULD if found else DONE)


def _advice(run: _Migration) -> int:
    found = [each for line in run.lines for each in _pending_advice(run, line)]
    values = [
        {"migration": each.migration, "statement": each.statement, "problem": each.problem, "instead": each.instead}
        for each in found
    ]
    lines = [f"{each.migration}: {each.statement}\n  {each.problem}; {each.instead}" for each in found]
    return run.told({"advice": values}, lines or ["nothing to say"], NOT_AS_IT_SHOULD if found else DONE)


def _pending_advice(run: _Migration, line: MigrationLine) -> list[Any]:
    return [each for migration in run.migrator.pending(line) for each in advice(migration, run.kind)]


def _create(run: _Migration) -> int:
    path = run.lines[0].create(run.arguments.what, run.kind, language=run.arguments.language)
    return run.told({"created": str(path)}, [str(path)])


def _adopt(run: _Migration) -> int:
    number = int(run.arguments.what)
    run.migrator.adopt(run.lines[0], number, lock_timeout=run.arguments.lock_timeout)
    return run.told({"adopted": number}, [f"{run.lines[0].name} is at {number}"])


_ACTIONS: Mapping[str, Callable[[_Migration], int]] = {
    "adopt": _adopt,
    "advice": _advice,
    "create": _create,
    "down": _down,
    "history": _history,
    "status": _status,
    "up": _up,
    "validate": _validate,
}
