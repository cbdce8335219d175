"""TLS as it is by default and as it is asked for: who can't prove to be the server is refused before a password goes.

PostgreSQL needs one that was built with OpenSSL (Debian's package; the embedded one isn't), and is skipped by that
name. Redis is a real one behind a TLS end of the test's own, as the embedded one has none either.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from persistence import (
    AsyncDatabaseManager,
    ConnectError,
    DatabaseManager,
    EmbeddedRedis,
    PostgreSQLConfig,
    RedisConfig,
)

PASSWORD = "only for who is the server"


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own, and the server's certificates that it made."""

    folder: Path
    name: str

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def make(self) -> Authority:
        """Write the authority's certificate, and one for the server at 127.0.0.1, one for elsewhere, and an old one."""
        key = ec.generate_private_key(ec.SECP256R1())
        us = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        whole = x509.BasicConstraints(ca=True, path_length=None)
        now = datetime.now(UTC)
        self.certificate.write_bytes(self._signed(us, us, key, key, now, whole))
        for name, place, start in (
            ("server", x509.IPAddress(ip_address("127.0.0.1")), now),
            ("elsewhere", x509.DNSName("db.example"), now),
            ("old", x509.IPAddress(ip_address("127.0.0.1")), now - timedelta(days=30)),
        ):
            own = ec.generate_private_key(ec.SECP256R1())
            them = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            (self.folder / f"{name}.pem").write_bytes(
                self._signed(them, us, own, key, start, x509.SubjectAlternativeName([place]))
            )
            key_bytes = own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            path = self.folder / f"{name}.key"
            path.touch(mode=0o600)
            path.write_bytes(key_bytes)
        return self

    @staticmethod
    def _signed(subject: x509.Name, issuer: x509.Name, key: Any, by: Any, start: datetime, extension: Any) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - timedelta(days=1))
            .not_valid_after(start + timedelta(days=7))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .add_extension(_usage(isinstance(extension, x509.BasicConstraints)), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )
        return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _usage(signs: bool) -> x509.KeyUsage:
    """Return what a key is for, without which Python 3.13 takes no authority's word."""
    other = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    uses = dict.fromkeys((*other, "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **uses)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours").make()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("others"), "others").make()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class PostgreSQL:
    """A PostgreSQL that speaks TLS, and no plain text when it isn't asked to."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.port = programs, folder, free_port()
        self._as: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:
            self._as |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, "nobody")
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        command = ["initdb", "-D", f"{folder}/data", "-U", "tester", "-A", "scram-sha-256", "--no-sync"]
        self._run(*command, f"--pwfile={folder}/password")
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self.programs / program, *arguments], check=True, capture_output=True, **self._as)

    def start(self, certificate: Path | None) -> None:
        """Start it with a certificate, or without TLS."""
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "fsync": "off"}
        options["unix_socket_directories"] = str(self.folder)
        if certificate is not None:
            for suffix in (".pem", ".key"):
                copy = self.folder / f"server{suffix}"
                copy.unlink(missing_ok=True)
                shutil.copyfile(certificate.with_suffix(suffix), copy)
                copy.chmod(0o600)
                if os.geteuid() == 0:
                    shutil.chown(copy, "nobody")
            options |= {"ssl": "on", "ssl_cert_file": f"{self.folder}/server.pem"}
            options["ssl_key_file"] = f"{self.folder}/server.key"
        command = [self.programs / "postgres", "-D", self.folder / "data"]
        command += [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **self._as)
        until = monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None
            assert monotonic() < until
            sleep(0.01)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None


@pytest.fixture(scope="module")
def server(open_folder: Path) -> Iterator[PostgreSQL]:
    built = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not built:
        pytest.skip("no PostgreSQL with TLS is installed (Debian's package postgresql)")
    made = PostgreSQL(built[-1], open_folder)
    yield made
    made.stop()


def reached(config: PostgreSQLConfig) -> bool:
    """Tell whether the server is reached, by TLS; who refuses says why."""
    with DatabaseManager() as manager:
        database = manager.add_postgresql("main", config)
        return bool(database.fetch_value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", timeout=5))


def refusal(config: PostgreSQLConfig) -> str:
    with pytest.raises(ConnectError) as caught:
        reached(config)
    assert PASSWORD not in f"{caught.value}{caught.value!r}{caught.value.__cause__}"
    return str(caught.value)


def test_a_postgresql_is_who_it_proves_to_be_or_refused(server: PostgreSQL, ours: Authority, others: Authority) -> None:
    config = PostgreSQLConfig(
        host="127.0.0.1", port=server.port, username="tester", password=PASSWORD, database="postgres"
    )
    verified = replace(config, sslmode="verify-full", sslrootcert=str(ours.certificate))
    server.start(ours.folder / "server.pem")
    until = monotonic() + 10
    while True:  # it takes connections a moment before it is ready
        with suppress(ConnectError):
            assert reached(verified)
            break
        assert monotonic() < until
    assert "certificate verify failed" in refusal(replace(verified, sslrootcert=str(others.certificate)))
    assert "certificate verify failed" in refusal(replace(verified, sslrootcert="system"))
    assert reached(replace(config, sslmode="require"))  # asked for: encrypted, not verified
    server.stop()
    server.start(ours.folder / "elsewhere.pem")
    until = monotonic() + 10
    while "starting up" in (said := refusal(verified)) and monotonic() < until:
        pass
    assert "does not match" in said
    server.stop()
    server.start(ours.folder / "old.pem")
    assert "certificate verify failed" in refusal(verified)
    server.stop()
    server.start(None)
    assert "server does not support SSL" in refusal(verified)


class TLSEnd:
    """Takes TLS and hands it on to a server that speaks none."""

    def __init__(self, certificate: Path, target: str) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self.target = target
        self.received = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> TLSEnd:
        return self

    def __exit__(self, *exc: object) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),
            self.context.wrap_socket(client, server_side=True) as safe,
            socket.socket(socket.AF_UNIX) as server,
        ):
            server.connect(self.target)
            threading.Thread(target=self._copy, args=(server, safe), daemon=True).start()
            while data := safe.recv(65536):
                self.received += data
                server.sendall(data)

    @staticmethod
    def _copy(server: socket.socket, safe: ssl.SSLSocket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                safe.sendall(data)


@pytest.mark.parametrize("certificate", ["server", "elsewhere", "old"])
def test_a_redis_is_who_it_proves_to_be_or_refused(
    certificate: str, ours: Authority, others: Authority, tmp_path: Path
) -> None:
    with EmbeddedRedis(tmp_path / "redis") as redis:
        config = redis.config()
        assert config.unix_socket is not None
        with TLSEnd(ours.folder / f"{certificate}.pem", config.unix_socket) as end, DatabaseManager() as manager:
            safe = replace(
                config, unix_socket=None, host="127.0.0.1", port=end.port, tls=True, tls_ca=str(ours.certificate)
            )
            for refused in [replace(safe, tls_ca=str(others.certificate))] + [safe] * (certificate != "server"):
                with pytest.raises(ConnectError):
                    manager.add_redis("refused", refused)
            assert end.received == b""  # no command, and so no password, was sent
            if certificate == "server":
                manager.add_redis("main", safe).client.set("k", "v")
                assert manager.get_redis("main").client.get("k") == b"v"


BIG = bytes(range(256)) * 4000
SIZES = (1, 16_384, 100_000, len(BIG))


def test_answers_over_tls_come_back_whole_on_one_connection(ours: Authority, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as redis:
        config = redis.config()
        assert config.unix_socket is not None
        with TLSEnd(ours.folder / "server.pem", config.unix_socket) as end:
            single = replace(config, unix_socket=None, host="127.0.0.1", port=end.port, pool_size=1)
            safe = replace(single, tls=True, tls_ca=str(ours.certificate))
            with DatabaseManager() as manager:
                cache = manager.add_redis("main", safe)
                for size in SIZES:
                    cache.client.set("k", BIG[:size])
                    assert cache.client.get("k") == BIG[:size]
                assert (cache.stats().opened, cache.errors) == (1, 0)

            async def run() -> None:
                async with AsyncDatabaseManager() as manager:
                    cache = await manager.add_redis("main", safe)
                    for size in SIZES:
                        await cache.client.set("k", BIG[:size])
                        assert await cache.client.get("k") == BIG[:size]
                    async with cache.client.pipeline() as pipe:
                        pipe.get("k")
                        pipe.strlen("k")
                        assert await pipe.execute() == [BIG, len(BIG)]
                    assert (cache.stats().opened, cache.errors) == (1, 0)

            asyncio.run(run())


def test_a_url_of_a_host_elsewhere_verifies() -> None:
    assert RedisConfig.from_url("rediss://cache.example/0").tls
    assert PostgreSQLConfig.from_url("postgresql://db.example/x").connection_parameters()["sslmode"] == "verify-full"
