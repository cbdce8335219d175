"""Files that are there after a power cut once they are written, and that their owner alone can read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def copy_file(source: Path, target: Path) -> None:
    """Copy a file to a new one."""
    with open(source, "rb") as given, open(target, "xb", opener=private) as file:
        shutil.copyfileobj(given, file, _BLOCK)
        sync_file(file)


def private(path: str, flags: int) -> int:
    """Open a file that, when it is new, its owner alone can read, whatever the umask."""
    return os.open(path, flags, 0o600)


def write_file(path: Path, data: bytes) -> None:
    """Write a file, in place of what is there."""
    with open(path, "wb", opener=private) as file:
        file.write(data)
        sync_file(file)


def sync_file(file: Any) -> None:
    """Have on the disk what was written to an open file."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have on the disk which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
