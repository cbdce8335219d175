"""What the demo says while it runs and at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from checkpoint import CheckpointInfo
from persistence import HealthStatus
from persistence.extras import extra
from research.debian import Quality, Question
from research.health import HealthWatch
from research.process import Run
from research.stores import Stores
from sessions import Session, Thread

with extra("examples"):
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int], object]


class Report:
    """Writes to the terminal; plain text where the output is no terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def _say(self, text: str) -> None:
        self._console.print(text)

    def _title(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/bold]")

    def connections(self, statuses: Mapping[str, HealthStatus]) -> None:
        """Say what the demo is connected to."""
        self._title("Connections")
        for name, status in statuses.items():
            server = f"{status.kind} {status.server_version}"
            self._say(f"  {name:<8} {server}, {_condition(status)}, {_milliseconds(status.latency)}")

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """Show a progress bar; yield what moves it to a number."""
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(label, total=total)
            yield lambda done: progress.update(task, completed=done)

    def opened(self, session: Session, thread: Thread) -> None:
        """Say which session and thread the agent works in."""
        self._say(f"  session {session.id} of {session.user_id}, thread {thread.id}: {thread.title}\n")

    def killed(self, run: Run, step: int) -> None:
        """Say what became of the first process."""
        if run.killed:
            self._say(f"  process {run.worker} was killed (SIGKILL) with {step} steps checkpointed; starting a new one")
        else:
            self._say(f"  process {run.worker} was done before it could be killed: ask more questions")

    def proof(self, history: Sequence[CheckpointInfo], runs: Sequence[Run], steps: int) -> bool:
        """Show that each step was done exactly once; return whether it was."""
        self._title("Killed and resumed")
        done = Counter(entry.step for entry in history)
        for run in runs:
            theirs = [entry.step for entry in history if entry.metadata["worker"] == run.worker]
            span = f"steps {theirs[0]} to {theirs[-1]}" if theirs else "no step"
            self._say(f"  process {run.worker} did {span}{', then was killed' if run.killed else ', the end'}")
        lost = [step for step in range(1, steps + 1) if step not in done]
        twice = [step for step, times in done.items() if times > 1]
        in_order = [entry.version for entry in history] == list(range(1, steps + 1))
        self._say(f"  {len(history)} checkpoints for {steps} steps: {len(lost)} lost, {len(twice)} done twice")
        return not lost and not twice and in_order and any(run.killed for run in runs)

    def answers(self, asked: Sequence[Question], given: Mapping[str, Any], stores: Stores) -> None:
        """Show some answers, with the documents that they rest on."""
        self._title("Some answers, as the last checkpoint has them")
        for question in asked:
            answer = given[question.id]
            document = stores.packages.get(answer["best"])
            right = "right" if answer["best"] == question.relevant else f"wanted: {_package(question.relevant)}"
            self._say(f"  [bold]{escape(question.text)}?[/bold]")
            self._say(f"    {answer['score']:.3f} {_package(answer['best'])} ({right})")
            if document is not None:
                self._say(f"    [dim]{escape(document.content[:110])}…[/dim]")
            self._say(f"    see also, in section {answer['section']}: {', '.join(map(_package, answer['also']))}")

    def quality(self, quality: Quality, as_found: Quality, questions: int) -> None:
        """Show how good the search is."""
        self._title(f"Plain vector search over all {questions} questions, each with one right answer")
        self._say(f"  MRR@10 {quality.mrr:.3f}   hit@10 {quality.hit:.3f}   packages of equal score in corpus order")
        self._say(
            f"  [dim]MRR@10 {as_found.mrr:.3f}   hit@10 {as_found.hit:.3f}   in the store's own order, by id[/dim]"
        )

    def health(self, watch: HealthWatch) -> None:
        """Show what the background poll saw."""
        self._title(f"Health, polled {len(watch.seconds)} times while the agent ran")
        for status in watch.changes:
            when = status.checked_at.astimezone().strftime("%H:%M:%S.%f")[:-3]
            self._say(f"  {when}  {status.name:<8} {_condition(status)}")
        for name, status in watch.last.items():
            pool = f", {status.pool.requests} requests, {status.pool.errors} errors" if status.pool else ""
            self._say(f"  at the end    {name:<8} {_condition(status)}{pool}")

    def timings(self, figures: Mapping[str, str]) -> None:
        """Show how long things took."""
        self._title("Timings")
        for label, figure in figures.items():
            self._say(f"  {label:<34} {figure}")

    def kept(self, folder: Path, command: str, note: str) -> None:
        """Say how to look at what was kept."""
        self._title(f"Kept in {folder}; to look around")
        self._say(f"  {command}")
        self._say(f"  {note}")


def _package(identifier: str) -> str:
    return identifier.removeprefix("pkg-")


def _condition(status: HealthStatus) -> str:
    return "healthy" if status else f"unhealthy: {status.error}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def timings(
    load: tuple[int, float],
    searches: Sequence[float],
    runs: Sequence[Run],
    history: Sequence[CheckpointInfo],
    watch: HealthWatch,
    cached: tuple[int, list[float]] | None,
) -> dict[str, str]:
    """Return the figures of a run as text, by their labels."""
    rows, seconds = load
    figures = {"load": f"{rows / seconds:,.0f} rows/s ({rows:,} in {seconds:.2f} s)"}
    figures["search, median"] = f"{_milliseconds(median(searches))} ({len(searches)} searches, nearest 20)"
    last = runs[-1]
    if last.save_seconds is not None:
        figures["checkpoint save, median"] = _milliseconds(last.save_seconds)
    figures["health poll, median"] = f"{_milliseconds(median(watch.seconds))} (all connections)"
    resumed = next((entry.timestamp for entry in history if entry.metadata["worker"] == last.worker), None)
    if resumed is not None:
        waited = (resumed - last.started_at).total_seconds()
        figures["resume"] = f"{waited:.2f} s from the start of the new process to its first checkpoint"
    if cached is not None:
        there, looks = cached
        figures["asked again, from Redis, median"] = f"{_milliseconds(median(looks))} ({there} of {len(looks)} cached)"
    return figures
