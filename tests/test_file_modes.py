"""Files are their owner's alone, whatever the umask of the program that makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.unasync import ROOT

PROGRAM = """
import os, sys
import numpy as np
from checkpoint import Checkpoint, FileCheckpointer
from persistence import DatabaseManager, EmbeddedRedis
from vectorstore import Document, FileVectorIndex, SQLiteVectorStore

os.umask(0)
os.chdir(sys.argv[1])
with DatabaseManager() as manager, EmbeddedRedis("redis") as redis, FileCheckpointer("new/folder/c.db") as checkpoints:
    database = manager.add_sqlite("main", "sqlite:///main.db")
    store = SQLiteVectorStore(manager, "main", dimensions=64)
    vectors = np.random.default_rng(7).random((20_000, 64), dtype=np.float32)
    store.store_documents(Document(str(n), "x", {}, vectors[n]) for n in range(len(vectors)))
    store.search(vectors[0], 3)
    database.back_up("backup.db")
    checkpoints.save_checkpoint(Checkpoint("t", {"n": 1}))
    index = FileVectorIndex("index", dimensions=64)
    index.add([str(n) for n in range(50)], vectors[:50])
    index.save(graph=sys.argv[2] == "graph")
    index.add(["more"], vectors[50:51])
    index.save()
    index.rollback()
    index.backup("copy")
    # Looked at while all of it is open.
    for folder, folders, files in os.walk("."):
        for name in folders + files:
            path = os.path.join(folder, name)
            kind = "folder" if name in folders else "file"
            print("mode", oct(os.lstat(path).st_mode & 0o777), kind, path)
"""


def test_nobody_else_can_read_a_file_whatever_the_umask(tmp_path: Path) -> None:
    try:
        import faiss  # noqa: F401

        graph = "graph"
    except ImportError:
        graph = "none"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), graph],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modes = [line.split(" ", 3)[1:] for line in done.stdout.splitlines() if line.startswith("mode ")]
    files = {path: mode for mode, kind, path in modes if kind == "file"}
    assert len(files) > 10
    names = {Path(path).name for path in files}
    assert {"main.db", "main.db-wal", "backup.db", "c.db", "CURRENT", "vectors.npy", "journal"} <= names
    assert {path: mode for path, mode in files.items() if mode not in ("0o600", "0o700")} == {}
