"""Connection URLs, also those whose password nobody percent-encoded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from persistence.errors import ConfigError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,39}")
_AUTHORITY = re.compile(r"(?:(?P<user>[^:]*)(?::(?P<password>.*))?@)?(?P<hosts>[^@/?#]*)", re.S)
_STANDARD = re.compile(r"(?P<authority>[^/?#]*)(?:/(?P<path>[^?@#]*))?(?:\?(?P<query>.*))?", re.S)
_GREEDY = re.compile(r"(?P<authority>.*@[^@/?#]*)(?:/(?P<path>[^?@]*))?(?:\?(?P<query>[^@]*))?", re.S)


@dataclass(frozen=True)
class Url:
    """The parts of a connection URL, decoded; ``hosts`` as it stands."""

    scheme: str
    user: str | None
    password: str | None
    hosts: str
    path: str
    options: dict[str, str]


def split_url(url: str, known: Iterable[str]) -> Url:
    """Split a connection URL; a password may hold ``@ : / # % [ ] { } ?`` and spaces, percent-encoded or not.

    A URL that RFC 3986 reads with known options only is read that way; otherwise what stands before the last ``@``
    is the user and password. A valid ``%XX`` is always decoded.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(
            "the URL has no scheme", hint="postgresql://user:password@host:5432/database, sqlite:///file.db"
        )
    match = _STANDARD.fullmatch(rest)
    options = _options(match["query"]) if match else None
    if match is None or options is None or not set(options) <= set(known):
        greedy = _GREEDY.fullmatch(rest)
        if greedy and (match is None or greedy["authority"] != match["authority"]):
            match, options = greedy, _options(greedy["query"])
    if match is None or options is None:
        raise ConfigError("the URL can't be read", hint="percent-encode special characters of the password")
    authority = _AUTHORITY.fullmatch(match["authority"])
    if authority is None:
        raise ConfigError("the URL can't be read", hint="percent-encode special characters of the password")
    return Url(
        scheme,
        unquote(authority["user"]) if authority["user"] else None,
        unquote(authority["password"]) if authority["password"] is not None else None,
        authority["hosts"],
        unquote(match["path"] or ""),
        options,
    )


def _options(query: str | None) -> dict[str, str] | None:
    if not query:
        return {}
    return query_options(query) if all("=" in part for part in query.split("&") if part) else None


def query_options(query: str) -> dict[str, str]:
    """Return the options after a URL's ``?``, decoded; a plus sign is one, as for libpq: only forms mean a space."""
    pairs = [part.partition("=") for part in query.split("&") if part]
    return {unquote(name): unquote(value) for name, _, value in pairs}


def unknown_scheme(scheme: str, known: Iterable[str], *, whose: str = "") -> ConfigError:
    """Return the error of a URL with another scheme than the known ones, and what to write for SQLAlchemy's forms.

    A scheme that is none is not shown: where it was left out, there may be a password before the ``://``.
    """
    schemes, base = tuple(known), scheme.lower().partition("+")[0]
    shown = f"{scheme}:// is no scheme" if _SCHEME.fullmatch(scheme) else "the URL begins with no scheme"
    way = f"write {base}://…; " if base in schemes and base != scheme else ""
    return ConfigError(f"{whose}{shown} that is known here", hint=f"{way}there are {', '.join(schemes)}")


def hosts_and_ports(hosts: str) -> tuple[str, list[str]]:
    """Return the hosts of a URL, separated by commas, and the ports that are given."""
    names, ports = [], []
    for entry in hosts.split(",") if hosts else []:
        match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", entry)
        if not match:
            raise ConfigError(f"the URL's host {entry!r} can't be read")
        names.append(unquote(match[1].strip("[]")))
        if match[2]:
            ports.append(match[2])
    return ",".join(names), ports


def host_and_port(entry: str, default: int) -> tuple[str, int]:
    """Return a host and its port, where the host may say its own: ``db1:5433``, ``[::1]:5433``; a path has none."""
    match = None if entry.startswith("/") else re.fullmatch(r"(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,6}))?", entry.strip())
    if match is None:
        return entry.strip(), default
    return match[1] or match[2] or "", int(match[3]) if match[3] else default
