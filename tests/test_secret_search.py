"""Secrets in texts: every made-up one is found, no ordinary text is taken for one, and hostile texts cost no more."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import time
import uuid
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from persistence import FoundSecret, ValidationError, find_secrets, redact


def mixed(length: int, letters: str = "aB3dE5gH7jK9mN2pQ4rS6tU8vW0xY1z") -> str:
    return (letters * (length // len(letters) + 1))[:length]


HEX = "0123456789abcdef"
LOWER = mixed(64, "a1b2c3d4e5f6g7h8i9j0klmnopqrstuvwxyz")
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0." + mixed(43)
PEM_BODY = "\n".join([mixed(64)] * 5)

# Made-up tokens in each provider's form, in pieces so that no scanner takes this file for a leak.
TOKENS = {
    "anthropic-key": ["sk-" + "ant-api03-" + mixed(93) + "AA"],
    "openai-key": ["sk-" + "proj-" + mixed(120), "sk-" + mixed(48), "sk-" + "svcacct-" + mixed(40)],
    "openrouter-key": ["sk-" + "or-v1-" + mixed(64, HEX)],
    "aws-key": ["AKIA" + "Q3EGRIIJ7XUAMPLE"[:16].replace("8", "2"), "ASIA" + mixed(16, "ABC234XYZ")],
    "github-token": ["gh" + f"{kind}_" + mixed(36) for kind in "pousr"]
    + ["github_" + "pat_" + mixed(22) + "_" + mixed(59)],
    "gitlab-token": ["gl" + "pat-" + mixed(20)],
    "slack-token": ["xox" + "b-1234567890-1234567890-" + mixed(24), "xapp" + "-1-A0123456789-1234567890-" + LOWER],
    "stripe-key": ["sk_" + "live_" + mixed(24), "rk_" + "test_" + mixed(99), "wh" + "sec_" + mixed(32)],
    "google-key": ["AI" + "za" + mixed(35), "GOC" + "SPX-" + mixed(28), "ya" + "29." + mixed(150)],
    "twilio-key": ["S" + "K" + mixed(32, HEX)],
    "sendgrid-key": ["S" + "G." + mixed(22) + "." + mixed(43)],
    "mailgun-key": ["ke" + "y-" + mixed(32, HEX)],
    "npm-token": ["np" + "m_" + mixed(36)],
    "pypi-token": ["py" + "pi-AgEIcHlwaS5vcmc" + mixed(150)],
    "hugging-face-token": ["h" + "f_" + mixed(34, "aBcDeFgHiJ")],
    "digitalocean-token": ["dop" + "_v1_" + mixed(64, HEX)],
    "shopify-token": ["shp" + "at_" + mixed(32, HEX)],
    "databricks-token": ["da" + "pi" + mixed(32, HEX)],
    "grafana-token": ["gl" + "sa_" + mixed(32) + "_" + mixed(8, HEX)],
    "vault-token": ["hv" + "s." + mixed(90)],
    "docker-token": ["dckr" + "_pat_" + mixed(27)],
    "groq-key": ["gs" + "k_" + mixed(52)],
    "linear-key": ["lin" + "_api_" + mixed(40)],
    "atlassian-token": ["ATA" + "TT3" + mixed(180)],
    "telegram-token": ["123456789" + ":AA" + mixed(33)],
    "discord-token": ["M" + mixed(24) + "." + mixed(6) + "." + mixed(38)],
    "slack-webhook": ["T0123ABCD/B0123ABCD/" + mixed(24)],
    "jwt": [JWT, JWT.rpartition(".")[0] + "."],
    "private-key": [
        f"-----BEGIN {kind}PRIVATE KEY-----\n{PEM_BODY}\n-----END {kind}PRIVATE KEY-----"
        for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")
    ]
    + [f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{PEM_BODY}\n-----END PGP PRIVATE KEY BLOCK-----"],
    "card-number": [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "3530111333300000",
        "30569309025904",
        "3056 930902 5904",
    ],
}  # fmt: skip
BEFORE_AND_AFTER = {
    "slack-webhook": ("https://hooks.slack.com/services/", ""),
}


class Case(NamedTuple):
    kind: str
    text: str
    secret: str


MARKED = [
    Case(kind, "{}{}{}".format(BEFORE_AND_AFTER.get(kind, ("", ""))[0], token, ""), token)
    for kind, tokens in TOKENS.items()
    for token in tokens
]

NAMED = [
    Case(kind, text.replace("%", secret), secret)
    for kind, secret, texts in [
        (
            "password",
            "hunter2!",
            [
                "password=%",
                "password = %",
                "PASSWORD: %",
                "DB_PASSWORD=%",
                'password: "%"',
                "{'password': '%'}",
                '{"user_password": "%"}',
                '{\\"password\\": \\"%\\"}',
                'password: str = "%"',
                "my password is %",
                "The passphrase was: %",
                "mysql --password % -u root",
                "mysql --password=% -u root",
                "Server=db;Pwd=%;Timeout=5",
                "<password>%</password>",
                "https://example.com/login?user=a&password=%&x=1",
                "password2 := %",
                "[db]\npasswd = %\n",
                "pass: %",
            ],
        ),
        ("password", "correct horse", ['password="%"', "passphrase: '%'"]),
        ("secret", "s3cr3t-value", ["client_secret=%", 'secret: "%"', "secret_value=%"]),
        (
            "api-key",
            mixed(40, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzEXAMPL1"),
            ["aws_secret_access_key = %", 'api_key="%"', "API-KEY: %", "apiKey: '%'", "signing_key=%", "--api-key %"],
        ),
        (
            "token",
            mixed(32),
            ["token=%", "access_token: %", '"refreshToken": "%"', "X-Auth-Token: %", "session_id=%", "csrf_token_1=%"],
        ),
        ("token", "550e8400-e29b-41d4-a716-446655440000", ["session_token=%"]),
        ("bearer-token", mixed(40), ["Authorization: Bearer %", "curl -H 'authorization: bearer %'"]),
        ("basic-auth", "dXNlcjpwYXNzd29yZA==", ["Authorization: Basic %"]),
        ("connection-password", "p%40ss".replace("%40", "!"), ["postgresql://user:%@host/db", "redis://:%@127.0.0.1:6379/0"]),
        ("connection-password", "p@ss:w", ["amqps://user:%@host"]),
        ("azure-key", mixed(86) + "==", ["DefaultEndpointsProtocol=https;AccountName=a;AccountKey=%;X=y"]),
    ]
    for text in texts
]  # fmt: skip

ORDINARY = [
    "",
    "a",
    "The password must have at least 12 characters, and it is required.",
    "Forgot your password? Reset it here.",
    "password: required, secret: optional, token: none",
    "password=None, token=True, secret=false",
    "password=new_password; token = self.token; secret=config.secret",
    "connect(password=get_password(), token=os.environ['TOKEN'])",
    "password=${DB_PASSWORD} token=$TOKEN secret={{ secret }} key=<your-api-key>",
    "password: ******** (masked)",
    "password=[REDACTED password]",
    "max_tokens: 4096, total_tokens=123456789, token count 12",
    "password_hash and password_policy=strict, secret_name=prod-db",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 by Ada: keys of tokens",
    "9fceb02 sessions: the secret of a good token",
    str(uuid.UUID(int=0x550E8400E29B41D4A716446655440000)),
    hashlib.sha256(b"x").hexdigest(),
    "sha512-" + base64.b64encode(hashlib.sha512(b"x").digest()).decode(),
    "ISBN 978-3-16-148410-0, ISBN-13: 9780306406157, ISBN 0-306-40615-2",
    "+1 (415) 555-2671, 0049 30 901820, 415-555-2671, +44 20 7946 0958",
    "1700000000000000 1700000000000 20240131123456",
    "4111111111111112 and 4111 1111 1111 1112",
    "order 1234567890123456, tracking 9400 1000 0000 0000 0000 00",
    "0.4111111111111111 and -4111111111111111",
    "0000000000000000 4444444444444444",
    "GB82 WEST 1234 5698 7654 32 is an IBAN",
    "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 40).decode(),
    "https://example.com:8080/a@b?x=1#y, ssh://git@github.com/a/b, mailto:ada@example.com",
    "12:30:45 10.0.0.1:5432 [::1]:6379 a:b@c",
    "Bearer tokens are sent in a header; the bearer of this letter; Bearer authentication-mechanisms",
    "risk-free task-based sk-learn, npm_config_registry, hf_hub_download, key-value, xoxo",
    "SKU0123456789 SG.1 AIza AKIA ghp_ eyJ eyJhIjoxfQ",
    "if '-----BEGIN PRIVATE KEY-----' in text: ...",
    "-----BEGIN CERTIFICATE-----\n" + PEM_BODY + "\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\n" + PEM_BODY + "\n-----END PUBLIC KEY-----",
    "primary_key: 9fceb02d0ae598e95dc970b74767f19372d61af8, sort_key=abcdef0123456789abcdef",
    "compass=north by northwest, bypass: yes, passing = good",
    "2026-01-31T12:30:45.123456+00:00 vector [0.1, 0.2] x=1e-7",
    "/usr/lib/python3.11/site-packages/holdfast-1.0.dist-info/RECORD,sha256=uUyx0aPZ0Q",
    "The quick brown fox. " * 50,
    "密码 пароль كلمة السر 😀 \0 \ud800",
]


@pytest.mark.parametrize("case", [*MARKED, *NAMED], ids=lambda case: f"{case.kind}: {case.text[:24]}")
def test_a_secret_is_found_exactly_and_whatever_is_around_it(case: Case) -> None:
    for before, after in [("", ""), ("see ", " there"), ("(", ")"), ("x\n", "\ny"), ("😀 ", " 😀")]:
        text = before + case.text + after
        start = text.index(case.secret)
        assert find_secrets(text) == [FoundSecret(case.kind, start, start + len(case.secret))]
        assert redact(text) == text.replace(case.secret, f"[REDACTED {case.kind}]")
        assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("case", MARKED, ids=lambda case: f"{case.kind}: {case.text[:24]}")
def test_a_token_is_found_in_json_and_at_the_end_of_a_sentence(case: Case) -> None:
    for text in (f'{{"a": "{case.text}"}}', f"It is {case.text}, or so.", f"'{case.text}';", f"x={case.text}&y=1"):
        assert [text[each.start : each.end] for each in find_secrets(text)] == [case.secret]


@pytest.mark.parametrize("text", ORDINARY, ids=lambda text: text[:40])
def test_an_ordinary_text_holds_no_secret(text: str) -> None:
    assert find_secrets(text) == []
    assert redact(text) is text


def test_several_secrets_are_found_in_order_and_those_that_overlap_are_one() -> None:
    token = TOKENS["github-token"][0]
    text = f"token={token} password='{token} and more' postgresql://u:{token}@h"
    assert [(each.kind, text[each.start : each.end]) for each in find_secrets(text)] == [
        ("github-token", token),
        ("github-token", f"{token} and more"),
        ("github-token", token),
    ]


def test_a_private_key_that_was_cut_is_found_as_far_as_it_goes() -> None:
    text = f"a -----BEGIN PRIVATE KEY-----\n{PEM_BODY}"
    assert redact(text) == "a [REDACTED private-key]"
    two = f"{text}\n-----BEGIN RSA PRIVATE KEY-----\n{PEM_BODY}\n-----END RSA PRIVATE KEY----- b"
    assert redact(two) == "a [REDACTED private-key][REDACTED private-key] b"
    assert redact(text.replace("\n", "\\n") + '"}') == 'a [REDACTED private-key]"}'


def test_a_longer_value_goes_as_a_whole() -> None:
    for value in ("x1" * 300, "y" * 5000):
        assert redact(f"password={value} z") == "password=[REDACTED password] z"
        assert redact(f'password="{value}" z') == 'password="[REDACTED password]" z'


def test_nested_values_keep_their_shape_and_the_original_stays() -> None:
    token = TOKENS["npm-token"][0]
    value = {
        "password": "any thing at all",
        "userPassword": "x",
        "password_hash": "x",
        "api_key": mixed(20),
        "token": "12",
        "tokens": [mixed(20), "no"],
        "n": [1, 2.5, None, True, (f"a {token}", b"bytes"), {"deep": [{"secret": "s", "secrets": {"a": "b"}}]}],
        f"key {token}": 1,
        1: "one",
    }
    before = repr(value)
    assert redact(value) == {
        "password": "[REDACTED password]",
        "userPassword": "[REDACTED password]",
        "password_hash": "x",
        "api_key": "[REDACTED api-key]",
        "token": "12",
        "tokens": ["[REDACTED token]", "no"],
        "n": [
            1,
            2.5,
            None,
            True,
            ("a [REDACTED npm-token]", b"bytes"),
            {"deep": [{"secret": "[REDACTED secret]", "secrets": {"a": "b"}}]},
        ],
        "key [REDACTED npm-token]": 1,
        1: "one",
    }
    assert repr(value) == before
    assert redact(redact(value)) == redact(value)


def test_keys_that_become_the_same_stay_apart() -> None:
    one, two = (TOKENS["github-token"][number] for number in (0, 1))
    assert redact({one: 1, two: 2, "[REDACTED github-token] 2": 3}) == {
        "[REDACTED github-token]": 1,
        "[REDACTED github-token] 3": 2,
        "[REDACTED github-token] 2": 3,
    }


def test_a_value_without_secrets_is_the_same_object() -> None:
    class Pair(NamedTuple):
        one: str
        two: Any

    value = {"a": [1, ("b", {"c": Pair("d", [])})]}
    assert redact(value) is value
    assert redact(Pair("password=hunter2", value)) == Pair("password=[REDACTED password]", value)
    assert redact(7) == 7


def test_what_is_no_text_or_too_deep_is_refused() -> None:
    with pytest.raises(ValidationError, match="is a bytes, not a str"):
        find_secrets(b"x")  # type: ignore[arg-type]
    deep: Any = "x"
    for _ in range(201):
        deep = [deep]
    with pytest.raises(ValidationError, match="deeper than 200"):
        redact(deep)


HOSTILE = [
    "password=", "eyJ", "eyJaaaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "-----BEGIN RSA ", "-----END ", "a://b:c",
    "http://u:p", "4111 ", "4111-", "1", "ghp_a", "sk-a1-", "Bearer ", "bearer aaaa1", 'password="', "password='\"",
    "secret is ", "--token ", "SharedAccessKey=", "M.", "authorization: basic ", "password: a.b = ",
    "\\\"password\\\":", "-", "A_", "a1", "secret\n", "hooks.slack.com/services/", "pass:'", "password : x | None = ",
]  # fmt: skip


def seconds(text: str) -> float:
    begun = time.process_time()
    find_secrets(text)
    return time.process_time() - begun


def test_hostile_texts_take_time_in_proportion_to_their_length() -> None:
    length = 1_000_000 if os.environ.get("HOLDFAST_FAULTS") == "full" else 128_000
    slow = []
    for piece in HOSTILE:
        text = (piece * (length // len(piece) + 1))[:length]
        short, long = seconds(text[: length // 16]), seconds(text)
        # Sixteen times as long: a square would be 256 times the time. The floor keeps a noisy clock out of it.
        if long > max(64 * short, 1.0):
            slow.append((piece, short, long))
    assert slow == []


def test_a_megabyte_of_all_that_is_hostile_takes_a_moment() -> None:
    text = "".join((piece * 40_000)[:40_000] for piece in HOSTILE)
    assert len(text) > 1_000_000
    assert seconds(text) < 20
    assert seconds("".join(random.Random(3).choices(HOSTILE, k=100_000))) < 20


def test_random_texts_of_the_patterns_own_pieces_never_fail_and_come_back_redacted_for_good() -> None:
    pieces = [*HOSTILE, *(case.text for case in (*MARKED, *NAMED)), " ", "\n", '"', "'", "@", ".", "}", "a"]
    random_pieces = random.Random(11)
    for _ in range(300):
        text = "".join(random_pieces.choices(pieces, k=random_pieces.randint(1, 30)))
        found = find_secrets(text)
        assert all(0 <= each.start < each.end <= len(text) for each in found)
        assert all(one.end <= two.start for one, two in pairwise(found))
