"""The extras: what an adapter needs beside the dependencies, and what is said where that is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from persistence.errors import MissingExtraError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around the imports of an extra's packages: name the extra where one fails.

    Raises:
        MissingExtraError: a package is not installed, or hasn't what is imported of it.
    """
    try:
        yield
    except ImportError as exc:
        is_missing = isinstance(exc, ModuleNotFoundError)
        what = f"{exc.name} is not installed" if is_missing else f"a package of the extra {name} is too old: {exc}"
        raise MissingExtraError(what, hint=f'pip install "holdfast[{name}]"') from exc
