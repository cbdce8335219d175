"""The marks by which secrets are known: the tokens of providers, and what else has a form of its own.

A provider's token is known by the prefix and the length that the provider documents, and a card number by its issuer's
digits, its length and its checksum (ISO/IEC 7812-1, annex B). Each pattern either begins where a run of its own
characters does, so that a run is read once, or is bounded: the time is in proportion to the text, whatever it is.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

_RANDOM_LENGTH = 16
_RANDOM_BITS = 3.0
_DIGIT, _LETTER, _OTHER = re.compile("[0-9]"), re.compile("[A-Za-z]"), re.compile("[^A-Za-z0-9+/=_.~:-]")


class Pattern(NamedTuple):
    """A pattern whose first group, or all of it, is a secret; one of ``marks`` is in every text that it is in."""

    kind: str
    marks: tuple[str, ...]
    pattern: re.Pattern[str]
    check: Callable[[str], bool] | None = None


_MASK = re.compile(
    r"[*.x•_?-]{3,} | \$\{?\w.* | %\(?\w.*\)?s? | \{{1,2}\s?[\w.]*\s?\}{0,2} | \{secret\\*:[0-9a-f]{32}:[a-z0-9-]+\}?"
    r"| \[redacted.* | <.*>",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)


def is_masked(value: str) -> bool:
    """Tell whether a value stands for another: stars, a variable of a template, a reference, or what was redacted."""
    return len(value) <= 512 and _MASK.fullmatch(value) is not None


def _token(kind: str, marks: str, rest: str, check: Callable[[str], bool] | None = None) -> Pattern:
    """Return the pattern of a provider's token: one of the marks, then the rest, alone among letters and digits."""
    words = tuple(marks.split())
    begin = "|".join(map(re.escape, words))
    return Pattern(
        kind, words, re.compile(rf"(?<![A-Za-z0-9_-])(?:{begin})(?:{rest})(?![A-Za-z0-9_])", re.ASCII), check
    )


def _has_digit(text: str) -> bool:
    return _DIGIT.search(text) is not None


def is_random(text: str) -> bool:
    """Tell whether a text is long and mixed enough to be a key, and no word, path, number or sentence."""
    if len(text) < _RANDOM_LENGTH or not _has_digit(text) or not _LETTER.search(text) or _OTHER.search(text):
        return False
    size = len(text)
    return -sum(n / size * math.log2(n / size) for n in Counter(text).values()) >= _RANDOM_BITS


_WORD = "[A-Za-z0-9_-]"
TOKENS = (
    _token("anthropic-key", "sk-ant-", rf"[a-z]{{3,8}}\d\d-{_WORD}{{32,256}}"),
    _token("openai-key", "sk-proj- sk-svcacct- sk-admin-", rf"{_WORD}{{20,256}}", _has_digit),
    _token("openrouter-key", "sk-or-v1-", "[0-9a-f]{64}"),
    _token("openai-key", "sk-", "[A-Za-z0-9]{32,64}", _has_digit),
    _token("aws-key", "AKIA ASIA", "[A-Z2-7]{16}"),
    _token("github-token", "ghp_ gho_ ghu_ ghs_ ghr_", "[A-Za-z0-9]{36,255}"),
    _token("github-token", "github_pat_", "[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _token("gitlab-token", "glpat- gldt- glrt- glptt- glft- glimt- glagent- gloas- glsoat-", rf"{_WORD}{{20,255}}"),
    _token("slack-token", "xoxa- xoxb- xoxe- xoxp- xoxr- xoxs-", "[A-Za-z0-9-]{10,250}", _has_digit),
    _token("slack-token", "xapp-", r"\d-[A-Z0-9]{8,20}-\d{8,20}-[a-z0-9]{32,128}"),
    _token("stripe-key", "sk_live_ sk_test_ rk_live_ rk_test_", "[A-Za-z0-9]{16,247}"),
    _token("stripe-key", "whsec_", "[A-Za-z0-9+/]{32,64}={0,2}"),
    _token("google-key", "AIza", rf"{_WORD}{{35}}"),
    _token("google-key", "GOCSPX-", rf"{_WORD}{{28}}"),
    _token("google-key", "ya29.", rf"{_WORD}{{32,2048}}"),
    _token("twilio-key", "SK", "[0-9a-f]{32}"),
    _token("sendgrid-key", "SG.", rf"{_WORD}{{22}}\.{_WORD}{{43}}"),
    _token("mailgun-key", "key-", "[0-9a-f]{32}"),
    _token("npm-token", "npm_", "[A-Za-z0-9]{36}"),
    _token("pypi-token", "pypi-AgE", rf"{_WORD}{{50,1024}}"),
    _token("rubygems-key", "rubygems_", "[0-9a-f]{48}"),
    _token("hugging-face-token", "hf_", "[A-Za-z0-9]{34,40}"),
    _token("digitalocean-token", "dop_v1_ doo_v1_ dor_v1_", "[0-9a-f]{64}"),
    _token("shopify-token", "shpat_ shpca_ shppa_ shpss_", "[0-9a-fA-F]{32}"),
    _token("square-token", "sq0atp- sq0csp-", rf"{_WORD}{{22,43}}"),
    _token("databricks-token", "dapi", "[0-9a-f]{32}(?:-[0-9])?"),
    _token("grafana-token", "glsa_", "[A-Za-z0-9]{32}_[0-9a-fA-F]{8}"),
    _token("vault-token", "hvs. hvb.", rf"{_WORD}{{24,256}}"),
    _token("docker-token", "dckr_pat_", rf"{_WORD}{{27}}"),
    _token("postman-key", "PMAK-", "[0-9a-f]{24}-[0-9a-f]{34}"),
    _token("groq-key", "gsk_", "[A-Za-z0-9]{48,56}"),
    _token("replicate-token", "r8_", "[A-Za-z0-9]{37}"),
    _token("perplexity-key", "pplx-", "[A-Za-z0-9]{40,64}"),
    _token("xai-key", "xai-", "[A-Za-z0-9]{70,90}"),
    _token("supabase-key", "sbp_", "[0-9a-f]{40}"),
    _token("supabase-key", "sb_secret_", rf"{_WORD}{{20,64}}"),
    _token("linear-key", "lin_api_", "[A-Za-z0-9]{40}"),
    _token("notion-key", "ntn_ secret_", "[A-Za-z0-9]{43,50}", _has_digit),
    _token("atlassian-token", "ATATT3", "[A-Za-z0-9_=-]{100,250}"),
    _token("langsmith-key", "lsv2_pt_ lsv2_sk_", "[0-9a-f]{32}_[0-9a-f]{10}"),
    _token("tailscale-key", "tskey-", r"[a-z]{3,12}-[A-Za-z0-9]{8,24}-[A-Za-z0-9]{16,64}"),
    _token("new-relic-key", "NRAK-", "[A-Z0-9]{27}"),
    _token("doppler-token", "dp.pt.", "[A-Za-z0-9]{40,44}"),
    _token("pulumi-token", "pul-", "[0-9a-f]{40}"),
    _token("age-key", "AGE-SECRET-KEY-1", "[0-9A-Z]{58}"),
)


def _is_card(text: str) -> bool:
    """Tell whether digits, in groups or not, are a number that an issuer may have given: range, length, checksum."""
    digits = text.replace(" ", "").replace("-", "")
    if not any(low <= digits[: len(low)] <= high and len(digits) in lengths for low, high, lengths in _ISSUERS):
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


_ISSUERS = (
    ("4", "4", (13, 16, 19)),
    ("51", "55", (16,)),
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),
    ("37", "37", (15,)),
    ("6011", "6011", (16, 17, 18, 19)),
    ("644", "659", (16, 17, 18, 19)),
    ("3528", "3589", (16, 17, 18, 19)),
    ("300", "305", (14,)),
    ("36", "36", (14,)),
    ("38", "39", (14,)),
    ("62", "62", (16, 17, 18, 19)),
)

OTHERS = (
    Pattern(
        "connection-password",
        ("://",),
        # The text before the last @ that a host may follow, since a password that wasn't escaped may hold one.
        re.compile(
            r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s:/?#@'\"<>]{0,256}:([^\s/?#'\"<>]{1,256})@(?=[\w\[.%-])"
        ),
        lambda value: not is_masked(value),
    ),
    Pattern(
        "slack-webhook",
        ("hooks.slack.com/",),
        re.compile(r"hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9/_-]{20,256})"),
    ),
    Pattern("telegram-token", (":AA",), re.compile(r"(?<![\w:])\d{8,10}:AA[A-Za-z0-9_-]{33}(?![\w-])", re.ASCII)),
    Pattern(
        "discord-token",
        (".",),
        re.compile(r"(?<![\w.-])[MNO][A-Za-z\d_-]{23,25}\.[A-Za-z\d_-]{6}\.[A-Za-z\d_-]{27,38}(?![\w.-])", re.ASCII),
    ),
    Pattern(
        "terraform-token",
        (".atlasv1.",),
        re.compile(r"(?<![\w-])[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,70}(?![\w-])"),
    ),
    Pattern("azure-key", ("AccountKey=", "SharedAccessKey="), re.compile(r"Key=([A-Za-z0-9+/]{43,88}={1,2})")),
    Pattern(
        "jwt",
        ("eyJ",),
        re.compile(
            r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,8192}+\.[A-Za-z0-9_-]{2,8192}+\.[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]++){0,2}"
        ),
    ),
    Pattern(
        "bearer-token",
        ("earer ", "EARER "),
        re.compile(r"(?<![A-Za-z])[Bb](?:earer|EARER) {1,4}([A-Za-z0-9._~+/-]{16,8192}+={0,2})"),
        is_random,
    ),
    Pattern(
        "basic-auth",
        ("asic ", "ASIC "),
        re.compile(
            r"(?i:authorization)[\"']?\s{0,4}[:=]\s{0,4}[\"']?[Bb](?:asic|ASIC) {1,4}([A-Za-z0-9+/]{8,1024}+={0,2})"
        ),
    ),
    Pattern(
        "card-number",
        (),
        re.compile(
            r"(?<![\w.-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5})"
            r"(?![\w-]|\.\d)",
            re.ASCII,
        ),
        _is_card,
    ),
)
