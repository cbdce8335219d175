"""The agent's processes: starting one, watching its checkpoints, killing it; and what they left behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import sleep

from checkpoint import CheckpointInfo
from research.stores import Stores
from research.workflow import THREAD

LOOK_SECONDS = 0.002


@dataclass(frozen=True)
class Run:
    """One process of the agent; ``save_seconds`` is the median of its saves, None where it could not tell."""

    worker: int
    started_at: datetime
    killed: bool
    save_seconds: float | None


def run_agent(
    stores: Stores, command: Sequence[str], advance: Callable[[int], object], *, kill_at: int | None = None
) -> Run:
    """Run the command, tell ``advance`` its last step now and then, and kill it when step ``kill_at`` is there."""
    started_at = datetime.now(UTC)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None:
                step = last_step(stores)
                advance(step)
                if kill_at is not None and step >= kill_at:
                    break
                sleep(LOOK_SECONDS)
        finally:
            process.kill()  # SIGKILL, which no program can catch; it does nothing to one that has ended by itself
        output = process.communicate()[0]
    advance(last_step(stores))
    if process.returncode > 0:
        raise SystemExit(f"the agent failed with exit status {process.returncode}; its error is above")
    save_seconds = json.loads(output)["save_seconds"] if process.returncode == 0 else None
    return Run(process.pid, started_at, process.returncode < 0, save_seconds)


def last_step(stores: Stores) -> int:
    """Return the number of the last step that was checkpointed, 0 when there is none yet."""
    newest = stores.checkpoints.list_checkpoints(THREAD, limit=1)
    return newest[0].step or 0 if newest else 0


def read_history(stores: Stores) -> list[CheckpointInfo]:
    """Return what is known of every checkpoint, oldest first, without the states."""
    history: list[CheckpointInfo] = []
    before = None
    while page := stores.checkpoints.list_checkpoints(THREAD, limit=200, before=before):
        history += page
        before = page[-1].version
    return history[::-1]
