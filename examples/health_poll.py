"""Three connections, a server that is stopped and started again, and what the health poll says of it.

On a real PostgreSQL and a real Redis, which are started for it, and a SQLite file.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

from persistence import DatabaseManager, EmbeddedPostgreSQL, EmbeddedRedis


def poll(manager: DatabaseManager, when: str) -> bool:
    """Poll every connection, print a line for each, and return whether all are healthy."""
    started = perf_counter()
    statuses = manager.health_check(timeout=1)
    took = perf_counter() - started
    print(f"\n{when} (polled all in {took * 1000:.1f} ms)")
    for name, status in statuses.items():
        told = f"healthy, version {status.server_version}" if status else f"UNHEALTHY: {status.error}"
        print(f"  {name:<6} {status.kind:<10} {status.latency * 1000:6.2f} ms  {told}")
    return all(statuses.values())


def main() -> None:
    """Poll before, while and after PostgreSQL is down."""
    with TemporaryDirectory() as name, DatabaseManager() as manager:
        folder = Path(name)
        with EmbeddedPostgreSQL(folder / "postgresql") as postgresql, EmbeddedRedis(folder / "redis") as redis:
            manager.add_postgresql("main", postgresql.config())
            manager.add_redis("cache", redis.config())
            manager.add_sqlite("local", f"sqlite:///{folder / 'local.db'}")
            poll(manager, "all three run")

            postgresql.stop()
            poll(manager, "PostgreSQL is stopped")

            postgresql.start()
            started = perf_counter()
            while not poll(manager, "PostgreSQL is started again"):
                sleep(0.1)
            print(
                f"\nrecovered {perf_counter() - started:.3f} s after the start; nothing had to be reconnected by hand"
            )

            pool = manager.stats()["main"]
            print(f"main: {pool.open} open, {pool.idle} idle, {pool.opened} opened, {pool.discarded} discarded")


if __name__ == "__main__":
    main()
