"""What the tests of checkpointers share: other connections, calls side by side, and the tables decoded."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

import zstandard

from checkpoint import AsyncCheckpointer, AsyncDatabaseCheckpointer, Serializer
from persistence import AsyncDatabase, AsyncDatabaseManager
from persistence._async.compat import Parallel

LONG = "x" * 40
"""Long enough to be a piece."""
RICH = {
    "messages": [{"role": "user", "content": "naïve \0 \ud800 😀" * 5}, {"role": "tool", "content": None}],
    "numbers": [0, -1, 2**100, 1.5, float("inf"), -0.0],
    "flags": {"yes": True, "no": False},
    "tuple": (1, ("a", b"\x00\xff")),
    "set": {"a", "b"},
    "money": Decimal("1.10"),
    "when": datetime(2024, 2, 29, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2))),
    "id": UUID("12345678-1234-5678-1234-567812345678"),
    "keys": {1: "int", "1": "str", None: "none", ("a", 1): "tuple"},
    "empty": {},
    "": "a channel without a name",
    "bytes": bytes(range(256)) * 40,
}
"""Values of many types."""


class Piece(NamedTuple):
    """A piece as it lies in a block."""

    kind: int
    check: bytes
    content: bytes


def fresh(manager: AsyncDatabaseManager, tenant: str = "default") -> AsyncDatabaseCheckpointer:
    """Return a checkpointer that remembers nothing, as in another process."""
    return AsyncDatabaseCheckpointer(manager, "main", tenant=tenant)


async def another(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncDatabaseCheckpointer:
    """Return a checkpointer on a second connection to the same database; memory has only the one."""
    config = getattr(database, "config")  # noqa: B009 - each kind has its own
    if database.kind == "postgresql":
        await manager.add_postgresql("second", config)
    elif config.path == ":memory:":
        return AsyncDatabaseCheckpointer(manager, "main")
    else:
        await manager.add_sqlite("second", config)
    return AsyncDatabaseCheckpointer(manager, "second")


async def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """Run the calls side by side, in tasks or in threads."""
    parallel = Parallel()
    try:
        return await parallel.run(calls)
    finally:
        parallel.close()


async def versions(checkpointer: AsyncCheckpointer, thread_id: str = "t", namespace: str = "") -> list[int]:
    """Return the versions of a thread, newest first."""
    found = await checkpointer.list_checkpoints(thread_id, namespace=namespace, limit=10_000)
    return [one.version for one in found]


def content_of(value: object) -> bytes:
    """Return the content of the piece that a value alone is."""
    return Serializer().dumps(value)


def check_of(value: object) -> bytes:
    """Return the beginning of the name that is stored with that piece, where it is not compressed."""
    return hashlib.sha256(b"\0" + content_of(value)).digest()[:8]


def frame(content: bytes) -> bytes:
    """Return a piece as docs/formats.md says that it lies in a block, not compressed."""
    size, left = bytearray(), len(content)
    while left > 0x7F:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    size.append(left)
    return b"\0" + hashlib.sha256(b"\0" + content).digest()[:8] + bytes(size) + content


def manifest_of(body: bytes, refs: list[int], names: bytes = b"") -> bytes:
    """Return a manifest as docs/formats.md says that it is stored; ``names`` are those of its pieces, end to end."""
    pieces = struct.pack(">I", crc32(names))
    check = crc32(struct.pack(f">{len(refs)}i", *refs) + pieces, crc32(body))
    return b"\1" + check.to_bytes(4, "big") + pieces + body


def cut(data: bytes) -> list[Piece]:
    """Return the pieces of a block, read as docs/formats.md tells it."""
    found, place = [], 0
    while place < len(data):
        kind, check = data[place], data[place + 1 : place + 9]
        place += 9
        size = shift = 0
        while True:
            size |= (data[place] & 0x7F) << shift
            shift += 7
            place += 1
            if data[place - 1] < 0x80:
                break
        stored = data[place : place + size]
        assert len(stored) == size
        place += size
        found.append(Piece(kind, check, zstandard.decompress(stored) if kind else stored))
    return found


Key = tuple[str, str, str, int, int]
"""Tenant, thread, namespace, version and ordinal of a block."""


async def blocks(database: AsyncDatabase) -> dict[Key, bytes]:
    """Return every block that is stored. None is in both tables."""
    named = "tenant_id, thread_id, namespace, version"
    beside = await database.fetch_all(
        f"SELECT {named}, 0 AS ordinal, data FROM holdfast_checkpoints WHERE data IS NOT NULL ORDER BY {named}"
    )
    apart = await database.fetch_all(
        f"SELECT {named}, ordinal, data FROM holdfast_checkpoint_blocks ORDER BY {named}, ordinal"
    )
    found: dict[Key, bytes] = {}
    for row in beside + apart:
        key = (row["tenant_id"], row["thread_id"], row["namespace"], row["version"], row["ordinal"])
        assert key not in found, f"block {key} is in both tables"
        found[key] = bytes(row["data"])
    return found


async def pieces(database: AsyncDatabase) -> list[bytes]:
    """Return the contents of all pieces in all blocks; a list of channels is one too if it takes more than 32 bytes."""
    return [piece.content for data in (await blocks(database)).values() for piece in cut(data)]


async def stored_bytes(database: AsyncDatabase) -> int:
    """Return how many bytes all blocks have together."""
    return sum(map(len, (await blocks(database)).values()))


def refs_in(stored: str) -> list[int]:
    """Return what PostgreSQL's column says, read as docs/formats.md tells it."""
    return [-number if number < 0 else number << 8 for number in map(int, filter(None, stored.split(",")))]


async def refs(database: AsyncDatabase) -> dict[Key, list[int]]:
    """Return what each checkpoint refers to; the ordinal in its key is 0."""
    rows = await database.fetch_all(
        "SELECT tenant_id, thread_id, namespace, version, refs FROM holdfast_checkpoints "
        "ORDER BY tenant_id, thread_id, namespace, version"
    )
    return {
        (row["tenant_id"], row["thread_id"], row["namespace"], row["version"], 0): (
            refs_in(row["refs"]) if database.kind == "postgresql" else json.loads(row["refs"])
        )
        for row in rows
    }


async def check_blocks(database: AsyncDatabase) -> None:
    """Find that every block that a checkpoint refers to is stored, and that none is stored that nobody refers to."""
    needed = {
        (*key[:3], key[3] - (ref >> 8), ref & 255) for key, found in (await refs(database)).items() for ref in found
    }
    stored = set(await blocks(database))
    assert needed - stored == set(), "blocks are missing"
    assert stored - needed == set(), "nobody needs these blocks"


async def take_away_blocks(database: AsyncDatabase) -> None:
    """Delete every block behind the checkpointers' backs."""
    await database.execute("UPDATE holdfast_checkpoints SET data = NULL")
    await database.execute("DELETE FROM holdfast_checkpoint_blocks")
