"""A server process that lives in a folder and is owned by the processes that use it; what both embedded servers share.

Several processes may share a folder: the first one starts the server, the others attach, and it stops when the last one
stops or dies, however it dies. Nothing is remembered about processes; ownership *is* a lock that the operating system
releases. The folder holds four of them, all ``flock``, taken in this order:

``start.lock``
    Exclusive, by whoever is inside ``start()`` or ``stop()``.
``owners.lock``
    Shared, by each owner until it stops or dies. The supervisor (``_supervise.py``, one process a server) waits for it
    exclusively; once it has it, nobody owns the server, and it holds on to it until the server is down, so that a
    newcomer waits for that end instead of attaching to it. What is written in it says how to stop: ``fast``, ``smart``,
    or nothing when the owners died.
``supervisor.lock``
    Exclusive, by the supervisor. The starter takes it and hands the descriptor over, so it is never free in between.
``server.lock``
    Exclusive, by the server and each of its children through an inherited descriptor: while one of them lives it is
    held, and nothing may touch the data. It contains the server's process id.

So: ``supervisor.lock`` held means a server to attach to; free while ``server.lock`` is held means that the supervisor
was killed and its server is going down (the kernel signals it), and a start waits; both free means that nothing runs. A
child made by ``os.fork`` shares its parent's ownership until it exits or calls ``stop()``.

The folder, 0700, also has ``state.json`` (where the server listens, and its settings), ``password`` (0600),
``server.log`` and the data. The sockets are in a second folder, 0700, under ``$XDG_RUNTIME_DIR`` or ``/tmp``: the
address of a socket is limited to 107 bytes, and pg_rewind refuses sockets among the data. It keeps its name over
restarts.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from persistence import _supervise
from persistence.errors import ConfigError, ConnectError
from persistence.validation import check_duration

_SHORT = "/tmp"  # noqa: S108 - not gettempdir(), which can be long; what is made in it is private
_PAUSE = 0.003  # seconds between two looks at a lock or a socket
PATIENCE = 30.0  # seconds that an orderly stop may take before it is forced
# What servers see of the environment: none of the caller's variables, so no PGHOST or LC_ALL changes what they do.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "LC_MESSAGES": "C", "TZ": "UTC"}

StopSignals = dict[str, list[tuple[int, float]]]


def _try_lock(path: Path, how: int) -> int | None:
    """Return a descriptor that holds the lock, or None when somebody else is in the way."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(path: Path, how: int, deadline: float) -> int:
    while (descriptor := _try_lock(path, how)) is None:
        if time.monotonic() > deadline:
            raise ConnectError(
                f"{path} stayed locked until the timeout", hint="another process starts or stops the server"
            )
        time.sleep(_PAUSE)
    return descriptor


@contextmanager
def _locked(path: Path, how: int, deadline: float) -> Iterator[int]:
    descriptor = _lock(path, how, deadline)
    try:
        yield descriptor
    finally:
        _release(descriptor)


def _release(descriptor: int) -> None:
    # Closing alone would leave it held by a child that another thread forked in the meantime.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _is_held(path: Path) -> bool:
    """Return whether somebody holds the lock exclusively."""
    descriptor = _try_lock(path, fcntl.LOCK_SH)
    if descriptor is not None:
        _release(descriptor)
    return descriptor is None


def write_private(path: Path, text: str) -> None:
    """Replace the file at once, durably, readable by its owner only."""
    draft = path.with_name(path.name + ".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _reclaim(path: str, owner: int) -> bool:
    """Make the folder, or find it private and the owner's already and empty it; False when it can't be had.

    Called with server.lock held, so what is in it belongs to nobody: the lock file of a killed server, say.
    """
    try:
        os.mkdir(path, 0o700)
        return True
    except FileNotFoundError:  # what it was in is gone
        return False
    except FileExistsError:
        if os.path.islink(path) or not os.path.isdir(path):
            return False
    folder = _supervise.open_folder(path)
    try:
        status = os.fstat(folder)
        if status.st_uid != owner or stat.S_IMODE(status.st_mode) != 0o700:
            return False
        _supervise.empty_folder(folder)
        return True
    finally:
        os.close(folder)


def remaining(deadline: float) -> float:
    """Return the seconds left for a step, at least one."""
    return max(deadline - time.monotonic(), 1.0)


class NotReadyError(Exception):
    """The server does not answer yet."""


class OwnedServer(ABC):
    """What both servers share: the folder, the locks, starting, waiting and stopping."""

    KIND: ClassVar[str]
    OWN_SETTINGS: ClassVar[frozenset[str]]
    STOP_SIGNALS: ClassVar[StopSignals]
    TRANSIENT: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        version: int,
        port: int | None,
        settings: Mapping[str, str] | None,
        start_timeout: float,
    ) -> None:
        self.path = Path(os.path.abspath(path))
        self.version = version
        self._port = port
        self._settings = None if settings is None else dict(settings)
        self._start_timeout = check_duration("start_timeout", start_timeout)
        self._owner: int | None = None
        problems = []
        if port is not None and not 0 <= port <= 65535:
            problems.append(f"port must be None, 0 or a port number, not {port}")
        for name, value in (settings or {}).items():
            if not re.fullmatch(r"[a-z_][a-z0-9_.-]*", name) or name in self.OWN_SETTINGS:
                problems.append(f"setting {name!r} can't be given here")
            if re.search(r"[\0\r\n]", value):
                problems.append(f"the value of setting {name!r} must be one line")
        if problems:
            raise ConfigError("; ".join(problems), problems=tuple(problems))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def start(self) -> Self:
        """Start the server, or attach to the one that runs in this folder; return once it answers.

        Calling it again is harmless, and starts a server that died in the meantime. Settings and a port that differ
        from those of the running server are refused.

        Raises:
            ConfigError: the folder, or the server running in it, is not the one described.
            MissingExtraError: no binaries: the extra ``embedded`` is not installed. Nothing was made.
            ConnectError: no answer within ``start_timeout`` seconds; at once when the server gave up.
        """
        deadline = time.monotonic() + self._start_timeout
        self._origin()
        self._claim_folder()
        with _locked(self.path / "start.lock", fcntl.LOCK_EX, deadline):
            if self._owner is None:
                self._owner = _lock(self.path / "owners.lock", fcntl.LOCK_SH, deadline)
            try:
                os.ftruncate(self._owner, 0)
                self._bring_up(deadline)
            except BaseException:
                os.close(self._owner)
                self._owner = None
                raise
        return self

    def stop(self, *, fast: bool = True) -> None:
        """Give up this object's ownership; the last owner stops the server and returns once it is down.

        ``fast`` ends the sessions of connected clients; otherwise they get 30 seconds to leave first.
        """
        if self._owner is None:
            return
        deadline = time.monotonic() + 3 * PATIENCE
        owners = self.path / "owners.lock"
        with _locked(self.path / "start.lock", fcntl.LOCK_EX, deadline):
            os.ftruncate(self._owner, 0)
            os.pwrite(self._owner, b"fast" if fast else b"smart", 0)
            os.close(self._owner)
            self._owner = None
            last = _try_lock(owners, fcntl.LOCK_EX)
            if last is not None:
                _release(last)
            elif not _is_held(owners):
                return
            for lock in ("supervisor.lock", "server.lock"):
                _release(_lock(self.path / lock, fcntl.LOCK_EX, deadline))
            self._remove_sockets()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        """Return whether a supervised server runs in this folder, whoever owns it."""
        return all(
            (self.path / lock).exists() and _is_held(self.path / lock) for lock in ("supervisor.lock", "server.lock")
        )

    @property
    def pid(self) -> int | None:
        """The server's process id; None when none runs."""
        text = (self.path / "server.lock").read_text() if self.is_running() else ""
        return int(text) if text else None

    def _claim_folder(self) -> None:
        """Create the folder, or make sure that it is one of ours."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = self.path.stat().st_uid
        if owner != os.geteuid():
            raise ConfigError(
                f"{self.path} belongs to user id {owner}", hint="use a folder of your own, or run as that user"
            )
        present = os.listdir(self.path)
        if present and "start.lock" not in present:
            raise ConfigError(f"{self.path} holds other files", hint="name a new or empty folder for the server")
        self.path.chmod(0o700)

    def _bring_up(self, deadline: float) -> None:
        while True:
            supervisor = _try_lock(self.path / "supervisor.lock", fcntl.LOCK_EX)
            if supervisor is None:
                log_start = None
                self._check_state(running=True)
            else:
                self._check_state(running=False)
                log_start = self._launch(supervisor, deadline)
            if self._wait_until_ready(deadline):
                return
            if log_start is None:  # it went down after we attached: its next start is ours
                continue
            tail = self._log_tail(log_start)
            transient = self._port == 0 and "Address already in use" in tail
            if not transient and not any(message in tail for message in self.TRANSIENT):
                raise ConnectError(f"the embedded {self.KIND} in {self.path} ended while starting; its log:\n{tail}")
            time.sleep(_PAUSE)

    def _wait_until_ready(self, deadline: float) -> bool:
        """Wait for an answer; False when the server is gone instead."""
        while True:
            try:
                self._ping(min(5.0, remaining(deadline)))
                if self.pid is None:  # the supervisor writes it once it has started the server
                    raise NotReadyError("its process id is not known yet")
                return True
            except NotReadyError as exc:
                if not _is_held(self.path / "supervisor.lock"):
                    return False
                if time.monotonic() > deadline:
                    raise ConnectError(
                        f"{self!r} did not answer within {self._start_timeout:g} s: {exc}",
                        hint=f"see {self.path / 'server.log'}; recovery after a crash can take longer: start_timeout",
                    ) from exc
            time.sleep(_PAUSE)

    def _launch(self, supervisor: int, deadline: float) -> int:
        """Start the supervisor, which starts the server; return where this run begins in the log."""
        descriptors = [supervisor]
        try:
            server_lock = _lock(self.path / "server.lock", fcntl.LOCK_EX, deadline)
            descriptors.append(server_lock)
            os.ftruncate(server_lock, 0)  # the process id of the last run
            if not (self.path / "password").exists():
                write_private(self.path / "password", secrets.token_urlsafe(24))
            user, group = self._server_user()
            state: dict[str, Any] = {
                "kind": self.KIND,
                "version": self.version,
                "socket_directory": self._socket_directory(user, group),
                "port": _free_port() if self._port == 0 else self._port,
                "settings": self._settings or {},
            }
            write_private(self.path / "state.json", json.dumps(state))
            try:
                argv, needed = self._command(state, user, group, server_lock, deadline)
            except BaseException:
                os.rmdir(state["socket_directory"])
                raise
            descriptors += needed
            server = _supervise.Server(
                argv=argv,
                env=ENVIRONMENT,
                user=user,
                group=group,
                owners_lock=str(self.path / "owners.lock"),
                supervisor_lock=supervisor,
                server_lock=server_lock,
                pass_fds=needed,
                socket_directory=state["socket_directory"],
                stop_signals=self.STOP_SIGNALS,
            )
            return self._run_supervisor(server, descriptors, deadline)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _run_supervisor(self, server: _supervise.Server, descriptors: list[int], deadline: float) -> int:
        with open(os.open(self.path / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            start = log.tell()
            try:
                # Returns as soon as the supervisor has detached itself.
                subprocess.run(
                    [sys.executable, "-I", "-S", _supervise.__file__, server.to_json()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    start_new_session=True,
                    pass_fds=descriptors,
                    timeout=remaining(deadline),
                    check=True,
                )
            except (OSError, subprocess.SubprocessError) as exc:
                raise ConnectError(
                    f"the supervisor of {self!r} could not be started: {type(exc).__name__}",
                    hint=f"see {self.path / 'server.log'}; it runs {sys.executable!r}",
                ) from exc
        return start

    def _state(self) -> dict[str, Any]:
        if self._owner is None:
            raise ConnectError(f"{self!r} is not started", hint="call start(), or use it in a with statement")
        state: dict[str, Any] = json.loads((self.path / "state.json").read_text())
        return state

    def _check_state(self, *, running: bool) -> None:
        file = self.path / "state.json"
        if not file.exists():
            return
        state = json.loads(file.read_text())
        if (state["kind"], state["version"]) != (self.KIND, self.version):
            raise ConfigError(f"{self.path} is the folder of a {state['kind']} {state['version']}")
        if running and self._settings is not None and self._settings != state["settings"]:
            raise ConfigError(
                f"the server in {self.path} runs with other settings", hint="leave settings out to attach to it"
            )
        if running and self._port is not None and (state["port"] is None or self._port not in (0, state["port"])):
            raise ConfigError(f"the server in {self.path} does not listen on port {self._port}", hint="leave port out")

    def _server_user(self) -> tuple[int | None, int | None]:
        return None, None

    def _socket_directory(self, user: int | None, group: int | None) -> str:
        """Return a private folder for the sockets: the one of the last run, if it is still ours or free."""
        owner = os.geteuid() if user is None else user
        file = self.path / "state.json"
        folder = str(json.loads(file.read_text())["socket_directory"]) if file.exists() else None
        if folder is None or not _reclaim(folder, owner):
            base = os.environ.get("XDG_RUNTIME_DIR", "") if user is None else ""
            usable = 0 < len(base) < 60 and os.path.isabs(base) and os.access(base, os.W_OK | os.X_OK)
            folder = tempfile.mkdtemp(prefix="holdfast-", dir=base if usable else _SHORT)
        if user is not None and group is not None:
            os.chown(folder, user, group, follow_symlinks=False)
        return folder

    def _remove_sockets(self) -> None:
        """Do what the supervisor does at its end, in case that it was killed."""
        folder = json.loads((self.path / "state.json").read_text())["socket_directory"]
        user, _ = self._server_user()
        if os.path.lexists(folder) and _reclaim(folder, os.geteuid() if user is None else user):
            os.rmdir(folder)

    def _log_tail(self, start: int) -> str:
        with open(self.path / "server.log", "rb") as log:
            log.seek(max(start, log.seek(0, os.SEEK_END) - 4000))
            return self._redact(log.read().decode(errors="replace").strip())

    def _redact(self, text: str) -> str:
        return text.replace(self._password(), "***")

    def _password(self) -> str:
        return (self.path / "password").read_text()

    @abstractmethod
    def _origin(self) -> Path:
        """Return the program that is run, or the folder of several, or raise MissingExtraError."""

    @abstractmethod
    def _command(
        self, state: Mapping[str, Any], user: int | None, group: int | None, server_lock: int, deadline: float
    ) -> tuple[list[str], list[int]]:
        """Make the data ready; return the server's command and the descriptors that it needs."""

    @abstractmethod
    def _ping(self, timeout: float) -> None:
        """Return when the server answers, else raise NotReadyError, after about ``timeout`` seconds at most."""
