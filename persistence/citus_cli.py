"""The subcommand ``citus-plan``."""

from __future__ import annotations

import argparse

import psycopg
from psycopg.rows import dict_row

from persistence.citus import plan, read_tables
from persistence.cli import DONE, NOT_AS_IT_SHOULD, Output
from persistence.connections_cli import add_connection_arguments, chosen, opened
from persistence.errors import from_psycopg


class CitusPlan:
    """Prints the script that distributes the tables of a database by tenant; changes nothing."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        parser.epilog = "Exit code 3: a key stands in the way, and is named. The database's migrations are done before."
        add_connection_arguments(parser, one=True)

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Read the tables and print the script."""
        with opened(arguments) as manager:
            name = chosen(arguments, manager)
            parameters = manager.get_postgresql(name).config.connection_parameters()
            try:
                with psycopg.connect(**parameters, autocommit=True, row_factory=dict_row) as connection:
                    found = plan(read_tables(connection))
            except psycopg.Error as exc:
                raise from_psycopg(exc, operation="citus-plan", connection=name) from exc
        values = {"statements": list(found.statements), "problems": list(found.problems)}
        output.result(values, found.script().rstrip("\n"))
        return NOT_AS_IT_SHOULD if found.problems else DONE
