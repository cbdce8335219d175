"""The pieces that states are stored in: how they are packed, named, compressed and opened (docs/formats.md).

A piece is named by the first 16 bytes of the SHA-256 of what is stored of it. With it a part of its name is stored,
which tells whether it is damaged.
"""

from __future__ import annotations

import hashlib
import threading

import zstandard

from persistence.errors import CorruptError

HASH_BYTES = 16
PLAIN = b"\0"
"""The kind of a piece whose content follows as it is."""
ZSTD = b"\1"
"""The kind of a piece whose content follows as one Zstandard frame that declares its size."""

COMPRESS_FROM = 512
"""Content shorter than this is stored as it is: a frame of its own would hardly be smaller."""
LARGEST = 2**30
"""No piece is larger than this, for no PostgreSQL value is; a frame that declares more is damaged."""
_AT_ONCE = 2**24
_CHUNK = 2**20


class _Codec(threading.local):
    """A compressor and a decompressor of a thread: making one takes ten times as long as using it."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_codec = _Codec()


def name_piece(kind: bytes, stored: bytes | memoryview) -> bytes:
    """Return the name of a piece."""
    hashed = hashlib.sha256(kind)
    hashed.update(stored)
    return hashed.digest()[:HASH_BYTES]


def pack_piece(content: bytes) -> tuple[bytes, bytes]:
    """Return a piece as it is stored, its kind and the rest: compressed where that saves an eighth at least."""
    if len(content) >= COMPRESS_FROM:
        frame = _codec.compressor.compress(content)
        if len(frame) <= len(content) * 7 // 8:
            return ZSTD, frame
    return PLAIN, content


def open_piece(kind: bytes, stored: bytes | memoryview, check: bytes) -> tuple[bytes, bytes]:
    """Return the content of a stored piece, and its name; ``check`` is what its name begins with.

    Raises:
        CorruptError: it is of a kind that this program doesn't know, or not what its name says.
    """
    shown = f"piece {check.hex()}"
    if kind not in (PLAIN, ZSTD):
        raise CorruptError(f"{shown} is of kind {kind.hex() or 'none'}", hint="update this program")
    name = name_piece(kind, stored)
    if not name.startswith(check):
        raise CorruptError(f"{shown} is damaged: what is stored has another hash")
    if kind == PLAIN:
        return bytes(stored), name
    try:
        return _expand(stored), name
    except (zstandard.ZstdError, MemoryError) as exc:
        raise CorruptError(f"{shown} is damaged: {exc}") from exc


def _expand(frame: bytes | memoryview) -> bytes:
    """Return what a frame holds. Memory grows with what comes out of it, never beyond what it declares."""
    size = zstandard.frame_content_size(frame)
    if not 0 <= size <= LARGEST:
        raise zstandard.ZstdError(f"it declares a size of {size}")
    if size <= _AT_ONCE:
        return _codec.decompressor.decompress(frame, allow_extra_data=False)
    parts: list[bytes] = []
    left = size
    with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
        while part := reader.read(_CHUNK):
            left -= len(part)
            if left < 0:
                break
            parts.append(part)
    if left:
        raise zstandard.ZstdError("it holds another number of bytes than it declares")
    return b"".join(parts)


def cut(data: bytes | None, sizes: str | None) -> list[memoryview | None]:
    """Return the pieces that lie end to end in ``data``; their sizes are text, -1 where one is missing."""
    whole = memoryview(data or b"")
    found: list[memoryview | None] = []
    start = 0
    for size in map(int, sizes.split(",") if sizes else ()):
        found.append(whole[start : start + size] if size >= 0 else None)
        start += max(size, 0)
    return found
