"""What the settings of every connection share: checking, a URL, the environment, a repr without secrets."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from persistence.errors import ConfigError
from persistence.fields import converters
from persistence.urls import Url, split_url, unknown_scheme


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every connection's settings share: checking, reading from a URL or the environment, a safe repr."""

    schemes: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        problems = []
        for name, (convert, optional) in converters(type(self)).items():
            value = getattr(self, name)
            if value is None and optional:
                continue
            try:
                object.__setattr__(self, name, convert(value))
            except ValueError as exc:
                shown = "" if "password" in name else f" {value!r}"
                problems.append(f"{name}{shown} {exc}")
        for name in ("slow_threshold", "leak_after"):
            limit = getattr(self, name, None)
            if not problems and limit is not None and limit <= 0:
                problems.append(f"{name} {limit} is not above 0")
        waiting = getattr(self, "max_waiting", None)
        if not problems and waiting is not None and waiting < 0:
            problems.append(f"max_waiting {waiting} is below 0")
        if not problems:
            problems.extend(self._problems())
        if problems:
            raise ConfigError(f"{type(self).__name__}: {'; '.join(problems)}", problems=tuple(problems))

    def _problems(self) -> Iterable[str]:
        """Yield what is wrong between fields that are each of the right type."""
        return ()

    @classmethod
    def _from_options(cls, options: Mapping[str, Any], source: str) -> Self:
        known = [item.name for item in dataclasses.fields(cls)]
        given: dict[str, Any] = {}
        problems = []
        for key, value in options.items():
            name = cls.aliases.get(key, key)
            if name in known:
                given[name] = value
            else:
                close = difflib.get_close_matches(key, [*known, *cls.aliases], n=1)
                problems.append(f"unknown option {key!r}" + (f", did you mean {close[0]!r}?" if close else ""))
        if problems:
            raise ConfigError(f"{cls.__name__} from {source}: {'; '.join(problems)}", problems=tuple(problems))
        return cls(**given)

    @classmethod
    def from_url(cls, url: str, **overrides: Any) -> Self:
        """Read a URL; its query holds further options by field name; keyword arguments win over it."""
        names = [item.name for item in dataclasses.fields(cls)]
        parts = split_url(url, [*names, *cls.aliases])
        if parts.scheme not in cls.schemes:
            raise unknown_scheme(parts.scheme, cls.schemes, whose=f"{cls.__name__}: ")
        return cls._from_options({**cls._from_parts(parts), **parts.options, **overrides}, "a URL")

    @classmethod
    def _from_parts(cls, parts: Url) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_env(cls, prefix: str | None = None, *, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read variables ``<prefix><FIELD>`` (or ``<prefix>URL``, which the others then refine).

        The prefix defaults to the class's own, such as ``POSTGRESQL_``. ``NAME`` and ``USER`` stand for the database
        and the user name. A variable with the prefix that names no field is an error.
        """
        prefix = prefix if prefix is not None else cls.__name__.removesuffix("Config").upper() + "_"
        if not prefix:
            raise ConfigError("from_env needs a prefix", hint="for example 'DB_' for DB_HOST, DB_NAME, DB_USER")
        source = os.environ if environ is None else environ
        found = {k.removeprefix(prefix).lower(): v for k, v in source.items() if k.startswith(prefix)}
        url = found.pop("url", None)
        options = {cls.aliases.get(key, key): value for key, value in found.items()}
        if url is not None:
            return cls.from_url(url, **options, **overrides)
        return cls._from_options({**options, **overrides}, f"the environment ({prefix}…)")
