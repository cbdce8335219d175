"""What the golden files of serializer format 1 hold: each value under the name of its file.

The files were written once by ``python -m tests.golden.serializer_v1.make`` and are never written again; a test reads
them with today's serializer. New kinds of values get new files here.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np

from checkpoint.serializer import Serializer


class Role(Enum):
    USER = "user"
    ASSISTANT = "assistant"


class Level(IntEnum):
    LOW = 1


class Name(StrEnum):
    A = "a"


class Rights(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Tool:
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    tool: Tool
    at: datetime


class Point(NamedTuple):
    x: int
    y: int = 0


class Labels(dict[str, str]):
    pass


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees

    def __hash__(self) -> int:
        return hash(self.degrees)


def serializer() -> Serializer:
    """Return a serializer that knows this module's classes, under names that don't depend on where it lies."""
    known = Serializer()
    for cls in (Role, Level, Name, Rights, Tool, Call, Point, Labels):
        known.register(cls, f"golden.{cls.__name__}")
    known.register(Celsius, "golden.Celsius", lambda value: {"degrees": value.degrees}, lambda state: Celsius(**state))
    return known


NOON = datetime(2026, 3, 29, 12, 30, 15, 123456)  # noqa: DTZ001
RECORD = np.dtype({"names": ["id", "xy"], "formats": ["<i4", ("<f8", (2,))], "offsets": [0, 8], "itemsize": 24})

VALUES: dict[str, Any] = {
    "none": None,
    "booleans": [True, False],
    "integers": [0, -1, 127, -32, 255, 2**31, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**400, -(10**400)],
    "floats": [0.0, -0.0, 1.5, 1e16, 5e-324, float("inf"), float("-inf"), float("nan")],
    "complex": [1 + 2j, complex(-0.0, float("inf"))],
    "strings": ["", "plain", "naïve Ünïcode 漢字 😀", "with \0 NUL", "\ud800 alone \udfff", "x" * 70_000],
    "bytes": [b"", b"\0\xff", bytes(range(256)) * 300],
    "bytearrays": {"a": bytearray(b"abc"), "b": (bytearray(b""), [bytearray(b"\0")]), "c": b"abc"},
    "containers": {
        "list": [1, [2, [3, []]]],
        "tuple": (1, (2, ()), [(3,)]),
        "set": {1, 2, 3},
        "set of texts": {"b", "a"},
        "frozenset": frozenset({"x", 1, None, (1, 2), frozenset()}),
        "deque": deque([1, (2,)], maxlen=5),
        "endless deque": deque(),
        "ordered": OrderedDict([("z", 1), ("a", (2,))]),
        "counter": Counter({"x": 3, "y": -1}),
        "defaultdict": defaultdict(list, {"a": [1]}),
        "factory of ours": defaultdict(Labels, {"a": Labels()}),
        "no factory": defaultdict(None, {1: 2}),
        "ranges": [range(10), range(5, -5, -2), range(10**30)],
        "slice": slice(1, None, (2,)),
    },
    "keys": {
        "1": "text",
        1: "int",
        2.5: "float",
        None: "none",
        False: "bool",
        b"1": "bytes",
        (1, ("a", None)): "tuple",
        frozenset({1}): "frozenset",
        Role.USER: "enum",
        Decimal("1.5"): "decimal",
        date(2026, 1, 1): "date",
        UUID(int=7): "uuid",
        2**80: "big",
        "z": 1,
        "a": 2,
    },
    "times": {
        "naive": NOON,
        "utc": NOON.replace(tzinfo=UTC),
        "offset": NOON.replace(tzinfo=timezone(timedelta(hours=-3, minutes=-30, microseconds=1))),
        "named offset": NOON.replace(tzinfo=timezone(timedelta(hours=1), "CET")),
        "zone": NOON.replace(tzinfo=ZoneInfo("Europe/Berlin")),
        "fold": datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        "extremes": [datetime.min, datetime.max],  # noqa: DTZ901
        "other extremes": [date.min, date.max, time.min, time.max, timedelta.min, timedelta.max],
        "date": date(2024, 2, 29),
        "times": [time(1, 2, 3, 4), time(1, 2, tzinfo=UTC, fold=1)],
        "zones": [UTC, timezone(timedelta(hours=5)), timezone(timedelta(0), ""), ZoneInfo("Asia/Kolkata")],
    },
    "decimals": [
        Decimal(text) for text in ("1.10", "-0", "0E-10", "1E+5", "NaN", "-NaN123", "sNaN", "-Infinity", "9" * 99)
    ],
    "identities": [UUID(int=0), UUID("12345678-1234-5678-1234-567812345678")],
    "paths": [PurePosixPath("/a/../b c"), PurePosixPath(), PureWindowsPath("C:/x/y"), PurePosixPath("\udcff")],
    "enums": [Role.ASSISTANT, Level.LOW, Name.A, Rights.READ, Rights.READ | Rights.WRITE, Rights(0)],
    "classes": {
        "dataclass": Tool("search", {"q": ("a", 1)}),
        "frozen": Call(Tool("x"), NOON.replace(tzinfo=UTC)),
        "namedtuple": Point(1, 2),
        "builtin": Labels(a="b"),
        "state": [Celsius(20.5)],
    },
    "arrays": [
        np.arange(12, dtype="<f4").reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=">i2").reshape(3, 4)),
        np.arange(24).reshape(2, 3, 4)[:, ::-1, 1],
        np.array(5, dtype="<u8"),
        np.zeros((0, 3), dtype="<f2"),
        np.array([True, False]),
        np.array(["a", "漢字\0x"]),
        np.array([b"a\0b", b"ccc"]),
        np.array(["2026-01-01", "NaT"], dtype="<M8[us]"),
        np.array([1, -1], dtype="<m8[25s]"),
        np.array([1 + 2j], dtype="<c8"),
        np.array([(1, [2.0, 3.0]), (4, [5.0, 6.0])], dtype=RECORD),
    ],
    "numpy scalars": [
        np.float64(1.5),
        np.float32("nan"),
        np.int8(-1),
        np.bool_(True),
        np.str_("a\0"),
        np.bytes_(b"b\0"),
        np.datetime64("2026-01-01T00:00:00", "ns"),
        np.timedelta64(5, "D"),
        np.complex128(1j),
        np.array([(1, [2.0, 3.0])], dtype=RECORD)[0],
    ],
    "messages": {
        "messages": [
            {"role": "user", "content": f"message {number}", "tokens": number, "ok": True, "parent": None}
            for number in range(50)
        ],
        "step": 50,
    },
}
