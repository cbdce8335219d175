"""The process that stands between the owners of an embedded server and the server; a script with one JSON argument.

``_owned_server.py`` (see there for who locks what) starts it holding ``supervisor.lock`` and ``server.lock``. It leaves
the starter's session, starts the server and waits for whichever comes first:

* nobody holds ``owners.lock`` any more: every owner stopped or died. It keeps the exclusive lock until the server is
  down, so a newcomer waits instead of attaching to a server that is about to go;
* the server ended: what is left of its children is killed, for a backend that outlives its postmaster blocks recovery.

Should this process itself be killed, the kernel sends the server its stop signal (PR_SET_PDEATHSIG, Linux only). That
signal follows the *thread* that forked, so the server is started by the main thread. Only the standard library is
imported: this runs under ``python -I -S`` and must be up within milliseconds.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_LINUX = sys.platform == "linux"


@dataclass(frozen=True, kw_only=True)
class Server:
    """What to run and how to end it.

    ``stop_signals`` gives for each way of stopping that ``owners.lock`` may contain the signals to send in turn, each
    with the seconds that the server has to end before the next one; ``user`` and ``group`` are None to stay who we are.
    """

    argv: list[str]
    env: dict[str, str]
    user: int | None
    group: int | None
    owners_lock: str
    supervisor_lock: int
    server_lock: int
    pass_fds: list[int]
    socket_directory: str
    stop_signals: dict[str, list[tuple[int, float]]]

    def to_json(self) -> str:
        """Return the script's argument."""
        return json.dumps(asdict(self))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def _spawn(server: Server) -> subprocess.Popen[bytes]:
    supervisor = os.getpid()
    end = server.stop_signals[""][0][0]

    def die_with_supervisor() -> None:
        # Runs in the child after its change of user, which would have cleared the signal.
        if _LINUX:
            _prctl(_PR_SET_PDEATHSIG, end)
        if os.getppid() != supervisor:
            os._exit(1)

    return subprocess.Popen(
        server.argv,
        env=server.env,
        cwd="/",
        umask=0o077,
        user=server.user,
        group=server.group,
        extra_groups=None if server.user is None else [],
        stdin=subprocess.DEVNULL,
        pass_fds=[server.server_lock, *server.pass_fds],
        preexec_fn=die_with_supervisor,
    )


def _stop_without_owners(server: Server, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
    """Wait until nobody owns the server, then end it; the lock that says so is held until this process exits."""
    owners = os.open(server.owners_lock, os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(owners, fcntl.LOCK_EX)
    how = os.pread(owners, 16, 0).decode()
    for number, patience in server.stop_signals[how]:
        process.send_signal(number)
        if ended.wait(patience):
            return


def _kill_orphans() -> None:
    """Kill and reap the processes that the server left behind: as subreaper, this process inherited them."""
    while True:
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN; server.lock tells when they have gone
            return
        if not children:
            return
        for child in map(int, children):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def open_folder(path: str) -> int:
    """Open the folder itself; a server's user could put a symbolic link in its place."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def empty_folder(folder: int) -> None:
    """Remove the files in an open folder."""
    for name in os.listdir(folder):
        os.unlink(name, dir_fd=folder)


def supervise(server: Server) -> None:
    """Run the server until it ends or nobody owns it."""
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    process = _spawn(server)
    os.ftruncate(server.server_lock, 0)
    os.pwrite(server.server_lock, str(process.pid).encode(), 0)
    ended = threading.Event()
    threading.Thread(target=_stop_without_owners, args=(server, process, ended), daemon=True).start()
    process.wait()
    if _LINUX:
        _kill_orphans()
    empty_folder(open_folder(server.socket_directory))
    os.rmdir(server.socket_directory)
    ended.set()


def main(argument: str) -> None:
    """Detach from the starter, which waits for the first of the two processes only, then supervise."""
    server = Server(**json.loads(argument))
    if os.fork():
        os._exit(0)
    supervise(server)
    # The other thread may wait for the owners still; they hold on to a server that has ended.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
