"""Why a value can't be stored: after packing failed, find the culprit and name its path and the way out."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

from checkpoint import codecs
from checkpoint.packing import ATOMS, Packing
from checkpoint.registry import BASE, FIELDS, MODEL, STATE, Registry
from persistence.errors import ValidationError

MAX_DEPTH = 1024


def explain(value: Any, where: str, registry: Registry, failure: Exception) -> ValidationError:
    """Return the error for a value that could not be packed: find the culprit, depth first, and name its path."""
    packing = Packing(registry)
    # One iterator a level: the path is what they have yielded, and an object met again on it contains itself.
    names: list[str] = [where]
    path: list[Any] = [value]
    iterators: list[Iterator[tuple[str, Any]]] = []
    try:
        iterators.append(_children(value, packing))
        while iterators:
            step = next(iterators[-1], None)
            if step is None:
                iterators.pop()
                path.pop()
                names.pop()
                continue
            name, child = step
            names.append(name)
            path.append(child)
            if len(path) > MAX_DEPTH:
                raise ValidationError("lies deeper than 1,000 levels", hint="flatten it")
            if type(child) not in ATOMS and any(child is parent for parent in path[:-1]):
                raise ValidationError("contains itself", hint="store a reference by name instead")
            iterators.append(_children(child, packing))
    except ValidationError as exc:
        return ValidationError(f"{_path(names)} {exc.message}", hint=exc.hint)
    except Exception as exc:
        return ValidationError(f"{_path(names)} raised {type(exc).__name__} while it was stored")
    if isinstance(failure, ValueError) and "recursion" in str(failure):
        return ValidationError(f"{where} is nested deeper than 1,000 levels", hint="flatten it")
    return ValidationError(f"{where} can't be stored: {type(failure).__name__} while packing it")


def _path(names: list[str]) -> str:
    if len(names) > 12:
        names = [*names[:6], f"…({len(names) - 11} levels)…", *names[-5:]]
    return "".join(names)


def _children(value: Any, packing: Packing) -> Iterator[tuple[str, Any]]:
    """Return an iterator over what a value holds, each with its part of the path.

    Raises:
        ValidationError: the value itself can't be stored.
    """
    kind = type(value)
    if kind in ATOMS or kind is bytearray:
        return iter(())
    if kind is list:
        return ((f"[{index}]", item) for index, item in enumerate(value))
    if kind is dict:
        return _entries(value)
    scalar = codecs.SCALAR_DUMPS.get(kind)
    if scalar is not None:
        scalar(value)
        return iter(())
    items = packing.open(value, kind)
    if kind in (tuple, deque):
        return ((f"[{index}]", item) for index, item in enumerate(value))
    if kind in (OrderedDict, Counter, defaultdict):
        return _entries(value)
    tag = items[0]
    if tag in (FIELDS, MODEL):
        start = 2 if tag == FIELDS else 5
        named = [*(items[3] or {}).items(), *(items[4] or {}).items()] if tag == MODEL else []
        named += codecs.unpair(items, start).items()
        return ((f".{name}", item) for name, item in named)
    if tag == STATE:
        return iter((("<to_state>", items[2]),))
    if tag == BASE:
        return _children(items[2], packing)
    if kind in (set, frozenset):
        return (("{…}", item) for item in value)
    return iter(())


def _entries(mapping: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in mapping.items():
        if type(key) not in ATOMS:
            yield f" key {_shown(key)}", key
        yield f"[{_shown(key)}]", item


def _shown(key: Any) -> str:
    if type(key) not in ATOMS:
        return f"<{type(key).__name__}>"
    text = (
        repr(key[:61] if isinstance(key, str | bytes) else key) if type(key) is not int or abs(key) < 10**30 else "int"
    )
    return text if len(text) <= 60 else f"{text[:59]}…"
