"""What a claim and a completion cost, beside procrastinate, PgQueuer and the barest SKIP LOCKED.

``python -m tests.benchmarks.tasks [--quick]``. Each way has its own database of one server and the same number of jobs
waiting; they work in turns, so that a machine whose speed drifts treats them alike. Every way claims durably, and then
ends what it claimed. The floor is one UPDATE … FOR UPDATE SKIP LOCKED and one UPDATE by key, without lease, token,
attempts or owner. What is missing is said.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import psycopg

from persistence import AsyncDatabaseManager, EmbeddedPostgreSQL, PostgreSQLConfig
from sessions import AsyncTaskStore, Task
from tests.benchmarks.measure import in_turns_async, report

Claim = Callable[[], Awaitable[list[Any]]]
End = Callable[[list[Any]], Awaitable[Any]]
WORKERS = 8


class Way:
    """How one library adds, claims and ends jobs; ``batch`` is how many a claim takes."""

    def __init__(self, name: str, add: Callable[[int], Awaitable[Any]], claims: list[tuple[Claim, End]]) -> None:
        self.name = name
        self.add = add
        self.claims = claims


async def floor(stack: AsyncExitStack, config: PostgreSQLConfig, batch: int) -> Way:
    """The barest queue on psycopg."""

    async def connected() -> psycopg.AsyncConnection[Any]:
        return await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(**config.connection_parameters(), autocommit=True)
        )

    first = await connected()
    await first.execute(
        "CREATE TABLE floor (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text NOT NULL, body json)"
    )
    await first.execute("CREATE INDEX ON floor (id) WHERE status = 'todo'")

    async def add(count: int) -> None:
        await first.execute("INSERT INTO floor (status, body) SELECT 'todo', '{}' FROM generate_series(1, %s)", [count])

    def pair(connection: psycopg.AsyncConnection[Any]) -> tuple[Claim, End]:
        async def claim() -> list[Any]:
            found = await connection.execute(
                "UPDATE floor SET status = 'doing' WHERE id = ANY(ARRAY(SELECT id FROM floor WHERE status = 'todo' "
                "ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED)) RETURNING id, body",
                [batch],
            )
            return await found.fetchall()

        async def end(found: list[Any]) -> None:
            await connection.execute("UPDATE floor SET status = 'done' WHERE id = ANY(%s)", [[row[0] for row in found]])

        return claim, end

    return Way("bare SKIP LOCKED", add, [pair(await connected()) for _ in range(WORKERS)])


async def ours(stack: AsyncExitStack, config: PostgreSQLConfig, batch: int) -> Way:
    """The task store."""
    manager = await stack.enter_async_context(AsyncDatabaseManager())
    await manager.add_postgresql("main", config)
    tasks = AsyncTaskStore(manager, "main")

    async def add(count: int) -> None:
        for start in range(0, count, 10_000):
            await tasks.add_many([Task(kind="work", payload={}) for _ in range(min(10_000, count - start))])

    def pair(owner: str) -> tuple[Claim, End]:
        async def claim() -> list[Any]:
            return await tasks.claim_next("work", owner, batch)

        async def end(found: list[Any]) -> None:
            await (tasks.complete_many(found) if len(found) > 1 else tasks.complete(found[0]))

        return claim, end

    return Way("claim_next, complete", add, [pair(f"worker {number}") for number in range(WORKERS)])


async def procrastinates(stack: AsyncExitStack, config: PostgreSQLConfig, batch: int) -> Way:
    """procrastinate, by what its worker calls: one job a claim."""
    from procrastinate import App, PsycopgConnector
    from procrastinate.jobs import Status

    app = App(connector=PsycopgConnector(kwargs=config.connection_parameters(), min_size=WORKERS, max_size=WORKERS))
    await stack.enter_async_context(app.open_async())
    await app.schema_manager.apply_schema_async()

    @app.task(name="work")
    async def work() -> None:
        raise AssertionError("it is never run here")

    async def add(count: int) -> None:
        for start in range(0, count, 10_000):
            await work.batch_defer_async(*[{} for _ in range(min(10_000, count - start))])

    async def pair() -> tuple[Claim, End]:
        worker = await app.job_manager.register_worker()

        async def claim() -> list[Any]:
            found = [await app.job_manager.fetch_job(queues=None, worker_id=worker) for _ in range(batch)]
            return [job for job in found if job is not None]

        async def end(found: list[Any]) -> None:
            for job in found:
                await app.job_manager.finish_job(job, status=Status.SUCCEEDED, delete_job=False)

        return claim, end

    return Way("procrastinate", add, [await pair() for _ in range(WORKERS)])


async def pgqueuers(stack: AsyncExitStack, config: PostgreSQLConfig, batch: int) -> Way:
    """PgQueuer, by what its manager calls."""
    from pgqueuer import PsycopgDriver, Queries
    from pgqueuer.queries import EntrypointExecutionParameter

    async def connected() -> Queries:
        connection = await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(**config.connection_parameters(), autocommit=True)
        )
        return Queries(PsycopgDriver(connection))

    first = await connected()
    await first.install()

    async def add(count: int) -> None:
        await first.enqueue(["work"] * count, [b"{}"] * count, [0] * count)

    def pair(queries: Queries) -> tuple[Claim, End]:
        manager: Any = uuid4()

        async def claim() -> list[Any]:
            return await queries.dequeue(
                batch,
                {"work": EntrypointExecutionParameter(0)},
                manager,
                None,
                timedelta(seconds=60),  # type: ignore[dict-item]
            )

        async def end(found: list[Any]) -> None:
            if found:
                await queries.log_jobs([(job, "successful", None) for job in found])

        return claim, end

    return Way("PgQueuer", add, [pair(await connected()) for _ in range(WORKERS)])


async def drained(way: Way, count: int) -> float:
    """Return how many jobs a second all workers of a way claim and end, side by side."""
    done = 0

    async def work(claim: Claim, end: End) -> None:
        nonlocal done
        while done < count and (found := await claim()):
            await end(found)
            done += len(found)

    started = perf_counter()
    await asyncio.gather(*[work(*pair) for pair in way.claims])
    return done / (perf_counter() - started)


async def compared(server: EmbeddedPostgreSQL, batch: int, rounds: int, count: int) -> None:
    """Time one claim and its end alone, then all workers at once."""
    async with AsyncExitStack() as stack:
        ways: list[Way] = []
        for make in (floor, ours, procrastinates, pgqueuers):
            name = f"{make.__name__}_{batch}"
            server.create_database(name)
            try:
                ways.append(await make(stack, server.config(database=name), batch))
            except ImportError as exc:
                print(f"\n  missing: {exc}")
        alone: dict[str, Callable[[], Awaitable[Any]]] = {}
        for way in ways:
            await way.add(rounds * 20 * batch + 20 * batch)
            claim, end = way.claims[0]

            async def both(claim: Claim = claim, end: End = end) -> None:
                await end(await claim())

            alone[way.name] = both
        found = await in_turns_async(alone, rounds=rounds, calls=20)
        report(f"claim of {batch} and their ends, one worker", found, floor=ways[0].name)
        rates: dict[str, list[float]] = {way.name: [] for way in ways}
        for _ in range(5):
            for way in ways:
                await way.add(count)
                rates[way.name].append(await drained(way, count))
        print(f"\n{WORKERS} workers in one process, claims of {batch}")
        for name, each in rates.items():
            print(f"  {name:<44} {median(each):>10,.0f} jobs/s")


async def beside_history(server: EmbeddedPostgreSQL, rounds: int, history: int) -> None:
    """Time a claim on an empty table and beside many finished tasks."""
    async with AsyncExitStack() as stack:
        ways: dict[str, Callable[[], Awaitable[Any]]] = {}
        for finished in (0, history):
            name = f"history_{finished}"
            server.create_database(name)
            way = await ours(stack, server.config(database=name), 1)
            await way.add(rounds * 20 + 40)
            async with await psycopg.AsyncConnection.connect(
                **server.config(database=name).connection_parameters(), autocommit=True
            ) as connection:
                await connection.execute(
                    "INSERT INTO holdfast_tasks SELECT tenant_id, 'old ' || n, kind, key, parent_id, 'worker', shared, "
                    "'completed', priority, level, 1, max_attempts, 1, NULL, NULL, payload, NULL, NULL, metadata, "
                    "created_at - n * INTERVAL '1 second', updated_at, now() FROM "
                    "(SELECT * FROM holdfast_tasks LIMIT 1) AS t, generate_series(1, %s) AS n",
                    [finished],
                )
                await connection.execute("VACUUM ANALYZE holdfast_tasks")
            ways[f"claim_next beside {finished:,} finished"] = way.claims[0][0]
        report("cost of history", await in_turns_async(ways, rounds=rounds, calls=20), floor=next(iter(ways)))


def main() -> None:
    """Run everything on a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tasks")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    quick = parser.parse_known_args()[0].quick
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgreSQL(Path(folder) / "postgresql", settings={"shared_buffers": "256MB"}) as server,
    ):
        for batch in (1, 10):
            asyncio.run(compared(server, batch, 5 if quick else 15, 500 if quick else 1500))
        asyncio.run(beside_history(server, 10 if quick else 25, 20_000 if quick else 300_000))


if __name__ == "__main__":
    main()
