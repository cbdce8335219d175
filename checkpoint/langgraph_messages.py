"""How a LangChain message becomes stored parts: its fields as they lie, because a conversation is serialized whole.

To see what of a list of messages is new, each step serializes every one of them, so this is what a save of a long
conversation costs. Handing out the fields in one piece takes half the time of what any pydantic model goes through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from checkpoint.serializer import Serializer


def register_model(serializer: Serializer, cls: Any) -> None:
    """Allow a pydantic model without private attributes, stored as its fields, the names of those given, its extras."""
    serializer.register(cls, None, _parts_of(cls), _maker_of(cls))


def _parts_of(cls: Any) -> Callable[[Any], list[Any]]:
    fields = frozenset(cls.__pydantic_fields__)

    def parts(model: Any) -> list[Any]:
        own = model.__dict__
        if own.keys() != fields:
            # What a cached property computed is computed again.
            own = {name: value for name, value in own.items() if name in fields}
        extra = model.__pydantic_extra__
        touched = sorted(model.__pydantic_fields_set__)
        return [own, touched, extra] if extra else [own, touched]

    return parts


def _maker_of(cls: Any) -> Callable[[list[Any]], Any]:
    fields = cls.__pydantic_fields__
    keeps_extras = cls.model_config.get("extra") == "allow"

    def make(stored: list[Any]) -> Any:
        own, touched, *rest = stored
        extra = rest[0] if rest else {}
        if own.keys() != fields.keys():
            # Stored by another release: what it had not gets its default, what is gone is kept as an extra.
            extra = {**extra, **{name: own.pop(name) for name in list(own) if name not in fields}}
            missing = [name for name in fields if name not in own]
            own |= {name: fields[name].get_default(call_default_factory=True) for name in missing}
        model = object.__new__(cls)
        object.__setattr__(model, "__dict__", own)
        object.__setattr__(model, "__pydantic_fields_set__", set(touched))
        object.__setattr__(model, "__pydantic_extra__", extra if keeps_extras else None)
        object.__setattr__(model, "__pydantic_private__", None)
        return model

    return make
