"""The subcommand ``demo``: a workflow that is killed in the middle of its work, and goes on in another process."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import DatabaseManager
from persistence.cli import DONE, NOT_AS_IT_SHOULD, Output
from persistence.connections_cli import whole

_THREAD = "demo"
_URL = "HOLDFAST_DEMO_URL"


class Demo:
    """Runs a workflow of many small steps in a process, kills it half way, and lets another process go on."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        parser.add_argument("--url", help="the database (default: a SQLite file that is gone afterwards)")
        parser.add_argument(
            "--steps", type=whole(2), default=200, metavar="N", help="how many, 2 or more (default: %(default)s)"
        )

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        with TemporaryDirectory(prefix="holdfast-demo-") as folder:
            url = arguments.url or f"sqlite:///{Path(folder) / 'demo.db'}"
            with DatabaseManager() as manager:
                manager.add("main", url)
                store = DatabaseCheckpointer(manager, "main")
                store.delete_thread(_THREAD)
                killed_at = _run_and_kill(url, arguments.steps, store)
                output.progress(f"killed after step {killed_at} of {arguments.steps}; another process goes on")
                started = perf_counter()
                _start(url, arguments.steps).communicate(timeout=300)
                seconds = perf_counter() - started
                last = store.load_checkpoint(_THREAD)
                done = last.state["done"]
                health = manager.health_check()["main"]
                store.delete_thread(_THREAD)
        whole = done == list(range(arguments.steps))
        values = {
            "steps": arguments.steps,
            "killed_at": killed_at,
            "resumed_seconds": round(seconds, 3),
            "each_step_once": whole,
            "checkpoints": last.version,
            "healthy": bool(health),
        }
        text = (
            f"{arguments.steps} steps, each a checkpoint; killed after {killed_at}, ended {seconds:.1f} s later\n"
            f"each step is there once, in order: {'yes' if whole else 'NO'}\n"
            f"{health.kind} {health.server_version}: {'healthy' if health else 'ill'}, {health.latency * 1000:.2f} ms"
        )
        output.result(values, text)
        return DONE if whole else NOT_AS_IT_SHOULD


def _start(url: str, steps: int) -> subprocess.Popen[bytes]:
    program = f"from checkpoint.demo_cli import work; work({steps})"
    return subprocess.Popen([sys.executable, "-c", program], env={**os.environ, _URL: url}, stdin=subprocess.DEVNULL)


def _run_and_kill(url: str, steps: int, store: DatabaseCheckpointer) -> int:
    """Kill a process once it has done half of the steps, and return how many it had done."""
    program = _start(url, steps)
    try:
        while program.poll() is None:
            last = store.latest(_THREAD)
            if last is not None and len(last.state["done"]) * 2 >= steps:
                break
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    last = store.latest(_THREAD)
    return len(last.state["done"]) if last else 0


def work(steps: int) -> None:
    """Do the steps that are not done yet, each with a checkpoint: the other process of the demo."""
    with DatabaseManager() as manager:
        manager.add("main", os.environ[_URL])
        store = DatabaseCheckpointer(manager, "main")
        last = store.latest(_THREAD)
        state = last.state if last else {"done": []}
        while len(state["done"]) < steps:
            state = {"done": [*state["done"], len(state["done"])]}
            store.save_checkpoint(Checkpoint(thread_id=_THREAD, state=state, node="step"))
