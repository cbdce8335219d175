"""Other libraries, each in a process of its own, because what they need can't be installed beside what we need.

Their interpreter is ``.venv/peers`` (``make bench`` makes it), or the one that HOLDFAST_BENCH_PEERS names.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INTERPRETER = Path(os.environ.get("HOLDFAST_BENCH_PEERS", Path(__file__).parents[3] / ".venv/peers/bin/python"))


class PeerError(Exception):
    """A peer that can't be had, and why."""


class Peer:
    """A program of this folder that answers one call a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def answer(self) -> Any:
        """Return what the program says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError("it has ended")
        found = json.loads(line)
        if "error" in found:
            raise PeerError(found["error"])
        return found["done"]

    def call(self, name: str, *arguments: Any) -> Any:
        """Return what a method of the program's returns."""
        assert self._process.stdin is not None
        print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
        return self.answer()


@contextmanager
def started(program: str, arguments: Sequence[str]) -> Iterator[Peer]:
    """Start a program of this folder, which ends with the block.

    Raises:
        PeerError: there is no interpreter, or the program says that it can't.
    """
    if not INTERPRETER.exists():
        raise PeerError("not installed: make bench installs the peers")
    command = [str(INTERPRETER), "-W", "ignore", str(Path(__file__).parent / program), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            peer = Peer(process)
            peer.answer()
            yield peer
        finally:
            process.kill()
