"""Encryption at rest: the format for ever, every change noticed, rotation, and keys that show nowhere."""

from __future__ import annotations

import base64
import copy
import logging
import math
import os
import pickle
import random
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher as LowLevel
from cryptography.hazmat.primitives.ciphers import algorithms, modes

from persistence import Cipher, ConfigError, CorruptError, ValidationError

KEY = bytes(range(32))
# Written by the first release under KEY; these must stay readable whatever later formats look like.
GOLDEN = [
    (
        "0107323032362d3031a0a1a2a3a4a5a6a7a8a9aaab8e77104923aa71cb881148e7d7ef8fd1bd017e9d79019e7e",
        b"holdfast",
        ("acme", "thread-1", 7),
    ),
    ("0107323032362d3031a0a1a2a3a4a5a6a7a8a9aaab2ccb699a734a118506ad444df5c51326", b"", ()),
]
SIZES = [0, 1, 15, 16, 17, 1000, 65536, 1_000_003]


@pytest.fixture
def cipher() -> Cipher:
    return Cipher({"2026-01": KEY}, "2026-01")


def base64_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


# The format


@pytest.mark.parametrize(("stored", "plain", "place"), GOLDEN)
def test_what_the_first_release_wrote_is_readable(
    cipher: Cipher, stored: str, plain: bytes, place: tuple[str | int, ...]
) -> None:
    assert cipher.decrypt(bytes.fromhex(stored), Cipher.associate(*place)) == plain


def test_the_bytes_are_those_of_the_documented_layout(cipher: Cipher) -> None:
    stored = cipher.encrypt(b"holdfast", b"place")
    header, nonce, sealed, tag = stored[:9], stored[9:21], stored[21:-16], stored[-16:]
    assert header == b"\x01\x072026-01"
    low = LowLevel(algorithms.AES(KEY), modes.GCM(nonce, tag)).decryptor()
    low.authenticate_additional_data(header + b"place")
    assert low.update(sealed) + low.finalize() == b"holdfast"
    assert len(stored) == len(b"holdfast") + 30 + len("2026-01")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key_id", ["k", "x" * 32, "a.B_9-"])
def test_bytes_of_any_size_come_back_equal(size: int, key_id: str) -> None:
    cipher = Cipher({key_id: KEY}, key_id)
    plain = os.urandom(size)
    stored = cipher.encrypt(plain, b"place")
    assert cipher.decrypt(stored, b"place") == plain
    assert (cipher.key_id(stored), len(stored)) == (key_id, size + 30 + len(key_id))


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda raw: memoryview(raw).cast("H")])
def test_every_form_of_bytes_means_the_same(form: Callable[[bytes], Any]) -> None:
    cipher = Cipher({"ab": KEY}, "ab")  # an id of even length, so that everything fits into 16-bit items
    stored = cipher.encrypt(form(b"plain text"), form(b"my place"))
    opened = cipher.decrypt(form(stored), form(b"my place"))
    rotated = cipher.rotate(form(stored), form(b"my place"))
    assert (opened, rotated) == (b"plain text", stored)
    assert (type(stored), type(opened), type(rotated)) == (bytes, bytes, bytes)
    assert (cipher.key_id(form(stored)), cipher.needs_rotation(form(stored))) == ("ab", False)


def test_a_buffer_may_change_after_the_call(cipher: Cipher) -> None:
    buffer = bytearray(b"before")
    stored = cipher.encrypt(buffer)
    buffer.extend(b" and after")
    assert cipher.decrypt(stored) == b"before"


def test_equal_plaintexts_look_different_each_time(cipher: Cipher) -> None:
    nonces = {cipher.encrypt(b"same")[9:21] for _ in range(10_000)}
    assert len(nonces) == 10_000


# What is noticed


def test_each_of_ten_thousand_flipped_bits_is_noticed(cipher: Cipher) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    stored = cipher.encrypt(b"The plan is to attack at dawn. " * 20, b"place")
    for _ in range(10_000):
        changed = bytearray(stored)
        bit = rng.randrange(len(stored) * 8)
        changed[bit // 8] ^= 1 << bit % 8
        # A bit of the id or its length that makes another well-formed id names a key that this Cipher lacks.
        with pytest.raises((CorruptError, ConfigError)) as caught:
            cipher.decrypt(changed, b"place")
        assert isinstance(caught.value, CorruptError) or bit // 8 in range(1, 9), f"seed {seed}, bit {bit}"


def test_each_single_bit_of_a_short_value_is_noticed_even_with_all_ids_known() -> None:
    ids = [chr(code) for code in range(128) if chr(code).isalnum() or chr(code) in "_.-"]
    cipher = Cipher({key_id: os.urandom(32) for key_id in ids}, "k")
    stored = cipher.encrypt(b"yes", b"place")
    for bit in range(len(stored) * 8):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        # A greater length makes an id out of the nonce's first bytes, which may happen to be well formed.
        with pytest.raises((CorruptError, ConfigError)) as caught:
            cipher.decrypt(changed, b"place")
        assert isinstance(caught.value, CorruptError) or bit // 8 == 1, f"bit {bit}"


def test_the_id_is_authenticated_even_between_equal_keys() -> None:
    stored = Cipher({"a": KEY}, "a").encrypt(b"plain")
    with pytest.raises(CorruptError):
        Cipher({"b": KEY}, "b").decrypt(stored.replace(b"\x01\x01a", b"\x01\x01b", 1))


def test_the_header_and_the_associated_data_cannot_be_shifted_against_each_other() -> None:
    stored = Cipher({"ab": KEY}, "ab").encrypt(b"plain", b"c")
    with pytest.raises(CorruptError):
        Cipher({"a": KEY}, "a").decrypt(b"\x01\x01a" + stored[4:], b"bc")


def test_every_truncation_and_any_addition_is_noticed(cipher: Cipher) -> None:
    stored = cipher.encrypt(b"plain text")
    for length in range(len(stored)):
        with pytest.raises(CorruptError):
            cipher.decrypt(stored[:length])
    with pytest.raises(CorruptError):
        cipher.decrypt(stored + b"\0")


@pytest.mark.parametrize("place", [b"", b"row 2", b"row 1 ", b"row ", b"row 1\0"])
def test_a_row_that_was_moved_is_noticed(cipher: Cipher, place: bytes) -> None:
    stored = cipher.encrypt(b"plain text", b"row 1")
    with pytest.raises(CorruptError, match="moved") as caught:
        cipher.decrypt(stored, place)
    assert "plain" not in str(caught.value)


def test_another_key_of_the_same_id_is_noticed(cipher: Cipher) -> None:
    stored = cipher.encrypt(b"plain text")
    other = Cipher({"2026-01": bytes(32)}, "2026-01")
    with pytest.raises(CorruptError, match=r"'2026-01'.*another key had this id"):
        other.decrypt(stored)


def test_a_missing_key_is_named_and_does_not_make_the_bytes_corrupt(cipher: Cipher) -> None:
    stored = cipher.encrypt(b"plain text")
    other = Cipher({"2027-01": os.urandom(32), "2026-12": os.urandom(32)}, "2027-01")
    with pytest.raises(ConfigError) as caught:
        other.decrypt(stored)
    assert str(caught.value) == (
        "no key '2026-01' to decrypt with, only '2026-12', '2027-01' "
        "(add the key '2026-01' to the Cipher; the stored bytes may be sound)"
    )


@pytest.mark.parametrize("stored", [b"", b"\x00", b"\x02\x01k" + bytes(60), b"{}", bytes(100), b"\x80\x04\x95."])
def test_what_was_never_encrypted_is_refused_as_such(cipher: Cipher, stored: bytes) -> None:
    for call in (cipher.decrypt, cipher.key_id, cipher.needs_rotation, cipher.rotate):
        with pytest.raises(CorruptError):
            call(stored)


@pytest.mark.parametrize(
    "header", [b"\x01\x00", b"\x01\x21" + b"k" * 33, b"\x01\x01/", b"\x01\x02k\n", b"\x01\x01\xb2"]
)
def test_a_header_without_a_well_formed_id_is_corrupt_and_its_bytes_are_not_shown(
    cipher: Cipher, header: bytes
) -> None:
    with pytest.raises(CorruptError, match="holds no key's id"):
        cipher.decrypt(header + bytes(60))


@pytest.mark.parametrize("value", ["text", None, 7, [1], memoryview(b"abcdef")[::2]])
def test_what_is_not_bytes_is_refused(cipher: Cipher, value: Any) -> None:
    calls: list[Callable[[Any], object]] = [
        cipher.encrypt,
        cipher.decrypt,
        cipher.key_id,
        cipher.needs_rotation,
        cipher.rotate,
        lambda value: cipher.encrypt(b"", value),
        lambda value: cipher.decrypt(cipher.encrypt(b""), value),
    ]
    for call in calls:
        with pytest.raises(ValidationError, match=r"not bytes|gaps"):
            call(value)


def test_more_than_a_gibibyte_is_refused_before_anything_is_done(cipher: Cipher) -> None:
    # Zero pages that nobody touches take no memory.
    huge = bytes(2**30 + 1)
    with pytest.raises(ValidationError, match="1073741825 bytes, more than 1073741824"):
        cipher.encrypt(huge)
    with pytest.raises(ValidationError, match="associated data has 1073741825"):
        cipher.encrypt(b"", huge)


# Rotation


def test_rotation_reads_old_and_new_rows_and_leaves_none_with_the_old_key(cipher: Cipher) -> None:
    rows = {n: cipher.encrypt(b"row %d" % n, Cipher.associate("rows", n)) for n in range(100)}
    both = Cipher({"2026-01": KEY, "2026-02": os.urandom(32)}, "2026-02")
    rows |= {n: both.encrypt(b"row %d" % n, Cipher.associate("rows", n)) for n in range(100, 200)}
    assert [both.decrypt(rows[n], Cipher.associate("rows", n)) for n in rows] == [b"row %d" % n for n in rows]
    old = [n for n, stored in rows.items() if both.needs_rotation(stored)]
    assert old == list(range(100))
    rows |= {n: both.rotate(rows[n], Cipher.associate("rows", n)) for n in old}
    assert {both.key_id(stored) for stored in rows.values()} == {"2026-02"}
    assert [both.decrypt(rows[n], Cipher.associate("rows", n)) for n in rows] == [b"row %d" % n for n in rows]
    with pytest.raises(ConfigError, match="'2026-02'"):
        cipher.decrypt(rows[0], Cipher.associate("rows", 0))


def test_rotating_what_is_new_checks_it_and_gives_it_back(cipher: Cipher) -> None:
    stored = cipher.encrypt(b"plain", b"place")
    assert cipher.rotate(stored, b"place") is stored
    with pytest.raises(CorruptError):
        cipher.rotate(stored, b"elsewhere")


def test_rotating_does_not_move_a_row(cipher: Cipher) -> None:
    both = Cipher({"2026-01": KEY, "new": os.urandom(32)}, "new")
    with pytest.raises(CorruptError):
        both.rotate(cipher.encrypt(b"plain", b"place"), b"elsewhere")


def test_a_row_of_an_unknown_key_is_still_seen_to_need_rotation(cipher: Cipher) -> None:
    other = Cipher({"new": os.urandom(32)}, "new")
    stored = cipher.encrypt(b"plain")
    assert (other.key_id(stored), other.needs_rotation(stored)) == ("2026-01", True)
    with pytest.raises(ConfigError, match="'2026-01'"):
        other.rotate(stored)


# The bound on messages


def test_encrypting_past_the_limit_is_refused_and_warned_of_before(caplog: pytest.LogCaptureFixture) -> None:
    cipher = Cipher({"a": KEY}, "a", max_messages=8)
    with caplog.at_level(logging.WARNING, "persistence.secrets"):
        stored = [cipher.encrypt(b"plain") for _ in range(8)]
    assert [record.args for record in caplog.records] == [("a", n, 8) for n in (2, 4, 6, 8)]
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"key 'a' has encrypted 8 messages here.*new key"):
            cipher.encrypt(b"plain")
    assert [cipher.decrypt(each) for each in stored] == [b"plain"] * 8
    assert cipher.rotate(stored[0]) == stored[0]


def test_what_is_refused_does_not_count() -> None:
    cipher = Cipher({"a": KEY}, "a", max_messages=1)
    with pytest.raises(ValidationError):
        cipher.encrypt("text")  # type: ignore[arg-type]
    assert cipher.decrypt(cipher.encrypt(b"plain")) == b"plain"


def test_threads_share_one_limit_exactly() -> None:
    cipher = Cipher({"a": KEY}, "a", max_messages=5_000)

    def encrypt(count: int) -> int:
        done = 0
        for _ in range(count):
            try:
                cipher.encrypt(b"plain")
                done += 1
            except ConfigError:
                pass
        return done

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(encrypt, [1_000] * 8)) == 5_000


def test_two_threads_encrypt_and_decrypt_at_once(cipher: Cipher) -> None:
    def work(thread: int) -> int:
        for n in range(2_000):
            plain = b"%d %d " % (thread, n) * 50
            place = Cipher.associate(thread, n)
            assert cipher.decrypt(cipher.encrypt(plain, place), place) == plain
        return thread

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == [0, 1]


# Associated data


def test_the_encoding_of_parts_never_changes() -> None:
    assert Cipher.associate("acme", "thread-1", 7).hex() == (
        "73000000000000000461636d657300000000000000087468726561642d3169000000000000000107"
    )
    assert Cipher.associate("\ud800", -129, b"\0", 0, 128).hex() == (
        "730000000000000003eda080690000000000000002ff7f62000000000000000100690000000000000001006900000000000000020080"
    )
    assert Cipher.associate() == b""


def test_no_two_lists_of_parts_have_the_same_bytes() -> None:
    atoms: list[str | int | bytes] = [
        "",
        "a",
        "b",
        "ab",
        "1",
        "é",
        "e\u0301",
        "\ud83d",
        "\ude00",
        "\ud83d\ude00",
        "😀",
        "\0",
    ]
    atoms += [
        b"",
        b"a",
        b"ab",
        b"1",
        b"s\0\0\0\0\0\0\0\x01a",
        0,
        1,
        -1,
        127,
        128,
        -128,
        -129,
        255,
        256,
        10**40,
        -(10**40),
    ]
    lists = [
        (),
        *((a,) for a in atoms),
        *((a, b) for a in atoms for b in atoms),
        ("a", "b", "c"),
        ("abc",),
        ("ab", "c"),
    ]
    encoded = {Cipher.associate(*parts) for parts in lists}
    assert len(encoded) == len(lists)
    assert all(Cipher.associate(*a) != Cipher.associate(*b) for a, b in combinations(lists[:28], 2))


@pytest.mark.parametrize("part", [True, None, 1.0, ("a",), bytearray(b"a")])
def test_a_part_of_another_type_is_refused(part: Any) -> None:
    with pytest.raises(ValidationError, match=f"is {type(part).__name__}, not str, int or bytes"):
        Cipher.associate("a", part)


def test_a_part_of_any_length_is_taken() -> None:
    assert len(Cipher.associate(1 << 100_000, "x" * 100_000)) == 2 * 9 + 12_501 + 100_000


# Keys, and where they don't show

MARK = b"CANARY-KEY-CANARY-KEY-CANARY-KEY"
FORMS = ("CANARY", base64_of(MARK)[:20], MARK.hex()[:20], str(list(MARK))[1:20])


def shows_a_key(*texts: str) -> bool:
    return any(form in text for form in FORMS for text in texts)


@pytest.mark.parametrize(
    ("keys", "current", "problems"),
    [
        ({}, "a", ["there is no key", "there is no key 'a', which is to be the current one"]),
        ({"a": KEY}, "b", ["there is no key 'b', which is to be the current one"]),
        ({"a": KEY}, MARK.decode() + "=", ["current is no key's id"]),
        ({"a": KEY}, None, ["current is no key's id"]),
        ({"a": MARK[:31]}, "a", ["key 'a' is not 32 bytes"]),
        ({"a": MARK + b"x"}, "a", ["key 'a' is not 32 bytes"]),
        ({"a": MARK.decode()}, "a", ["key 'a' is not 32 bytes"]),
        ({"a": MARK, "b": KEY, "c": MARK}, "a", ["keys 'a' and 'c' are the same"]),
        (
            {base64_of(MARK): "a", "b": b""},
            "b",
            [
                "the id of key number 1 is not 1 to 32 characters of A-Z a-z 0-9 _ . -",
                "key number 1 is not 32 bytes",
                "key 'b' is not 32 bytes",
            ],
        ),
        ([("a", MARK)], "a", ["keys is no mapping from ids to bytes"]),
    ],
)
def test_all_problems_of_the_keys_are_named_and_no_key_is(keys: Any, current: Any, problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Cipher(keys, current)
    assert list(caught.value.problems) == problems
    assert not shows_a_key(str(caught.value), repr(caught.value))


@pytest.mark.parametrize("key_id", ["", "x" * 33, "a/b", "a b", "é", "²", "a\n", "a\0", 7, b"a"])
def test_an_id_is_short_and_plain(key_id: Any) -> None:
    with pytest.raises(ConfigError, match="the id of key number 1 is not"):
        Cipher({key_id: KEY}, key_id)


@pytest.mark.parametrize("limit", [0, -1, 2**32 + 1, 1.0, math.inf, True, None])
def test_the_limit_is_a_whole_number_up_to_the_standards_bound(limit: Any) -> None:
    with pytest.raises(ConfigError, match="max_messages"):
        Cipher({"a": KEY}, "a", max_messages=limit)


def test_a_generated_key_is_32_bytes_and_new() -> None:
    assert len({Cipher.generate_key() for _ in range(1000)}) == 1000
    assert len(Cipher.generate_key()) == 32


def test_changing_the_mapping_afterwards_changes_nothing() -> None:
    keys = {"a": KEY}
    cipher = Cipher(keys, "a")
    keys["b"] = bytes(32)
    del keys["a"]
    assert (cipher.key_ids, cipher.decrypt(cipher.encrypt(b"plain"))) == (("a",), b"plain")


def test_a_repr_shows_ids_only() -> None:
    cipher = Cipher({"new": KEY, "2026": MARK}, "new")
    assert repr(cipher) == str(cipher) == "Cipher('2026', 'new'; current='new')"
    assert (cipher.current, cipher.key_ids) == ("new", ("2026", "new"))


def test_no_reachable_attribute_shows_a_key() -> None:
    cipher = Cipher({"a": MARK}, "a")
    assert not hasattr(cipher, "__dict__")
    seen, queue = [], [cipher]
    while queue:
        item = queue.pop()
        seen.append(repr(item))
        queue += [getattr(item, name) for name in getattr(type(item), "__slots__", ())]
        queue += item.values() if isinstance(item, dict) else []
    assert len(seen) > 5
    assert not shows_a_key(*seen)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_is_refused(protocol: int) -> None:
    cipher = Cipher({"a": MARK}, "a")
    for holder in (cipher, {"cipher": cipher}):
        with pytest.raises(ValidationError, match="can't be pickled") as caught:
            pickle.dumps(holder, protocol)
        assert not shows_a_key(str(caught.value))


def test_a_copy_is_the_cipher_itself_with_its_count() -> None:
    cipher = Cipher({"a": MARK}, "a")
    assert copy.copy(cipher) is cipher
    assert copy.deepcopy({"cipher": cipher})["cipher"] is cipher


def test_no_error_of_a_call_shows_a_key_or_what_was_encrypted() -> None:
    cipher = Cipher({"a": MARK}, "a", max_messages=1)
    stored = cipher.encrypt(b"SECRET PLAN")
    calls: list[Callable[[], object]] = [
        lambda: cipher.encrypt(b"SECRET PLAN"),
        lambda: cipher.decrypt(stored, b"x"),
        lambda: cipher.decrypt(b"SECRET PLAN"),
        lambda: cipher.decrypt(b"\x01\x06SECRET" + b"PLAN" * 20),
        lambda: cipher.decrypt(stored[:-1]),
        lambda: cipher.encrypt("SECRET PLAN"),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises((ConfigError, CorruptError, ValidationError)) as caught:
            call()
        texts = [str(caught.value), repr(caught.value.args), repr(vars(caught.value)), repr(caught.value.__cause__)]
        assert not shows_a_key(*texts)
        assert "SECRET PLAN" not in "".join(texts)
        assert "PLANPLAN" not in "".join(texts)


# From the environment


@pytest.mark.parametrize(
    "encode", [base64.b64encode, base64.urlsafe_b64encode, lambda key: b" %s\n" % base64.b64encode(key)]
)
def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, encode: Callable[[bytes], bytes]) -> None:
    old, new = b"\xff\xfe" * 16, b"\xfb\xef" * 16
    monkeypatch.setenv("HOLDFAST_KEY_2026_01", encode(old).decode())
    monkeypatch.setenv("HOLDFAST_KEY_2026_02", encode(new).decode())
    monkeypatch.setenv("HOLDFAST_KEY_CURRENT", "2026_02")
    cipher = Cipher.from_env()
    assert (cipher.current, cipher.key_ids) == ("2026_02", ("2026_01", "2026_02"))
    assert Cipher({"2026_02": new}, "2026_02").decrypt(cipher.encrypt(b"plain")) == b"plain"
    assert cipher.decrypt(Cipher({"2026_01": old}, "2026_01").encrypt(b"plain")) == b"plain"


def test_the_prefix_and_the_mapping_may_be_ones_own() -> None:
    environ = {"APP_A": base64_of(KEY), "APP_CURRENT": "A", "HOLDFAST_KEY_B": "no key"}
    cipher = Cipher.from_env("APP_", environ=environ, max_messages=1)
    assert cipher.key_ids == ("A",)
    cipher.encrypt(b"")
    with pytest.raises(ConfigError, match="the limit"):
        cipher.encrypt(b"")


@pytest.mark.parametrize(
    ("environ", "problems"),
    [
        ({}, ["there is no key", "current is no key's id"]),
        ({"K_A": base64_of(MARK)}, ["current is no key's id"]),
        ({"K_A": base64_of(KEY), "K_CURRENT": base64_of(MARK)}, ["current is no key's id"]),
        ({"K_A": MARK.decode(), "K_CURRENT": "A"}, ["key 'A' is not 32 bytes"]),
        ({"K_A": base64_of(MARK)[:-1], "K_CURRENT": "A"}, ["key 'A' is not 32 bytes"]),
        ({"K_A": base64_of(MARK) + "!", "K_CURRENT": "A"}, ["key 'A' is not 32 bytes"]),
        ({"K_A": "CANARY-é", "K_B": "", "K_CURRENT": "A"}, ["key 'A' is not 32 bytes", "key 'B' is not 32 bytes"]),
        (
            {"K_A": base64_of(MARK + MARK), "K_CURRENT": "a"},
            ["key 'A' is not 32 bytes", "there is no key 'a', which is to be the current one"],
        ),
        (
            {"K_": base64_of(KEY), "K_CURRENT": "A"},
            [
                "the id of key number 1 is not 1 to 32 characters of A-Z a-z 0-9 _ . -",
                "there is no key 'A', which is to be the current one",
            ],
        ),
    ],
)
def test_all_problems_of_the_environment_are_named_and_no_value_is(
    environ: dict[str, str], problems: list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"from the environment \(K_…\).*K_CURRENT the id") as caught:
        Cipher.from_env("K_", environ=environ)
    assert list(caught.value.problems) == problems
    assert not shows_a_key("".join(traceback.format_exception(caught.value)))


def test_an_empty_prefix_would_take_every_variable_and_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a prefix"):
        Cipher.from_env("")


# The library


def test_without_the_library_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["cryptography.hazmat.primitives.ciphers.aead"] = None
from persistence import CapabilityError, Cipher
try:
    Cipher({"a": bytes(32)}, "a")
except CapabilityError as exc:
    print(exc.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == 'pip install "holdfast[crypto]"\n'


def test_the_library_is_loaded_only_for_a_cipher() -> None:
    # redis-py looks for cryptography itself, but not for what takes the time.
    code = "import sys, persistence; print('cryptography.hazmat' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
