"""The pydantic model of a golden file, apart from the others because pydantic is no dependency."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pydantic

from tests.golden.serializer_v1.values import NOON, Role


class Item(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    at: datetime = NOON
    tags: tuple[str, ...] = ()
    child: Any = None
    _hidden: int = pydantic.PrivateAttr(default=7)
    _unset: int = pydantic.PrivateAttr()

    @pydantic.field_validator("name")
    @classmethod
    def louder(cls, value: str) -> str:
        return f"{value}!"


ITEM = Item(name="a", extra=(1, {2}), child=Item(name="b", child=Role.USER))
ITEM._hidden = 8
