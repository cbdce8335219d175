"""The classes that a user allows to be stored, each under a stable name, and how an instance becomes parts and back.

Only a registered class is ever stored or made, and stored bytes choose among the registered ones by name alone: nothing
is imported, and no constructor runs. An instance is made as ``copy`` and ``pickle`` make one, without ``__init__`` and
``__post_init__``, so that it comes back as it was; whoever needs them gives ``from_state``.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, Flag
from typing import Any, Literal

from checkpoint.codecs import extension, pairs, type_name, unpair
from persistence.errors import CorruptError, DuplicateError, ValidationError

FIELDS = extension(80)
STATE = extension(81)
BASE = extension(82)
MEMBER = extension(83)
MODEL = extension(84)
TAGS = frozenset(tag.code for tag in (FIELDS, STATE, BASE, MEMBER, MODEL))

Shape = Literal["enum", "dataclass", "namedtuple", "model", "builtin", "opaque"]
_BY_STATE = "give to_state= and from_state="

# How the plain value inside an instance of a subclass is read, past whatever the subclass overrides.
_PLAIN: dict[type, Callable[[Any], Any]] = {
    dict: lambda value: dict(dict.items(value)),
    list: list.copy,
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    tuple: lambda value: tuple.__getitem__(value, slice(None)),
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    int: int.__int__,
    float: float.__float__,
}
_FILL: dict[type, Callable[[Any, Any], Any]] = {dict: dict.update, list: list.extend, set: set.update}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Registered:
    """A class of the allow-list."""

    cls: Any
    name: str
    shape: Shape
    base: type | None
    fields: tuple[str, ...]
    names: frozenset[str]
    to_state: Callable[[Any], Any] | None
    from_state: Callable[[Any], Any] | None

    def dump(self, value: Any) -> list[Any]:
        """Return an instance as a tagged list.

        Raises:
            ValidationError: it has something that its parts don't hold, or its ``to_state`` failed.
        """
        if self.to_state is not None:
            try:
                return [STATE, self.name, self.to_state(value)]
            except Exception as exc:
                raise ValidationError(f"is a {self.name}, whose to_state raised {type(exc).__name__}") from exc
        if self.shape == "enum":
            return [MEMBER, self.name, value.value if isinstance(value, Flag) else value.name]
        if self.shape == "model":
            return [MODEL, self.name, *self._model_parts(value)]
        self._refuse_extras(value)
        if self.base is not None and self.shape == "builtin":
            return [BASE, self.name, _PLAIN[self.base](value)]
        if self.shape == "namedtuple":
            return [FIELDS, self.name, *pairs(zip(self.fields, tuple.__iter__(value), strict=True))]
        try:
            return [FIELDS, self.name, *pairs((name, getattr(value, name)) for name in self.fields)]
        except AttributeError:
            missing = next(name for name in self.fields if not hasattr(value, name))
            raise ValidationError(f"is a {self.name} without a value for {missing!r}") from None

    def _refuse_extras(self, value: Any) -> None:
        own = getattr(value, "__dict__", None)
        if not own:
            return
        for name in own.keys() - self.names if self.shape == "dataclass" else own:
            # What a cached property computed is computed again.
            if not isinstance(getattr(self.cls, name, None), functools.cached_property):
                raise ValidationError(
                    f"is a {self.name} with the attribute {name!r}, which would be lost", hint=_BY_STATE
                )

    def _model_parts(self, value: Any) -> list[Any]:
        own = value.__dict__
        touched = value.__pydantic_fields_set__
        order = [name for name in self.cls.__pydantic_fields__ if name in touched]
        order += sorted(touched.difference(order))
        private = value.__pydantic_private__
        if private is not None:
            undefined = sys.modules["pydantic_core"].PydanticUndefined
            private = {name: part for name, part in private.items() if part is not undefined}
        fields = [(name, own[name]) for name in self.cls.__pydantic_fields__ if name in own]
        return [order, value.__pydantic_extra__, private, *pairs(fields)]

    def load(self, items: list[Any]) -> Any:
        """Return the instance that a tagged list holds.

        Raises:
            CorruptError: the class no longer fits what is stored.
        """
        tag = items[0].code
        if tag == STATE.code:
            _, _, state = items
            return self._restore(state) if self.from_state else self._fill(state)
        if tag == FIELDS.code:
            state = unpair(items, 2)
            return self._restore(state) if self.from_state else self._fill(state)
        if tag == MODEL.code:
            _, _, touched, extra, private = items[:5]
            state = unpair(items, 5)
            if self.from_state:
                return self._restore(state | extra if extra else state)
            return self._fill_model(state, set(touched), extra, private) if self.shape == "model" else self._fill(state)
        _, _, state = items
        if self.from_state:
            return self._restore(state)
        if tag == MEMBER.code and self.shape == "enum":
            return self._member(state)
        if tag == BASE.code and self.base is not None and type(state) is self.base:
            return self._of_base(state)
        raise self._changed()

    def _restore(self, state: Any) -> Any:
        if self.from_state is None:
            raise self._changed()
        try:
            return self.from_state(state)
        except Exception as exc:
            raise CorruptError(f"from_state of {self.name} raised {type(exc).__name__} for a stored state") from exc

    def _fill(self, state: Any) -> Any:
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise self._changed()
        if self.shape == "model":
            return self._fill_model(state, set(state), None, None)
        if self.shape == "namedtuple":
            self._complete(state, self.cls._field_defaults.__getitem__)
            return tuple.__new__(self.cls, [state[name] for name in self.fields])
        if self.shape != "dataclass":
            raise self._changed()
        self._complete(state, functools.partial(_dataclass_default, self.cls))
        value = object.__new__(self.cls)
        for name in self.fields:
            object.__setattr__(value, name, state[name])
        return value

    def _complete(self, state: dict[str, Any], default: Callable[[str], Any]) -> None:
        """Add what is missing, by its default; refuse what the class doesn't have."""
        if state.keys() == self.names:
            return
        unknown = sorted(state.keys() - self.names)
        if unknown:
            raise CorruptError(
                f"a stored {self.name} has {', '.join(map(repr, unknown))}, which the class no longer has",
                hint="give from_state= to register(): it gets the stored fields as a dict",
            )
        for name in self.fields:
            if name not in state:
                try:
                    state[name] = default(name)
                except LookupError:
                    raise CorruptError(
                        f"a stored {self.name} has no {name!r}, and the class has no default for it",
                        hint="give the field a default, or from_state= to register()",
                    ) from None

    def _fill_model(self, state: dict[str, Any], touched: set[str], extra: Any, private: Any) -> Any:
        infos = self.cls.__pydantic_fields__

        def default(name: str) -> Any:
            if infos[name].is_required():
                raise LookupError(name)
            # Since 2.10 a factory may ask for the fields before it.
            data = (
                {"validated_data": state} if getattr(infos[name], "default_factory_takes_validated_data", False) else {}
            )
            return infos[name].get_default(call_default_factory=True, **data)

        self._complete(state, default)
        value = object.__new__(self.cls)
        own = {name: state[name] for name in self.fields}
        for slot, part in (
            ("__dict__", own),
            ("__pydantic_fields_set__", touched),
            ("__pydantic_extra__", extra),
            ("__pydantic_private__", private),
        ):
            object.__setattr__(value, slot, part)
        return value

    def _member(self, state: Any) -> Any:
        try:
            if issubclass(self.cls, Flag):
                member = self.cls(state)
                if member.value != state:  # before Python 3.11.4 bits without a member were dropped silently
                    raise ValueError
                return member
            return self.cls.__members__[state]
        except (LookupError, TypeError, ValueError):
            raise CorruptError(
                f"{self.name} has no member {str(state)[:80]!r}, which is stored",
                hint="keep the member, or give from_state= to register()",
            ) from None

    def _of_base(self, state: Any) -> Any:
        base: Any = self.base
        fill = _FILL.get(base)
        if fill is None:
            return base.__new__(self.cls, state)
        value = base.__new__(self.cls)
        fill(value, state)
        return value

    def _changed(self) -> CorruptError:
        return CorruptError(
            f"{self.name} was stored as another kind of class than it is now", hint="give from_state= to register()"
        )


def _dataclass_default(cls: Any, name: str) -> Any:
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        raise LookupError(name)
    return field.default


class Registry:
    """The allow-list: classes by type for saving, by name for loading."""

    def __init__(self) -> None:
        self.by_type: dict[type, Registered] = {}
        self.by_name: dict[str, Registered] = {}

    def add(
        self,
        cls: type,
        name: str | None,
        aliases: Iterable[str],
        to_state: Callable[[Any], Any] | None,
        from_state: Callable[[Any], Any] | None,
    ) -> None:
        """Allow a class; see ``Serializer.register``."""
        name = type_name(cls) if name is None else name
        aliases = (aliases,) if isinstance(aliases, str) else tuple(aliases)
        for text in (name, *aliases):
            if not 1 <= len(text) <= 1024:
                raise ValidationError("a registered name is a text of 1 to 1,024 characters")
            taken = self.by_name.get(text)
            # A module loaded anew, or a notebook's cell run again, defines the same class once more.
            if taken is not None and taken.cls is not cls and type_name(taken.cls) != type_name(cls):
                raise DuplicateError(
                    f"the name {text!r} is registered for {type_name(taken.cls)}", hint="give name= a name of its own"
                )
        shape, base, fields = _shape(cls, opaque=to_state is not None)
        entry = Registered(
            cls=cls, name=name, shape=shape, base=base, fields=fields, names=frozenset(fields),
            to_state=to_state, from_state=from_state,
        )  # fmt: skip
        if shape == "opaque" and from_state is None:
            raise ValidationError(f"{type_name(cls)} can't be made from its state", hint="give from_state= too")
        for text in (name, *aliases):
            taken = self.by_name.get(text)
            if taken is not None and taken.cls is not cls:
                self.by_type.pop(taken.cls, None)
            self.by_name[text] = entry
        self.by_type[cls] = entry

    def load(self, items: list[Any]) -> Any:
        """Return the instance that a tagged list holds.

        Raises:
            CorruptError: its class isn't registered, or no longer fits.
        """
        return self.named(items[1]).load(items)

    def named(self, name: Any) -> Registered:
        """Return the entry of a stored name.

        Raises:
            CorruptError: none has that name.
        """
        entry = self.by_name.get(name) if type(name) is str else None
        if entry is None:
            raise CorruptError(
                f"a stored value is a {str(name)[:200]}, which isn't registered here",
                hint="register() the class under this name before loading; the bytes may well be sound",
            )
        return entry


def _shape(cls: type, *, opaque: bool) -> tuple[Shape, type | None, tuple[str, ...]]:
    """Return how a class's instances are taken apart, its builtin base, and its fields."""
    if issubclass(cls, Enum):
        return "enum", None, ()
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(cls, getattr(pydantic, "BaseModel", ())):
        return "model", None, tuple(getattr(cls, "__pydantic_fields__", ()))
    bases = [base for base in cls.__mro__ if base in _PLAIN]
    if cls not in _PLAIN and dataclasses.is_dataclass(cls) and not bases and _is_plain_object(cls):
        return "dataclass", None, tuple(field.name for field in dataclasses.fields(cls))
    names = getattr(cls, "_fields", None)
    if bases and bases[0] is tuple and isinstance(names, tuple):
        return "namedtuple", tuple, names
    if (
        bases
        and cls not in _PLAIN
        and not issubclass(cls, (OrderedDict, defaultdict, bool))
        and not dataclasses.is_dataclass(cls)
        and not any(base.__dict__.get("__slots__") for base in cls.__mro__)
    ):
        return "builtin", bases[0], ()
    if opaque:
        return "opaque", None, ()
    raise ValidationError(
        f"{type_name(cls)} is neither a concrete dataclass, a pydantic model, an enum, a named tuple "
        "nor a plain subclass of a builtin type",
        hint=_BY_STATE,
    )


def _is_plain_object(cls: type) -> bool:
    """Return whether an instance can be made without its own ``__new__``: neither abstract nor of a C base."""
    try:
        object.__new__(cls)
    except TypeError:
        return False
    return True
