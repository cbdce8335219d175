"""What an operator should know about a database: rules over facts that the server told, each with the way out.

The thresholds are those that PostgreSQL's and Redis's own documentation warn of; none of them changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["problem", "advice"]

LONG_TRANSACTION_SECONDS = 300
DEAD_SHARE, DEAD_ROWS = 0.3, 10_000
OLD_TRANSACTION_AGE = 1_000_000_000
POOL_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at: a ``problem`` loses data or service sooner or later, an ``advice`` costs time or room."""

    connection: str
    severity: Severity
    what: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.connection}: {self.severity}: {self.what}; {self.way_out}"


Rule = tuple[Severity, str, str]


def postgresql_rules(settings: Mapping[str, str], server: Mapping[str, Any], pool_limit: int) -> Iterator[Rule]:
    """Yield what the server's settings and figures call for; ``pool_limit``: how many connections a program takes."""
    for name in ("fsync", "full_page_writes"):
        if settings.get(name) == "off":
            yield "problem", f"{name} is off: a crash of the machine loses what was committed", f"set {name} = on"
    if settings.get("synchronous_commit") == "off":
        yield (
            "advice",
            "synchronous_commit is off: a crash loses the last commits",
            "set it on, and choose durability='async' where that is wanted",
        )
    if settings.get("autovacuum") == "off":
        yield "problem", "autovacuum is off: tables grow, and transaction ids run out", "set autovacuum = on"
    allowed = int(settings.get("max_connections", 100)) - int(settings.get("superuser_reserved_connections", 3))
    if pool_limit > allowed:
        yield (
            "problem",
            f"the pool may open {pool_limit} connections, and the server allows {allowed}",
            "lower max_connections of the connection, or put PgBouncer in front",
        )
    elif server["connections"] > allowed * POOL_SHARE:
        yield (
            "advice",
            f"{server['connections']} of {allowed} connections are in use",
            "smaller pools, or PgBouncer in front: a program needs few connections more than cores",
        )
    if int(settings.get("shared_buffers_bytes", 0)) < 128 * 2**20:
        yield "advice", "shared_buffers is below 128 MB", "a quarter of the machine's memory is the usual setting"
    if server["oldest_age"] > OLD_TRANSACTION_AGE:
        yield (
            "problem",
            f"transaction ids are {server['oldest_age']:,} old, and writing stops near 2,100,000,000",
            "VACUUM (FREEZE), and look for long transactions, prepared transactions and replication slots",
        )
    if server["retained_bytes"] > 2**30:
        yield (
            "problem",
            f"a replication slot that nobody reads holds {server['retained_bytes'] / 2**30:.1f} GiB of log",
            "drop it (pg_drop_replication_slot), or start its reader",
        )
    if server["vector"] is None:
        yield "advice", "the extension vector is not in this database", "CREATE EXTENSION vector, if vectors are wanted"


def transaction_rules(rows: Sequence[Mapping[str, Any]]) -> Iterator[Rule]:
    """Yield what is open for too long, by process."""
    for row in rows:
        yield (
            "problem",
            f"process {row['pid']} ({row['application_name'] or 'unnamed'}, {row['state']}) "
            f"has a transaction open for {row['seconds']:.0f} s",
            "it keeps vacuum from its work: end it, or set idle_in_transaction_session_timeout",
        )


def table_rules(rows: Sequence[Mapping[str, Any]]) -> Iterator[Rule]:
    """Yield which tables hold much that is dead, and which were never analyzed."""
    for row in rows:
        live, dead = row["live"], row["dead"]
        if dead > DEAD_ROWS and dead > (live + dead) * DEAD_SHARE:
            yield (
                "advice",
                f"table {row['name']} holds {dead:,} dead rows beside {live:,} live ones",
                "VACUUM it; if it comes back, lower its autovacuum_vacuum_scale_factor",
            )
        if live > DEAD_ROWS and not row["analyzed"]:
            yield "advice", f"table {row['name']} was never analyzed, so plans are guesses", "ANALYZE it"


def index_rules(rows: Sequence[Mapping[str, Any]]) -> Iterator[Rule]:
    """Yield the indexes that were begun and never finished."""
    for row in rows:
        yield (
            "problem",
            f"index {row['name']} of {row['table']} is not valid: no search uses it, and every write pays for it",
            "REINDEX INDEX CONCURRENTLY, or drop it",
        )


def redis_rules(info: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[Rule]:
    """Yield what Redis would lose."""
    policy = settings.get("maxmemory-policy", "noeviction")
    if int(settings.get("maxmemory", 0)) > 0 and policy != "noeviction":
        yield (
            "problem",
            f"maxmemory-policy is {policy}: when memory is full Redis deletes what it was given to keep",
            "set noeviction where anything but a cache lives here",
        )
    if settings.get("appendonly") != "yes":
        yield (
            "advice",
            "appendonly is off: a restart loses what came after the last snapshot",
            "set appendonly yes where anything but a cache lives here",
        )
    elif settings.get("appendfsync") != "always":
        yield (
            "advice",
            f"appendfsync is {settings.get('appendfsync')}: a crash of the machine loses the last second",
            "set always where every write must last",
        )
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        yield "problem", "Redis could not write to its disk", "look at its log, and at the room that is left"
    if int(settings.get("maxmemory", 0)) and int(info.get("used_memory", 0)) > int(settings["maxmemory"]) * 0.9:
        yield "problem", "more than 90 % of maxmemory is used", "raise maxmemory, or let sessions expire sooner"


def sqlite_rules(pragmas: Mapping[str, Any], checked: Sequence[str], *, in_memory: bool) -> Iterator[Rule]:
    """Yield what a SQLite file would lose."""
    if checked != ["ok"]:
        yield "problem", f"the file is damaged: {'; '.join(checked)[:200]}", "restore a backup"
    if in_memory:
        return
    if pragmas["journal_mode"] != "wal":
        yield (
            "advice",
            f"journal_mode is {pragmas['journal_mode']}: readers wait for writers",
            "PRAGMA journal_mode = WAL",
        )
    if pragmas["synchronous"] < 2:
        yield (
            "advice",
            "synchronous is below FULL: a power cut loses the last commits",
            "synchronous='FULL' (the default)",
        )
    if pragmas["freelist_count"] > max(10_000, pragmas["page_count"] // 2):
        yield "advice", "more than half of the file is free pages", "VACUUM gives them back to the disk"
