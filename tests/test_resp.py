"""RESP: commands and answers as bytes, in whatever pieces they come."""

from __future__ import annotations

from typing import Any

import pytest
from redis.connection import PythonRespSerializer
from redis.exceptions import DataError, InvalidResponse, NoScriptError, ResponseError

from persistence.resp import MOST_BYTES, READ_BYTES, Answers, pack

ANSWERS: dict[bytes, Any] = {
    b"+OK\r\n": b"OK",
    b":-12\r\n": -12,
    b"(3492890328409238509324850943850943825024385\r\n": 3492890328409238509324850943850943825024385,
    b",1.5\r\n": 1.5,
    b",inf\r\n": float("inf"),
    b"#t\r\n": True,
    b"#f\r\n": False,
    b"_\r\n": None,
    b"$-1\r\n": None,
    b"*-1\r\n": None,
    b"$0\r\n\r\n": b"",
    b"$6\r\n\r\n\x00\xff\r\n\r\n": b"\r\n\x00\xff\r\n",
    b"=7\r\ntxt:abc\r\n": b"abc",
    b"*0\r\n": [],
    b"%0\r\n": {},
    b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n~1\r\n+b\r\n": [1, [b"a", []], [b"b"]],
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n": {b"a": 1, b"b": [None]},
    b">2\r\n+invalidate\r\n*0\r\n+OK\r\n": b"OK",
}


@pytest.mark.parametrize("sent", ANSWERS, ids=repr)
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(sent: bytes) -> None:
    for size in range(1, len(sent) + 1):
        answers = Answers()
        told = [answers.feed(sent[at : at + size]) for at in range(0, len(sent), size)]
        assert (told[-1], any(told[:-1])) == (True, False)
        answer = answers.take()
        assert (answer, type(answer)) == (ANSWERS[sent], type(ANSWERS[sent]))
        assert answers.is_idle


def test_one_answer_follows_another() -> None:
    answers = Answers()
    for number in range(3):
        assert answers.feed(b":%d\r\n" % number)
        assert answers.take() == number
    assert answers.feed(b"+first\r\n+second\r\n")
    assert answers.take() == b"first"
    assert not answers.is_idle  # what nobody asked for: the connection can't be used again


def test_a_refusal_is_an_exception_of_redis_py_also_within_a_list() -> None:
    answers = Answers()
    assert answers.feed(b"*2\r\n-NOSCRIPT No matching script.\r\n!11\r\nERR a\r\nb\r\nc\r\n")
    refused, other = answers.take()
    assert (type(refused), str(refused)) == (NoScriptError, "No matching script.")
    assert (type(other), str(other)) == (ResponseError, "a\r\nb\r\nc")


def test_more_is_read_at_a_time_where_more_is_to_come() -> None:
    answers = Answers()
    assert answers.wanted == READ_BYTES
    assert not answers.feed(b"$100000\r\n")
    assert answers.wanted == 100_002
    assert not answers.feed(b"x" * 50_000)
    assert answers.wanted == 50_002
    assert answers.feed(b"x" * 50_000 + b"\r\n")
    assert answers.take() == b"x" * 100_000
    assert not answers.feed(b"$%d\r\n" % (50 * MOST_BYTES))
    assert answers.wanted == MOST_BYTES


@pytest.mark.parametrize("sent", [b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b"\x00\r\n"], ids=repr)
def test_what_is_no_resp_is_refused(sent: bytes) -> None:
    with pytest.raises(InvalidResponse, match="Protocol Error"):
        Answers().feed(sent)


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "k"),
        ("CONFIG GET", "maxmemory"),
        (b"CLIENT ID",),
        ("SET", "clé", b"\x00\r\n\xff", bytearray(b"x"), 12, -1.5, 1e300, ""),
        ("SET", "k", memoryview(b"abc"), "y" * 10_000),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_command_is_packed_as_redis_py_packs_it(command: tuple[Any, ...]) -> None:
    def encoded(part: Any) -> Any:
        return part if isinstance(part, bytes | bytearray | memoryview) else str(part).encode()

    assert pack(command) == b"".join(PythonRespSerializer(6000, encoded).pack(*command))


@pytest.mark.parametrize("part", [True, None, object(), [1], {"a": 1}], ids=lambda part: type(part).__name__)
def test_what_is_neither_text_nor_number_is_refused(part: object) -> None:
    with pytest.raises(DataError, match=type(part).__name__):
        pack(("SET", "k", part))
