"""Reading what LangGraph's serializer wrote without loss.

Of an object whose class it can't import, or may not, it gives back the fields as if they had been the value, and says
so in a log at most. What is copied elsewhere has to be what was saved: such a value is refused here.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from persistence.errors import ValidationError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

_OF_CLASSES = range(6)
"""The extensions that hold ``(module, name, arguments, …)``."""
_SNAPSHOT = 7
"""The extension that holds a value of its own."""
_PLAIN = (dict, list, tuple, str, bytes, bool, int, float, type(None))


@contextmanager
def whole_values(saver: BaseCheckpointSaver[Any]) -> Iterator[None]:
    """Have a saver of LangGraph's refuse, meanwhile, what it would give back as something else.

    Raises:
        ValidationError: where a value is read whose class can't be made here.
    """
    usual = saver.serde
    saver.serde = _strict(usual)
    try:
        yield
    finally:
        saver.serde = usual


def _strict(serde: Any) -> Any:
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    if isinstance(serde, EncryptedSerializer):
        within = copy.copy(serde)
        within.serde = _strict(serde.serde)
        return within
    if isinstance(serde, JsonPlusSerializer) and not getattr(serde, "_custom_unpack_ext_hook", False):
        return _WholeValues(serde)
    return serde  # what is the user's own is the user's to check


class _WholeValues:
    """LangGraph's serializer, but that it refuses a value of which it would give back the fields."""

    def __init__(self, serde: Any) -> None:
        self._serde = serde
        self.dumps_typed = serde.dumps_typed

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Return the value.

        Raises:
            ValidationError: a class in it can't be made here.
        """
        kind, content = data
        lost: list[str] = []  # what a hook raises, the one who calls it would hide
        if kind == "msgpack":
            self._look(lost, content)
        elif kind == "json":
            json.loads(content, object_hook=partial(self._look_at_object, lost))
        if lost:
            module, _, name = lost[0].rpartition(".")
            raise ValidationError(
                f"a value of {module}.{name} can't be made here: LangGraph's serializer gives back its fields alone",
                hint=f"import where the class can be imported (the command: --class {module}:{name}), and allow it to "
                "LangGraph's serializer where that is strict (LANGGRAPH_STRICT_MSGPACK)",
                operation="import_langgraph",
            )
        return self._serde.loads_typed(data)

    def _look(self, lost: list[str], content: bytes) -> Any:
        import ormsgpack

        hook = partial(self._look_at_extension, lost)
        return ormsgpack.unpackb(content, ext_hook=hook, option=ormsgpack.OPT_NON_STR_KEYS)

    def _look_at_extension(self, lost: list[str], code: int, content: bytes) -> None:
        import ormsgpack

        if code == _SNAPSHOT:
            self._look(lost, content)
        elif code in _OF_CLASSES:
            module, name, *_ = self._look(lost, content)
            made = self._serde.loads_typed(("msgpack", ormsgpack.packb(ormsgpack.Ext(code, content))))
            if not _is_made(module, name, made):
                lost.append(f"{module}.{name}")

    def _look_at_object(self, lost: list[str], value: dict[str, Any]) -> dict[str, Any]:
        """Look at an object of the JSON that LangGraph wrote before version 0.2."""
        if value.get("lc") == 2 and value.get("type") == "constructor" and value.get("id"):
            *path, name = value["id"]
            module = ".".join(path)
            cls = _named(module, name)
            was_read = not (isinstance(cls, type) and issubclass(cls, BaseException))  # exceptions never were
            if was_read and not _is_made(module, name, self._serde.loads_typed(("json", json.dumps(value).encode()))):
                lost.append(f"{module}.{name}")
        return value


def _named(module: str, name: str) -> Any:
    """Return what LangGraph found under a name, None if it couldn't: nothing is imported here."""
    return getattr(sys.modules.get(module), name, None)


def _is_made(module: str, name: str, made: object) -> bool:
    """Tell whether a value is what was saved, and not its fields."""
    found = _named(module, name)
    if isinstance(found, type):
        return isinstance(made, found)
    return found is not None and not isinstance(made, _PLAIN)
