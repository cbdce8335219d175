"""The serializer: what comes back, what is refused and how it is said, and what damaged or hostile bytes can do."""

from __future__ import annotations

import functools
import math
import os
import random
import re
import subprocess
import sys
import threading
import tracemalloc
from abc import ABC
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, make_dataclass
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal, localcontext
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pytest

from checkpoint.serializer import Serializer
from persistence.errors import CorruptError, DuplicateError, ValidationError
from tests.golden.serializer_v1 import values as golden
from tests.golden.serializer_v1.values import VALUES, Call, Celsius, Labels, Point, Rights, Role, Tool

GOLDEN = Path(golden.__file__).parent


def same_bytes(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    if one.dtype.fields is not None:
        return all(same_bytes(one[name], other[name]) for name in one.dtype.fields)
    return one.tobytes() == other.tobytes()


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same types all the way down; NaN is NaN and -0.0 isn't 0.0."""
    if type(one) is not type(other):
        return False
    match one:
        case np.ndarray():
            return (
                one.dtype == other.dtype
                and one.shape == other.shape
                and one.flags.f_contiguous == other.flags.f_contiguous
                and same_bytes(one, other)
            )
        case np.generic():
            return one.dtype == other.dtype and same_bytes(np.asarray(one), np.asarray(other))
        case float():
            return repr(one) == repr(other)
        case complex() | Decimal() | slice():
            return repr(one) == repr(other)
        case datetime():
            return (
                same(one.tzinfo, other.tzinfo) and one == other and one.fold == other.fold and repr(one) == repr(other)
            )
        case dict():
            return (
                len(one) == len(other)
                and all(map(same, one, other))
                and all(map(same, one.values(), other.values()))
                and getattr(one, "default_factory", None) is getattr(other, "default_factory", None)
            )
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case deque():
            return one.maxlen == other.maxlen and same(list(one), list(other))
        case Tool() | Call():
            return all(same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
        case tzinfo():
            return repr(one) == repr(other) and one == other
    return bool(one == other)


@pytest.fixture
def serializer() -> Serializer:
    return golden.serializer()


def around(serializer: Serializer, value: Any) -> Any:
    return serializer.loads(serializer.dumps(value))


# What comes back.


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_equal_and_of_the_same_types(serializer: Serializer, name: str) -> None:
    back = around(serializer, VALUES[name])
    assert same(back, VALUES[name])
    assert same(around(serializer, {"k": [(VALUES[name],)]}), {"k": [(VALUES[name],)]})


@pytest.mark.parametrize("name", VALUES)
def test_bytes_of_the_first_release_are_read(serializer: Serializer, name: str) -> None:
    stored = (GOLDEN / f"{name.replace(' ', '_')}.bin").read_bytes()
    assert stored[0] == 1
    assert same(serializer.loads(stored), VALUES[name])


def test_every_golden_file_is_read_by_the_test_above() -> None:
    names = {path.stem for path in GOLDEN.glob("*.bin")}
    assert names == {name.replace(" ", "_") for name in VALUES} | {"model"}


def test_int_text_and_bytes_keys_of_one_spelling_stay_apart(serializer: Serializer) -> None:
    value = {1: "a", "1": "b", b"1": "c", (1,): "d", None: "e", "None": "f", 1.5: "g", "1.5": "h"}
    assert same(around(serializer, value), value)


def test_the_order_of_keys_is_kept(serializer: Serializer) -> None:
    keys = [str(number) for number in range(500)]
    random.Random(4).shuffle(keys)
    assert list(around(serializer, dict.fromkeys(keys))) == keys


def test_an_object_met_twice_comes_back_as_two_equal_ones(serializer: Serializer) -> None:
    shared = [1, (2,)]
    one, two = around(serializer, [shared, shared])
    assert one == two == shared
    assert one is not two


def test_a_bytearray_is_told_from_bytes_wherever_it_lies(serializer: Serializer) -> None:
    part = bytearray(b"x")
    value = [part, {"a": part, (1,): (part, [part])}, deque([part]), Tool("t", {"b": part}), Point(1, part), b"x"]  # type: ignore[arg-type]
    back = around(serializer, value)
    assert same(back, value)
    assert same(around(serializer, part), part)
    assert same(around(serializer, Labels(a=part)), Labels(a=part))
    assert value[0] is part, "the value itself was changed"


def test_a_nan_keeps_its_bits_and_two_nan_keys_stay_two(serializer: Serializer) -> None:
    back = around(serializer, {float("nan"): 1, float("nan"): 2})
    assert list(back.values()) == [1, 2]
    assert math.copysign(1, around(serializer, -math.nan)) == -1


@pytest.mark.parametrize(
    "wrap", [list, tuple, frozenset, deque, lambda parts: {"k": parts[0]}, lambda parts: {parts[0]: 1}]
)
def test_a_thousand_levels_come_back(serializer: Serializer, wrap: Callable[[Any], Any]) -> None:
    if wrap([1]) == {1: 1}:
        wrap = tuple
    value: Any = ()
    for _ in range(1000):
        value = wrap([value])
    back = around(serializer, value)
    for _ in range(1000):
        assert type(back) is type(value)
        back, value = (back["k"], value["k"]) if type(back) is dict else (next(iter(back)), next(iter(value)))
    assert back == ()


def test_a_thousand_levels_of_instances_come_back(serializer: Serializer) -> None:
    value = Point(0, 0)
    for number in range(1000):
        value = Point(number, value)  # type: ignore[arg-type]
    back = around(serializer, value)
    for number in reversed(range(1000)):
        assert type(back) is Point
        assert back.x == number
        back = back.y
    assert back == Point(0, 0)


def test_a_hundred_mebibytes_come_back(serializer: Serializer) -> None:
    value = {"blob": b"\xc4" * (100 << 20), "n": (1,)}
    assert around(serializer, value) == value


def test_a_set_is_stored_alike_in_every_process() -> None:
    program = (
        "from checkpoint.serializer import Serializer\n"
        "print(Serializer().dumps([{str(n) for n in range(50)}, frozenset(map(str, range(9)))]).hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=GOLDEN.parents[2],
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_a_decimal_is_exact_whatever_the_callers_context_says(serializer: Serializer) -> None:
    value = [Decimal("1E+400"), Decimal("0." + "3" * 60), Decimal("sNaN7")]
    with localcontext() as context:
        context.prec, context.Emax, context.capitals = 2, 5, 0
        stored = serializer.dumps(value)
        back = serializer.loads(stored)
    assert same(back, value)
    assert serializer.dumps(value) == stored


def test_a_time_zone_comes_back_as_the_same_zone(serializer: Serializer) -> None:
    assert around(serializer, ZoneInfo("Europe/Berlin")) is ZoneInfo("Europe/Berlin")
    assert around(serializer, datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)).utcoffset() == (
        timedelta(hours=1)
    )


def test_a_path_of_this_system_comes_back_as_one(serializer: Serializer) -> None:
    assert same(around(serializer, Path("/tmp/x")), Path("/tmp/x"))


def test_many_threads_share_a_serializer(serializer: Serializer) -> None:
    wrong: list[str] = []

    def work() -> None:
        for name in ("containers", "arrays", "classes", "keys") * 20:
            if not same(around(serializer, VALUES[name]), VALUES[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Numpy.


def test_an_array_is_a_read_only_aligned_view_of_the_stored_bytes(serializer: Serializer) -> None:
    stored = serializer.dumps([b"odd", np.arange(1000.0), np.int8([1, 2, 3]), np.arange(5, dtype="<f8")])
    _, big, small, last = serializer.loads(stored)
    for array in (big, small, last):
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert array.flags.aligned
        assert np.shares_memory(array, np.frombuffer(stored, np.uint8))
    assert big.sum() == 499500.0


def test_an_array_does_not_see_later_changes_of_a_mutable_source(serializer: Serializer) -> None:
    source = bytearray(serializer.dumps(np.arange(10)))
    for view in (source, memoryview(source)):
        array = serializer.loads(view)
        assert not array.flags.writeable
        before = array.copy()
        source[-8:] = b"\xff" * 8
        assert (array == before).all()


def test_any_view_of_the_bytes_can_be_loaded(serializer: Serializer) -> None:
    stored = serializer.dumps({"a": (np.arange(4), "x")})
    wide = b"\0" + stored + b"\0"
    for view in (memoryview(stored), memoryview(wide)[1:-1], memoryview(stored).cast("c"), bytearray(stored)):
        assert same(serializer.loads(view), {"a": (np.arange(4), "x")})  # type: ignore[arg-type]


@pytest.mark.parametrize("char", "?bhilBHILefdgFDG")
def test_every_plain_dtype_comes_back_in_each_byte_order_and_layout(serializer: Serializer, char: str) -> None:
    for order in "<>":
        dtype = np.dtype(char).newbyteorder(order)
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)
        for variant in (array, array.T, np.asfortranarray(array), array[::-1, 1:, ::2], array[0, 0, 0:0], array[0, 0]):
            back = around(serializer, variant)
            assert same(back, np.ascontiguousarray(variant) if not variant.flags.forc else variant)


def test_structured_dtypes_come_back_with_offsets_titles_and_alignment(serializer: Serializer) -> None:
    inner = np.dtype([("x", "<f4"), ("y", "<f4")])
    dtypes = [
        np.dtype([("a", "i1"), ("b", "<f8")], align=True),
        np.dtype([("a", "<i4"), ("p", inner, (2, 3)), ("s", "<U5"), ("t", "<M8[ms]")]),
        np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i2"], "offsets": [0, 2], "titles": ["first", None]}),
        np.dtype({"names": [], "formats": [], "itemsize": 8}),
        np.dtype("V7"),
    ]
    for dtype in dtypes:
        array = np.zeros(3, dtype)
        array.view(np.uint8)[:] = np.arange(array.nbytes) % 120
        back = around(serializer, array)
        assert same(back, array)
        assert back.dtype.isalignedstruct == dtype.isalignedstruct
        assert back.dtype.fields == dtype.fields
        assert same(around(serializer, array[0]), array[0])


def test_what_lies_between_the_fields_of_an_array_is_not_stored(serializer: Serializer) -> None:
    dtype = np.dtype([("a", "i1"), ("b", "<f8"), ("c", [("d", "i1"), ("e", "<i4")], (2,))], align=True)
    clean, dirty = np.zeros((2, 2), dtype), np.zeros((2, 2), dtype)
    dirty.view(np.uint8)[...] = 0x5A
    for name in ("a", "b"):
        dirty[name] = 0
    dirty["c"]["d"] = dirty["c"]["e"] = 0
    for one, other in ((clean, dirty), (clean.T, dirty.T), (clean[::2], dirty[::2]), (clean[0, 0], dirty[0, 0])):
        for _ in range(100):
            junk = [bytearray(b"\x5a" * size) for size in range(40, 400, 8)]
            del junk  # so that memory without a value has one
            assert serializer.dumps(one) == serializer.dumps(other)
            assert b"\x5a" not in serializer.dumps(other)


def test_numpy_text_keeps_its_trailing_nul(serializer: Serializer) -> None:
    for value in (np.str_("a\0"), np.str_(""), np.bytes_(b"\0"), np.bytes_(b"")):
        back = around(serializer, value)
        assert type(back) is type(value)
        assert (str(back), bytes(back, "utf8") if isinstance(back, str) else bytes(back)) == (
            (str(value), bytes(value, "utf8") if isinstance(value, str) else bytes(value))
        )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.array([object()]), "object"),
        (np.array([("a", 1)], dtype=[("o", "O"), ("i", "i4")]), "object"),
        (np.ma.masked_array([1, 2], [True, False]), r"numpy\.ma(\.core)?:MaskedArray"),
        (np.rec.array([(1,)], dtype=[("a", "i4")]), "rec"),
        (np.longlong(1), "longlong"),
    ],
)
def test_arrays_that_can_not_be_stored_faithfully_are_refused(serializer: Serializer, value: Any, says: str) -> None:
    if type(value) is np.longlong and np.longlong is np.int64:
        pytest.skip("long long is int64 here")
    with pytest.raises(ValidationError, match=says) as caught:
        serializer.dumps({"a": [value]})
    assert caught.value.message.startswith("state['a'][0] ")
    assert caught.value.hint


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="capability: numpy 2, which has StringDType")
def test_an_array_of_texts_of_any_length_is_refused(serializer: Serializer) -> None:
    with pytest.raises(ValidationError, match="StringDType"):
        serializer.dumps(np.array(["a"], dtype=np.dtypes.StringDType()))


# What is refused, and how it is said.


class Plain:
    pass


class MyDict(dict[str, Any]):
    pass


class MyInt(int):
    pass


class MyStr(str):
    pass


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Unregistered:
    part: Any = None


REFUSED: list[tuple[Any, str]] = [
    (Plain(), "Plain"),
    (Unregistered(), "Unregistered"),
    (MyDict(a=1), "MyDict"),
    (MyInt(1), "MyInt"),
    (MyStr("a"), "MyStr"),
    (Pair(1, 2), "Pair"),
    (Enum("Colour", {"RED": 1}).RED, "Colour"),  # type: ignore[attr-defined]
    (Plain, "a class"),
    (lambda: None, "function"),
    (memoryview(b"x"), "memoryview"),
    (msgpack.ExtType(64, b""), "ExtType"),
    (msgpack.ExtType(2, b"\0" * 12), "ExtType"),
    (msgpack.Timestamp(1, 2), "Timestamp"),
    (iter([]), "list_iterator"),
    ({}.keys(), "dict_keys"),
    (UserDict(), "UserDict"),
    (ValueError("x"), "ValueError"),
    (Ellipsis, "ellipsis"),
    (defaultdict(lambda: 1), "factory"),
    (defaultdict(Plain), "factory"),
    (datetime(2026, 1, 1, tzinfo=type("Odd", (tzinfo,), {"utcoffset": lambda *_: timedelta(0)})()), "Odd"),
    (re.compile("x"), "Pattern"),
]


@pytest.mark.parametrize(("value", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_an_unknown_type_is_refused_with_its_path(serializer: Serializer, value: Any, says: str) -> None:
    for state, path in (
        (value, "state"),
        ({"messages": [0, 1, 2, Tool("x", {"tool": value})]}, "state['messages'][3].arguments['tool']"),
        ({"a": (1, deque([value]))}, "state['a'][1][0]"),
        ([Pair.__new__(Pair, 1, 2)[:1], OrderedDict(k=Point(1, value))], "state[1]['k'].y"),  # type: ignore[arg-type]
        ([b"bytes are no trouble", bytearray(b"nor this"), Labels(l=value)], "state[2]['l']"),
        ({"s": Celsius(value)}, "state['s']<to_state>['degrees']"),
    ):
        with pytest.raises(ValidationError, match=says) as caught:
            serializer.dumps(state)
        assert caught.value.message.startswith(f"{path} "), caught.value.message
        assert caught.value.hint


def test_a_key_of_an_unknown_type_is_refused(serializer: Serializer) -> None:
    for key, says in ((Plain(), "Plain"), (memoryview(b"x"), "memoryview"), (msgpack.ExtType(1, b""), "ExtType")):
        with pytest.raises(ValidationError, match=says):
            serializer.dumps({"a": {key: 1}})
        with pytest.raises(ValidationError, match=says):
            serializer.dumps({"a": {(1, key)}})


def test_the_name_of_the_value_in_errors_can_be_given(serializer: Serializer) -> None:
    with pytest.raises(
        ValidationError, match=r"^state\['messages'\]\[0\] is a tests.test_serializer:Plain, which isn't"
    ):
        serializer.dumps([Plain()], where="state['messages']")


def test_an_error_shows_no_stored_value(serializer: Serializer) -> None:
    with pytest.raises(ValidationError) as caught:
        serializer.dumps({"k": Tool("hunter2", {"p": Unregistered("hunter2")})})
    assert "hunter2" not in str(caught.value)


def test_a_registered_class_of_the_same_name_does_not_let_its_subclass_in(serializer: Serializer) -> None:
    with pytest.raises(ValidationError, match="isn't registered"):
        serializer.dumps(type("Sub", (Tool,), {})("x"))


def cycles() -> list[tuple[str, Any]]:
    a: list[Any] = []
    a.append(a)
    b: dict[str, Any] = {"x": [1]}
    b["x"].append(b)
    c: list[Any] = [1]
    c.append((2, c))
    d = Tool("x")
    d.arguments["self"] = d
    e: Any = deque()
    e.append({"k": e})
    f: list[Any] = []
    f += [f] * 50
    return [("state[0]", a), ("state['x'][1]", b), ("state[1][1]", c), ("state.arguments['self']", d),
            ("state[0]['k']", e), ("state[0]", f)]  # fmt: skip


@pytest.mark.parametrize("case", range(6))
def test_a_value_that_contains_itself_is_refused(serializer: Serializer, case: int) -> None:
    path, value = cycles()[case]
    with pytest.raises(ValidationError, match="contains itself") as caught:
        serializer.dumps(value)
    assert caught.value.message.startswith(f"{path} ")


@pytest.mark.parametrize("depth", [1100, 100_000])
@pytest.mark.parametrize("kind", ["list", "dict", "tuple", "dataclass", "state"])
def test_nesting_without_end_is_refused(serializer: Serializer, kind: str, depth: int) -> None:
    wraps: dict[str, Callable[[Any], Any]] = {
        "list": lambda part: [part],
        "dict": lambda part: {"k": part},
        "tuple": lambda part: (part,),
        "dataclass": lambda part: Point(part),
        "state": Celsius,
    }
    value: Any = 1
    kept = []  # so that tearing it down doesn't recurse either
    for _ in range(depth):
        value = wraps[kind](value)
        kept.append(value)
    with pytest.raises(ValidationError, match="1,000 levels"):
        serializer.dumps(value)
    with pytest.raises(ValidationError, match="1,000 levels"):
        serializer.dumps([(value,), {"x": value}])
    del value
    while kept:
        kept.pop()


def test_whatever_is_accepted_is_readable_at_the_limit_of_levels(serializer: Serializer) -> None:
    stored = 0
    for depth in range(1015, 1035):
        for leaf in (1, [], {}, (), {1}):
            value: Any = leaf
            for number in range(depth):
                value = [value] if number % 2 else (value,)
            try:
                data = serializer.dumps(value)
            except ValidationError:
                continue
            stored += 1
            serializer.loads(data)
    assert stored


def test_a_value_that_changes_while_it_is_stored_is_refused(serializer: Serializer) -> None:
    state: dict[str, Any] = {}

    def grow(_: Celsius) -> dict[str, Any]:
        state[f"k{len(state)}"] = 1
        return {}

    serializer.register(Celsius, "golden.Celsius", grow, lambda _: Celsius(0))
    state["c"] = Celsius(1)
    state["d"] = 1
    with pytest.raises(ValidationError):
        serializer.dumps(state)


# Registering.


def test_register_is_also_a_decorator() -> None:
    serializer = Serializer()

    @serializer.register
    @dataclass
    class One:
        x: int

    @serializer.register(name="two")
    @dataclass
    class Two:
        x: int

    assert around(serializer, [One(1), Two(2)]) == [One(1), Two(2)]
    assert b"test_serializer:test_register_is_also_a_decorator.<locals>.One" in serializer.dumps(One(1))
    assert b"\xa3two" in serializer.dumps(Two(2))


def test_a_name_that_another_class_has_is_refused() -> None:
    serializer = Serializer()
    serializer.register(Tool, "tool")
    serializer.register(Tool, "tool")
    with pytest.raises(DuplicateError, match=r"'tool' is registered for tests\.golden.*:Tool"):
        serializer.register(Call, "tool")
    with pytest.raises(DuplicateError):
        serializer.register(Call, aliases=["tool"])
    with pytest.raises(ValidationError, match="isn't registered"):
        serializer.dumps(Call(Tool("x"), golden.NOON))


def test_a_class_defined_again_takes_the_place_of_the_old_one() -> None:
    serializer = Serializer()
    old, new = (make_dataclass("Cell", [("x", int)], namespace={"__module__": "notebook"}) for _ in range(2))
    serializer.register(old)
    stored = serializer.dumps(old(1))
    serializer.register(new)
    assert type(serializer.loads(stored)) is new
    with pytest.raises(ValidationError, match="isn't registered"):
        serializer.dumps(old(1))


def test_a_class_that_moved_is_read_under_its_old_name() -> None:
    before, after = Serializer(), Serializer()
    before.register(Tool, "old.module:Tool")
    after.register(Tool, "new.module:Tool", aliases=["old.module:Tool"])
    assert after.loads(before.dumps(Tool("x"))) == Tool("x")
    assert b"new.module" in after.dumps(Tool("x"))


def test_classes_that_need_a_state_are_told_so() -> None:
    class Abstract(ABC):  # noqa: B024
        pass

    class Slotted(dict[str, Any]):
        __slots__ = ("extra",)

    @dataclass
    class Failure(Exception):
        reason: str

    @dataclass
    class Bag(dict[str, Any]):
        label: str = ""

    class Ordered(OrderedDict[str, Any]):
        pass

    serializer = Serializer()
    for cls in (Plain, Abstract, Slotted, Failure, Bag, Ordered, datetime, PurePath):
        if cls is datetime:
            continue
        with pytest.raises(ValidationError, match="to_state") as caught:
            serializer.register(cls)
        assert cls.__qualname__ in str(caught.value)
    with pytest.raises(ValidationError, match="from_state"):
        serializer.register(Plain, to_state=vars)
    for cls in (int, list, dict, tuple, bytearray, memoryview, datetime, np.ndarray, msgpack.ExtType):
        with pytest.raises(ValidationError, match="needs no registering"):
            serializer.register(cls)
    for name in ("", "x" * 1025):
        with pytest.raises(ValidationError, match="1 to 1,024"):
            serializer.register(Tool, name)
    with pytest.raises(ValidationError, match="takes a class"):
        serializer.register(Tool("x"))  # type: ignore[call-overload]
    serializer.register(Failure, to_state=lambda failure: failure.reason, from_state=Failure)
    back = around(serializer, Failure("why"))
    assert type(back) is Failure
    assert back.reason == "why"


def test_subclasses_of_builtin_types_keep_their_type_and_value(serializer: Serializer) -> None:
    classes: list[Any] = [
        type(f"My{base.__name__}", (base,), {"__module__": __name__})
        for base in (dict, list, set, frozenset, tuple, str, bytes, int, float)
    ]
    examples: list[Any] = [{"a": (1,)}, [1, (2,)], {1, 2}, {3}, (1, [2]), "t\ud800", b"b", 2**70, -0.0]
    for cls, example in zip(classes, examples, strict=True):
        serializer.register(cls)
        value = cls(example)
        back = around(serializer, {"k": (value,)})["k"][0]
        assert type(back) is cls
        assert back == value
        assert repr(back) == repr(value)
        value.note = 1
        with pytest.raises(ValidationError, match="'note', which would be lost"):
            serializer.dumps([value])


def test_an_override_does_not_change_what_is_stored_of_a_subclass(serializer: Serializer) -> None:
    class Loud(dict[str, Any]):
        def __init__(self) -> None:
            raise AssertionError("no constructor may run")

        def items(self) -> Any:
            raise AssertionError

        __setitem__ = update = __iter__ = items  # type: ignore[assignment]

    serializer.register(Loud)
    value = Loud.__new__(Loud)
    dict.update(value, a=1)
    back = around(serializer, value)
    assert type(back) is Loud
    assert dict.items(back) == {("a", 1)}


def test_no_constructor_runs_when_an_instance_is_restored(serializer: Serializer) -> None:
    runs: list[str] = []

    @serializer.register
    @dataclass
    class Watched:
        x: int
        y: list[int] = field(default_factory=list)

        def __post_init__(self) -> None:
            runs.append("post_init")
            self.x += 1

    value = Watched(1)
    assert around(serializer, value).x == value.x == 2
    assert runs == ["post_init"]


def test_an_attribute_beyond_the_fields_is_refused_but_a_cached_property_is_not(serializer: Serializer) -> None:
    @serializer.register
    @dataclass
    class Circle:
        radius: float

        @functools.cached_property
        def area(self) -> float:
            return 3 * self.radius**2

    circle = Circle(2)
    assert circle.area == 12
    back = around(serializer, circle)
    assert back == circle
    assert "area" not in vars(back)
    circle.colour = "red"  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match=r"^state\['c'\] is a .*Circle with the attribute 'colour'"):
        serializer.dumps({"c": circle})
    del circle.radius
    del circle.colour  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="without a value for 'radius'"):
        serializer.dumps(circle)


def test_a_failing_to_state_is_named_with_its_path(serializer: Serializer) -> None:
    serializer.register(Plain, "plain", lambda _: 1 // 0, lambda _: Plain())
    with pytest.raises(
        ValidationError, match=r"^state\[0\] is a plain, whose to_state raised ZeroDivisionError"
    ) as caught:
        serializer.dumps([Plain()])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# Classes that changed.


def old_and_new(old: Any, new: Any, **options: Any) -> Callable[[Any], Any]:
    """Return what stores an instance of the old class and loads it as the new one."""
    before, after = Serializer(), Serializer()
    before.register(old, "thing")
    after.register(new, "thing", **options)
    return lambda value: after.loads(before.dumps(value))


OLD = make_dataclass("Thing", [("a", int), ("b", int)])


def test_a_field_that_is_new_gets_its_default() -> None:
    new = make_dataclass("Thing", [("a", int), ("b", int), ("c", int, 3), ("d", list, field(default_factory=list))])
    one, two = (old_and_new(OLD, new)(OLD(1, 2)) for _ in range(2))
    assert one == new(1, 2, 3, [])
    assert one.d is not two.d


def test_a_new_field_without_a_default_is_an_error_that_names_it() -> None:
    new = make_dataclass("Thing", [("a", int), ("b", int), ("c", int)])
    with pytest.raises(CorruptError, match="a stored thing has no 'c', and the class has no default for it"):
        old_and_new(OLD, new)(OLD(1, 2))


def test_a_field_that_is_gone_is_an_error_unless_from_state_deals_with_it() -> None:
    new = make_dataclass("Thing", [("a", int)])
    with pytest.raises(CorruptError, match="a stored thing has 'b', which the class no longer has") as caught:
        old_and_new(OLD, new)(OLD(1, 2))
    assert "from_state" in str(caught.value)
    restore = old_and_new(OLD, new, from_state=lambda state: new(state["a"] + state["b"]))
    assert restore(OLD(1, 2)) == new(3)


def test_a_failing_from_state_is_an_error_that_names_the_class() -> None:
    with pytest.raises(CorruptError, match="from_state of thing raised KeyError"):
        old_and_new(OLD, OLD, from_state=lambda state: state["x"])(OLD(1, 2))


def test_a_named_tuple_that_grew_gets_its_defaults() -> None:
    class Longer(NamedTuple):
        x: int
        y: int
        z: int = 9

    assert old_and_new(Point, Longer)(Point(1, 2)) == Longer(1, 2, 9)
    with pytest.raises(CorruptError, match="'x', 'y', which the class no longer has"):
        old_and_new(Point, Pair)(Point(1, 2))


def test_a_member_that_is_gone_is_an_error_that_names_it() -> None:
    class Less(Enum):
        USER = 1

    assert old_and_new(Role, Less)(Role.USER) is Less.USER
    with pytest.raises(CorruptError, match="thing has no member 'ASSISTANT'"):
        old_and_new(Role, Less)(Role.ASSISTANT)
    with pytest.raises(CorruptError, match="thing has no member '4'"):
        old_and_new(make_flag(), Rights)(make_flag()(4))


@functools.cache
def make_flag() -> Any:
    from enum import Flag

    return Flag("More", {"READ": 1, "WRITE": 2, "SHARE": 4})


def test_a_class_that_became_another_kind_is_an_error() -> None:
    for old, new, value in (
        (Tool, Labels, Tool("x")),
        (Labels, Tool, Labels(a="b")),
        (Role, Tool, Role.USER),
        (MyDict, MyInt, MyDict(a=1)),
        (MyInt, Role, MyInt(1)),
    ):
        with pytest.raises(CorruptError, match=r"thing was stored as another kind|which the class no longer has"):
            old_and_new(old, new)(value)


def test_a_stored_class_that_is_not_registered_is_named(serializer: Serializer) -> None:
    stored = serializer.dumps({"a": [Tool("x")]})
    with pytest.raises(CorruptError, match=r"a stored value is a golden\.Tool, which isn't registered here"):
        Serializer().loads(stored)


# Bytes that are not ours, or no longer.


def corpus() -> list[bytes]:
    serializer = golden.serializer()
    small = {name: value for name, value in VALUES.items() if name not in ("strings", "bytes")}
    small["strings"] = VALUES["strings"][:-1]
    return [serializer.dumps(value) for value in small.values()] + [serializer.dumps(small)]


def test_foreign_bytes_are_corrupt(serializer: Serializer) -> None:
    import json
    import pickle

    for data in (b"", b"\x01", b"\x01\0", b"\0\0\0", b"\x02\0\x01", b"\x01\x04\x01", b"\x01\x80\x01", b"\xff" * 100,
                 pickle.dumps(print), json.dumps({"a": 1}).encode(), msgpack.packb({"a": [1]})):  # fmt: skip
        with pytest.raises(CorruptError):
            serializer.loads(data)


def test_bytes_that_were_cut_off_or_continued_are_corrupt(serializer: Serializer) -> None:
    for stored in corpus():
        for end in {*range(min(40, len(stored))), *range(0, len(stored), max(1, len(stored) // 50)), len(stored) - 1}:
            has_arrays = stored[1] & 2
            try:
                serializer.loads(stored[:end])
            except CorruptError:
                continue
            assert has_arrays, "only padding of an empty last array can be missing"
        if not stored[1] & 2:
            with pytest.raises(CorruptError, match="followed by 1 bytes"):
                serializer.loads(stored + b"\0")


def test_twenty_thousand_mutations_are_corrupt_or_a_value_and_never_anything_else(serializer: Serializer) -> None:
    seed = 20260101
    chance = random.Random(seed)
    stored = corpus()
    refused = 0
    for number in range(20_000):
        data = bytearray(chance.choice(stored))
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            place = chance.randrange(len(data))
            action = chance.randrange(5)
            if action == 0:
                data[place] ^= 1 << chance.randrange(8)
            elif action == 1:
                data[place] = chance.randrange(256)
            elif action == 2:
                del data[place : place + chance.randrange(1, 9)]
            elif action == 3:
                data[place:place] = chance.randbytes(chance.randrange(1, 9))
            else:
                other = chance.choice(stored)
                start = chance.randrange(len(other))
                data[place : place + 20] = other[start : start + 20]
            if not data:
                break
        try:
            serializer.loads(bytes(data))
        except CorruptError:
            refused += 1
        except BaseException as exc:
            raise AssertionError(
                f"seed {seed}, mutation {number}: {type(exc).__name__} for {bytes(data).hex()}"
            ) from exc
    assert 1000 < refused < 20_000


def test_random_bytes_behind_a_valid_head_are_corrupt_or_a_value(serializer: Serializer) -> None:
    chance = random.Random(7)
    for number in range(20_000):
        data = bytes((1, chance.randrange(4))) + chance.randbytes(chance.randrange(1, 60))
        try:
            serializer.loads(data)
        except CorruptError:
            continue
        except BaseException as exc:
            raise AssertionError(f"case {number}: {type(exc).__name__} for {data.hex()}") from exc


BOMBS = {
    "list of 4 Gi": b"\xdd\xff\xff\xff\xff",
    "dict of 4 Gi": b"\xdf\xff\xff\xff\xff",
    "text of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "extension of 4 GiB": b"\xc9\xff\xff\xff\xff\x01",
    "lists of a million, a thousand deep": b"\xdd\x00\x0f\x00\x00" * 1000 + b"\0" * (1 << 20),
    "a hundred thousand levels": b"\x91" * 100_000 + b"\0",
    "a hundred thousand levels of maps": b"\x81\0" * 100_000 + b"\0",
    "array of 4 Gi": b"\x96\xc7\x00\x49\xa3<f8\xc2\x00\xce\xff\xff\xff\xff\x01",
    "array of 2**80": b"\x97\xc7\x00\x49\xa3<f8\xc2\x00" + b"\xce\xff\xff\xff\xff" * 3,
    "dtype of 2 GiB": b"\x95\xc7\x00\x49\xab<U500000000\xc2\x00\x01",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("flags", [0, 1, 3])
def test_a_bomb_is_refused_cheaply(serializer: Serializer, name: str, flags: int) -> None:
    body = BOMBS[name]
    head = bytes((1, flags)) + (len(body).to_bytes(8, "little") if flags & 2 else b"")
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError):
            serializer.loads(head + body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_tags_in_odd_places_are_corrupt(serializer: Serializer) -> None:
    tag = b"\xc7\x00\x40"
    for body in (
        tag,  # the value itself
        b"\x92\x01" + tag,  # not first
        b"\x92" + tag + tag,  # twice
        b"\x81" + tag + b"\x01",  # a key
        b"\x81\x01" + tag,  # a dict's value
        b"\x91\xc7\x00\x7f",  # unknown
        b"\xc7\x00\x3f",  # no tag, unknown
        b"\x92\xc7\x00\x41\x90",  # a set of a list
        b"\x81\x90\x01",  # a list as a key
    ):
        with pytest.raises(CorruptError):
            serializer.loads(b"\x01\x01" + body)
    with pytest.raises(CorruptError):
        serializer.loads(b"\x01\x00\x91" + tag)


class Trap:
    """What would show that stored bytes chose what runs."""

    sprung: list[Mapping[str, Any]] = []  # noqa: RUF012

    def __init__(self, **arguments: Any) -> None:
        Trap.sprung.append(arguments)

    @classmethod
    def from_state(cls, state: Any) -> None:
        Trap.sprung.append(state)


def test_stored_names_make_nothing_run(serializer: Serializer) -> None:
    names = [
        f"{__name__}:Trap",
        f"{__name__}.Trap",
        "os:system",
        "builtins:eval",
        "subprocess:Popen",
        "this:zen",
        "antigravity:x",
    ]
    sys.modules.pop("this", None)
    for name in names:
        author = Serializer()
        author.register(Tool, name)
        for cls in (Labels, Role, Point):
            author.register(cls, f"{name}{cls.__name__}")
        author.register(Celsius, f"{name}!", vars, Celsius)
        for value in (Tool("id"), Celsius(1), defaultdict(Tool), Labels(), Role.USER, Point(1)):
            with pytest.raises(CorruptError, match="isn't registered here"):
                serializer.loads(author.dumps(value))
    assert Trap.sprung == []
    assert "this" not in sys.modules
    assert "antigravity" not in sys.modules


def test_a_stored_time_zone_reads_no_other_file_and_imports_nothing(serializer: Serializer) -> None:
    for key in ("../../etc/passwd", "/etc/passwd", "..", "os.path", "a.b/c", "", "Europe/../Europe/Berlin", "\0"):
        data = b"Z" + key.encode()
        with pytest.raises(CorruptError, match="no valid key"):
            serializer.loads(b"\x01\x00\xc7" + bytes((len(data), 9)) + data)
    data = b"ZEurope/Atlantis"
    with pytest.raises(CorruptError, match="the time zone 'Europe/Atlantis' isn't known here"):
        serializer.loads(b"\x01\x00\xc7" + bytes((len(data), 9)) + data)


# Pydantic.


def test_pydantic_models_come_back_as_they_were_without_validation() -> None:
    pytest.importorskip("pydantic")
    from tests.golden.serializer_v1.models import ITEM, Item

    serializer = golden.serializer()
    stored = (GOLDEN / "model.bin").read_bytes()
    with pytest.raises(CorruptError, match=r"golden\.Item"):
        serializer.loads(stored)
    serializer.register(Item, "golden.Item")
    item = ITEM
    back = around(serializer, {"k": [item]})["k"][0]
    assert type(back) is Item
    assert back == item
    assert back.name == "a!"
    assert back._hidden == 8
    assert back.model_fields_set == item.model_fields_set == {"name", "extra", "child"}
    assert back.model_extra == {"extra": (1, {2})}
    assert type(back.child) is Item
    assert back.child.name == "b!"
    assert serializer.loads(stored) == item
    with pytest.raises(ValidationError, match=r"^state\.child\.extra\[0\] is a tests.test_serializer:Plain"):
        serializer.dumps(Item(name="x", child=Item(name="y", extra=[Plain()])))


def test_a_pydantic_model_that_changed_is_filled_or_refused() -> None:
    pydantic = pytest.importorskip("pydantic")
    old = pydantic.create_model("Thing", a=(int, ...), b=(int, 2))
    new = pydantic.create_model("Thing", a=(int, ...), b=(int, 2), c=(list[int], pydantic.Field(default_factory=list)))
    less = pydantic.create_model("Thing", a=(int, ...))
    strict = pydantic.create_model("Thing", a=(int, ...), b=(int, 2), d=(int, ...))
    back = old_and_new(old, new)(old(a=1))
    assert back == new(a=1)
    assert back.model_fields_set == {"a"}
    with pytest.raises(CorruptError, match="'b', which the class no longer has"):
        old_and_new(old, less)(old(a=1))
    with pytest.raises(CorruptError, match="has no 'd', and the class has no default"):
        old_and_new(old, strict)(old(a=1))
    assert old_and_new(old, less, from_state=less.model_validate)(old(a=1)) == less(a=1)
    assert old_and_new(OLD, new)(OLD(1, 5)) == new(a=1, b=5)


def test_frozen_and_root_and_generic_models_come_back() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Frozen(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        model_config = pydantic.ConfigDict(frozen=True)
        x: int

    class Root(pydantic.RootModel[list[int]]):  # type: ignore[name-defined,misc]
        pass

    serializer = Serializer()
    serializer.register(Frozen)
    serializer.register(Root)
    for value in (Frozen(x=1), Root([1, 2]), {Frozen(x=1): 2}):
        assert same(around(serializer, value), value)


def test_a_counter_and_its_kin_are_told_from_dicts(serializer: Serializer) -> None:
    for value in (Counter(), OrderedDict(), defaultdict(int), {}):
        assert type(around(serializer, [value])[0]) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": ["x"]},
        {"text": "long" * 100, "n": None},
        [1, "two", b"three"],
        [{"role": "user", "content": "hello"}, {"role": "tool", "content": None}],
        [[1, 2], [3]],
        [{"a": {"b": []}}],
        [],
        {1: "one", "two": 2.0},
    ],
)
def test_what_a_reader_reads_again_and_again_is_the_callers_own(value: Any) -> None:
    serializer = Serializer()
    reader = serializer.reader(serializer.dumps(value))
    for _ in range(5):
        found = reader.read()
        assert found == value
        assert type(found) is type(value)
        for inner in found.values() if isinstance(found, dict) else found:
            if isinstance(inner, dict | list):
                inner.clear()
        found.clear()
