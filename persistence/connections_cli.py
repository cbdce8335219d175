"""How subcommands reach databases: flags, the environment or a TOML file; and how they show tables to people."""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from persistence._sync.manager import DatabaseManager
from persistence.config import SQLiteConfig
from persistence.errors import ConfigError

URL, FILE = "HOLDFAST_URL", "HOLDFAST_CONFIG"


def add_connection_arguments(parser: argparse.ArgumentParser, *, one: bool = False) -> None:
    """Add ``--url`` and ``--config``; ``one``: also ``--connection``, which of them is meant."""
    group = parser.add_argument_group(
        "connections",
        f"From --url, or the variable {URL} (which no list of processes shows), or a TOML file with a table "
        f'[connections] of names and URLs, or of names and {{env = "VARIABLE"}}: --config, or the variable {FILE}. '
        "URLs: sqlite:///file.db (from here; sqlite:////folder/file.db from the root), "
        "postgresql://user@host/database, redis://host/0.",
    )
    group.add_argument(
        "--url", action="append", metavar="[NAME=]URL", help="a connection; named main if it isn't named"
    )
    group.add_argument("--config", metavar="FILE", help="a TOML file")
    if one:
        group.add_argument("--connection", metavar="NAME", help="which one, where there are several")


@contextmanager
def opened(arguments: argparse.Namespace, *, may_create: bool = False) -> Iterator[DatabaseManager]:
    """Give a manager with the connections that the arguments name; none is opened before it is used.

    A SQLite file that isn't there is made only with ``may_create``: a wrong path is an error elsewhere, not a new file.

    Raises:
        ConfigError: there is none, or the file can't be read.
    """
    with DatabaseManager() as manager:
        for name, url in connection_urls(arguments, os.environ).items():
            add_connection(manager, name, url, may_create=may_create)
        yield manager


def add_connection(manager: DatabaseManager, name: str, url: str, *, may_create: bool) -> None:
    """Add the connection of a URL, which is opened when it is used; see ``opened``."""
    if not may_create and url.partition("://")[0] in SQLiteConfig.schemes:
        config = SQLiteConfig.from_url(url)
        if config.path != ":memory:" and not os.path.exists(config.path):
            manager.add_sqlite(name, replace(config, read_only=True), lazy=True)
            return
    manager.add(name, url, lazy=True)


def whole(least: int = 1) -> Callable[[str], int]:
    """Return what reads an argument that is a whole number, and has the parser refuse one below ``least``."""

    def read(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            found = None
        if found is None or not least <= found < 2**62:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number of at least {least}")
        return found

    return read


def positive(text: str) -> float:
    """Read an argument that is a number above 0, such as seconds or days, and have the parser refuse any other."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number above 0")
    return found


def connection_urls(arguments: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the URLs by name; flags go before the environment, and that before the file."""
    given = list(arguments.url or ())
    if not given and arguments.config is None and environment.get(URL):
        given = [environment[URL]]
    if given:
        named = [_named(text) for text in given]
        twice = [name for number, (name, _) in enumerate(named) if name in dict(named[:number])]
        if twice:
            raise ConfigError(f"two connections are named {twice[0]}", hint="--url NAME=URL")
        return dict(named)
    path = arguments.config or environment.get(FILE)
    if path is None:
        raise ConfigError("no connection is named", hint=f"--url, {URL}, or --config")
    return _from_file(Path(path), environment)


def chosen(arguments: argparse.Namespace, manager: DatabaseManager) -> str:
    """Return the name of the one connection that is meant.

    Raises:
        ConfigError: there are several, and none is named.
    """
    names = list(manager.names())
    if arguments.connection is not None:
        manager.get(arguments.connection)
        return str(arguments.connection)
    if len(names) != 1:
        raise ConfigError(f"which connection: {', '.join(names)}?", hint="--connection NAME")
    return names[0]


def _named(text: str) -> tuple[str, str]:
    """Return name and URL; an ``=`` behind the scheme belongs to the URL."""
    name, separator, url = text.partition("=")
    return (name, url) if separator and "://" not in name else ("main", text)


def _from_file(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as exc:
        raise ConfigError(f"{path} can't be read: {exc.strerror}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is no TOML: {exc}") from exc
    connections = tables.get("connections")
    if not isinstance(connections, dict) or not connections:
        raise ConfigError(f"{path} has no table [connections]")
    found = {}
    for name, value in connections.items():
        match value:
            case str():
                found[name] = value
            case {"env": str(variable)} if len(value) == 1:
                if variable not in environment:
                    raise ConfigError(f"{path}: connection {name!r} wants the variable {variable}, which is not set")
                found[name] = environment[variable]
            case _:
                raise ConfigError(f"{path}: connection {name!r} is neither a URL nor {{env = …}}")
    return found


def table(rows: Sequence[Sequence[object]], headings: Sequence[str]) -> str:
    """Return rows as text in columns, numbers to the right."""
    texts = [list(headings), *([_cell(value) for value in row] for row in rows)]
    right = [bool(rows) and all(isinstance(row[at], int | float | None) for row in rows) for at in range(len(headings))]
    widths = [max(len(line[at]) for line in texts) for at in range(len(headings))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in texts
    )


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:,.2f}"
        case int() if not isinstance(value, bool):
            return f"{value:,}"
    return str(value)
