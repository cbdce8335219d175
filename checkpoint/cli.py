"""The subcommands of ``holdfast`` about checkpoints: ``import-langgraph``."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from persistence.cli import DONE, NOT_AS_IT_SHOULD, WRONG_USAGE, Output
from persistence.config import PostgreSQLConfig, SQLiteConfig
from persistence.errors import CapabilityError, ConfigError, ConnectError, NotFoundError, ValidationError, from_psycopg

_SHOWN_DIFFERENCES = 20


class _Thread(NamedTuple):
    """A thread of theirs, and how many checkpoints and pending writes it has."""

    thread_id: str
    checkpoints: int
    writes: int


class _Source(NamedTuple):
    """Their saver, and what it has."""

    saver: Any
    threads: list[_Thread]


class ImportLangGraph:
    """Takes threads over from LangGraph's PostgresSaver or SqliteSaver, with their history and pending writes.

    Nothing is written to the source. What is there already stays, so a run that stopped is repeated.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        parser.epilog = (
            "Both URLs may come from the environment, where no list of processes shows their passwords: "
            "HOLDFAST_FROM_URL, HOLDFAST_URL. Let nobody run the graphs meanwhile."
        )
        source, target = os.environ.get("HOLDFAST_FROM_URL"), os.environ.get("HOLDFAST_URL")
        parser.add_argument(
            "--from",
            dest="source",
            metavar="URL",
            default=source,
            required=source is None,
            help="their database: postgresql://user:password@host/database, or sqlite:///file.db",
        )
        parser.add_argument(
            "--to",
            dest="target",
            metavar="URL",
            default=target,
            help="ours, as HoldfastSaver.from_url takes it; a dry run needs none",
        )
        parser.add_argument("--tenant", default="default", help="whose the threads will be (default: %(default)s)")
        parser.add_argument(
            "--thread", action="append", metavar="ID", help="only this thread; may be given several times"
        )
        parser.add_argument(
            "--class",
            dest="classes",
            action="append",
            default=[],
            metavar="MODULE:NAME",
            help="a class of yours that is in the states; may be given several times",
        )
        parser.add_argument("--dry-run", action="store_true", help="say what there is, and write nothing")
        parser.add_argument("--verify", action="store_true", help="read everything back, and compare")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Import, thread by thread."""
        if arguments.target is None and not arguments.dry_run:
            output.error("--to is required, or HOLDFAST_URL")
            return WRONG_USAGE
        started = time.monotonic()
        classes = [_class_of(name) for name in arguments.classes]
        module = _langgraph("checkpoint.langgraph")
        counts = {"threads": 0, "checkpoints": 0, "writes": 0}
        differences: list[str] = []
        verified = 0
        with _opened(arguments.source) as source:
            source.saver.serde = source.saver.serde.with_msgpack_allowlist(classes)
            chosen = _chosen(source.threads, arguments.thread)
            if arguments.dry_run:
                for thread in chosen:
                    _add(counts, 1, thread.checkpoints, thread.writes)
            else:
                saver = module.HoldfastSaver.from_url(arguments.target, tenant=arguments.tenant, classes=classes)
                with saver as target:
                    for number, thread in enumerate(chosen, 1):
                        output.progress(f"{number} of {len(chosen)}: {thread.thread_id}")
                        _add(counts, *module.import_langgraph(source.saver, target, threads=[thread.thread_id]))
                        if arguments.verify:
                            differences += _differences(source.saver, target, thread.thread_id)
                            verified += thread.checkpoints
        values = {
            **counts,
            "dry_run": arguments.dry_run,
            "verified": verified if arguments.verify and not arguments.dry_run else None,
            "differences": differences,
            "seconds": round(time.monotonic() - started, 3),
        }
        output.result(values, _summary(values))
        return NOT_AS_IT_SHOULD if differences else DONE


def _add(counts: dict[str, int], *more: int) -> None:
    for name, count in zip(counts, more, strict=True):
        counts[name] += count


def _summary(values: dict[str, Any]) -> str:
    verb = "found" if values["dry_run"] else "imported"
    counted = ", ".join(f"{values[name]:,} {name}" for name in ("threads", "checkpoints", "writes"))
    lines = [f"{verb} {counted} in {values['seconds']:.1f} s"]
    if values["verified"] is not None:
        lines.append(f"compared {values['verified']:,} checkpoints: {len(values['differences'])} differ")
    lines += values["differences"][:_SHOWN_DIFFERENCES]
    return "\n".join(lines)


def _class_of(name: str) -> type:
    """Return the class that ``module:Name`` names; modules are looked for in the working folder too."""
    module, _, path = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ValidationError(f"--class {name}: {exc}", hint="--class package.module:Name") from exc
    if not isinstance(found, type):
        raise ValidationError(f"--class {name} is no class")
    return found


def _langgraph(name: str) -> Any:
    """Return a module that needs LangGraph."""
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        raise CapabilityError(f"{exc.name} is not installed", hint=f"pip install {name.replace('.', '-')}") from exc


@contextmanager
def _opened(url: str) -> Iterator[_Source]:
    """Open their database, so that nothing can be written to it."""
    scheme = url.partition("://")[0]
    if scheme in PostgreSQLConfig.schemes:
        opened = _postgresql(PostgreSQLConfig.from_url(url))
    elif scheme in SQLiteConfig.schemes:
        opened = _sqlite(SQLiteConfig.from_url(url))
    else:
        raise ConfigError(f"--from: {scheme[:20]!r} is no scheme known here", hint="postgresql or sqlite")
    with opened as source:
        yield source


@contextmanager
def _postgresql(config: PostgreSQLConfig) -> Iterator[_Source]:
    import psycopg
    from psycopg.rows import dict_row

    module = _langgraph("langgraph.checkpoint.postgres")
    try:
        connection = psycopg.connect(
            **config.connection_parameters(), autocommit=True, prepare_threshold=0, row_factory=dict_row
        )
    except psycopg.Error as exc:
        # The driver's message has the address, and never the password.
        raise ConnectError(f"--from: can't connect to {config.address}: {str(exc).partition(chr(10))[0]}") from exc
    with connection:
        try:
            connection.execute("SET default_transaction_read_only = on")
            rows = connection.execute(_COUNTED.format(writes="checkpoint_writes")).fetchall()
            threads = [_Thread(row["thread_id"], row["checkpoints"], row["writes"]) for row in rows]
            yield _Source(module.PostgresSaver(connection), threads)
        except psycopg.errors.UndefinedTable as exc:
            raise _none_there(config.address) from exc
        except psycopg.Error as exc:
            raise from_psycopg(exc, operation="import-langgraph", connection="--from") from exc


@contextmanager
def _sqlite(config: SQLiteConfig) -> Iterator[_Source]:
    module = _langgraph("langgraph.checkpoint.sqlite")
    if not os.path.isfile(config.path):
        raise NotFoundError(f"--from: there is no file {config.path}")
    connection = sqlite3.connect(f"{Path(config.path).absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    with closing(connection):
        try:
            threads = [_Thread(*row) for row in connection.execute(_COUNTED.format(writes="writes"))]
        except sqlite3.OperationalError as exc:
            raise _none_there(config.path) from exc
        except sqlite3.Error as exc:
            raise ConnectError(f"--from: can't read {config.path}: {exc}") from exc
        saver = module.SqliteSaver(connection)
        saver.is_setup = True  # or the first read would make tables
        yield _Source(saver, threads)


_COUNTED = """
SELECT c.thread_id, count(*) AS checkpoints,
       (SELECT count(*) FROM {writes} AS w WHERE w.thread_id = c.thread_id) AS writes
FROM checkpoints AS c
GROUP BY c.thread_id
ORDER BY c.thread_id
"""


def _none_there(place: str) -> NotFoundError:
    return NotFoundError(f"--from: {place} has no checkpoints of LangGraph", hint="is it the right database?")


def _chosen(threads: list[_Thread], wanted: list[str] | None) -> list[_Thread]:
    if wanted is None:
        return threads
    found = {thread.thread_id: thread for thread in threads}
    missing = [each for each in wanted if each not in found]
    if missing:
        raise NotFoundError(f"--from has no thread {missing[0]!r}")
    return [found[each] for each in dict.fromkeys(wanted)]


def _differences(source: Any, target: Any, thread_id: str) -> list[str]:
    """Return which checkpoints of a thread are not in the target as they are in the source."""
    found = []
    for theirs in source.list({"configurable": {"thread_id": thread_id}}):
        ours = target.get_tuple(theirs.config)
        for part in ("config", "checkpoint", "metadata", "parent_config", "pending_writes"):
            if ours is None or not _is_same(target, getattr(theirs, part), getattr(ours, part)):
                named = theirs.config["configurable"]
                place = f"thread {thread_id!r}, checkpoint {named['checkpoint_id']}"
                found.append(f"{place}: {'not there' if ours is None else f'another {part}'}")
                break
    return found


def _is_same(saver: Any, a: Any, b: Any) -> bool:
    """Compare by value, and what has no such comparison (NaN, arrays) by how LangGraph would store it."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_is_same(saver, a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_is_same(saver, *pair) for pair in zip(a, b, strict=True))
    try:
        if a == b:
            return True
    except ValueError:
        pass  # the truth of an array of numpy
    return bool(saver.serde.dumps_typed(a) == saver.serde.dumps_typed(b))
