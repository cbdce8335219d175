"""RESP, the protocol of Redis in its versions 2 and 3: commands as bytes, and bytes as answers.

Answers are as redis-py's own parser gives them, before it reads more into them: texts are bytes, sets are lists, and a
refusal is one of redis-py's exceptions, also within a list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis._parsers.base import BaseParser
from redis.exceptions import DataError, InvalidResponse

READ_BYTES = 32 * 1024
MOST_BYTES = 1024 * 1024
"""How much to read at a time, at least and at most."""

_ARRAY, _SET, _MAP, _PUSH = b"*~%>"


def _refusal(text: bytes) -> Exception:
    refused: Exception = BaseParser.parse_error(text.decode(errors="replace"))
    return refused


_LINES: dict[int, Callable[[bytes], Any]] = {
    ord("+"): bytes,
    ord("-"): _refusal,
    ord(":"): int,
    ord("("): int,
    ord(","): float,
    ord("#"): lambda line: line == b"t",
    ord("_"): lambda line: None,
}
"""What is one line."""
_TEXTS: dict[int, Callable[[bytes], Any]] = {ord("$"): bytes, ord("="): lambda text: text[4:], ord("!"): _refusal}
"""What tells its length first: a text, one that begins with its format, a refusal."""
_ENTRIES = {_ARRAY: 1, _SET: 1, _MAP: 2, _PUSH: 1}
"""What holds other answers, and how many of them each of its entries is."""
_SIZED = _TEXTS.keys() | _ENTRIES.keys()


def pack(command: Sequence[Any]) -> bytes:
    """Return a command as the server takes it; its first part may be several words.

    Raises:
        DataError: a part is neither a text, bytes nor a number.
    """
    name = command[0]
    words = name.split() if isinstance(name, str | bytes) else [name]
    pieces = [b"*%d\r\n" % (len(words) + len(command) - 1)]
    for part in (*words, *command[1:]):
        data = part if type(part) is bytes else _encoded(part)
        pieces += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(pieces)


def _encoded(part: Any) -> bytes:
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes(part)
    if isinstance(part, int | float) and not isinstance(part, bool):
        return repr(part).encode()
    raise DataError(f"Invalid input of type: '{type(part).__name__}'. Convert to a bytes, string, int or float first.")


class Answers:
    """Takes in what a server sends, and gives one answer after the other.

    What has been read of an unfinished answer is kept as it was read, so that the work does not grow with the number
    of pieces in which it comes.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._missing = 0
        self._open: list[tuple[int, int, list[Any]]] = []
        """What holds other answers and is unfinished: its kind, how many it will hold, and those that it does."""
        self._answer: Any = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left of what has come."""
        return not self._pieces and not self._open

    @property
    def wanted(self) -> int:
        """How many bytes to read next, at most."""
        return min(max(READ_BYTES, self._missing), MOST_BYTES)

    def gather(self, count: int) -> None:
        """Take the next ``count`` answers for one: a list of them, in which a refusal is one of them."""
        self._open.append((_ARRAY, count, []))

    def take(self) -> Any:
        """Return the answer that is whole."""
        answer, self._answer = self._answer, None
        return answer

    def feed(self, data: bytes) -> bool:
        """Take in what has come; tell whether an answer is whole.

        Raises:
            InvalidResponse: it is no RESP.
        """
        if self._pieces:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return False
            data = b"".join(self._pieces)
            self._pieces = []
        at = 0
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                return self._keep(data[at:], 1)
            kind = data[at]
            if kind in _LINES:
                value, at = _LINES[kind](data[at + 1 : end]), end + 2
            elif kind not in _SIZED:
                raise InvalidResponse(f"Protocol Error: {data[at : at + 50]!r}")
            else:
                start, size = end + 2, int(data[at + 1 : end])
                if size < 0:
                    value, at = None, start
                elif kind in _TEXTS:
                    end = start + size
                    if len(data) < end + 2:
                        return self._keep(data[at:], end + 2 - len(data))
                    value, at = _TEXTS[kind](data[start:end]), end + 2
                else:
                    at = start
                    self._open.append((kind, size * _ENTRIES[kind], []))
                    if size:
                        continue
                    value = self._close()
            if self._put(value):
                return self._keep(data[at:], 0)

    def _keep(self, rest: bytes, missing: int) -> bool:
        """Keep what is left for later, when this many bytes more have come; tell whether that is for another answer."""
        self._missing = missing
        if rest:
            self._pieces.append(rest)
        return not missing

    def _put(self, value: Any) -> bool:
        """Put a value where it belongs; tell whether the answer is whole with it."""
        while self._open:
            kind, size, held = self._open[-1]
            held.append(value)
            if len(held) < size:
                return False
            value = self._close()
            if kind == _PUSH and not self._open:
                return False  # nobody asked for it
        self._answer = value
        return True

    def _close(self) -> Any:
        kind, _, held = self._open.pop()
        return dict(zip(held[::2], held[1::2], strict=True)) if kind == _MAP else held
