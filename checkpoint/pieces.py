"""The pieces that states are stored in: how they are named, packed, compressed and opened (docs/formats.md).

A piece is named by the first 16 bytes of the SHA-256 of its content as it is serialized, and so has one name however it
is packed; a thread stores it once, however many checkpoints hold it.
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


def content_hash(content: bytes) -> bytes:
    """Return the name of a piece."""
    return hashlib.sha256(content).digest()[:HASH_BYTES]


def split_refs(refs: bytes) -> list[bytes]:
    """Return the hashes that a checkpoint refers to."""
    return [refs[place : place + HASH_BYTES] for place in range(0, len(refs), HASH_BYTES)]


def pack_piece(content: bytes) -> bytes:
    """Return a piece as it is stored: compressed where that saves an eighth at least."""
    if len(content) >= COMPRESS_FROM:
        frame = _codec.compressor.compress(content)
        if len(frame) <= len(content) * 7 // 8:
            return ZSTD + frame
    return PLAIN + content


def open_piece(stored: bytes | memoryview | None, key: bytes) -> bytes:
    """Return the content of a stored piece.

    Raises:
        CorruptError: it is missing, of a kind that this program doesn't know, or not what its hash says.
    """
    if stored is None:
        raise CorruptError(f"piece {key.hex()} is missing")
    kind = stored[:1]
    if kind == PLAIN:
        content = bytes(stored[1:])
    elif kind == ZSTD:
        try:
            content = _expand(stored[1:])
        except (zstandard.ZstdError, MemoryError) as exc:
            raise CorruptError(f"piece {key.hex()} is damaged: {exc}") from exc
    else:
        raise CorruptError(f"piece {key.hex()} is of kind {bytes(kind).hex() or 'none'}", hint="update this program")
    if content_hash(content) != key:
        raise CorruptError(f"piece {key.hex()} is damaged: its content has another hash")
    return content


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
