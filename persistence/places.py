"""Where in a program something was taken: kept as two references, and read only when it is to be shown."""

from __future__ import annotations

import contextlib
import os
import sys
from types import CodeType

import redis

Place = tuple[CodeType, int]
"""A function's code, and where in it the call is."""

_BESIDE = os.path.dirname(os.path.dirname(__file__))
_PASSED_OVER = (
    *(os.path.join(_BESIDE, package, "") for package in ("persistence", "checkpoint", "vectorstore", "sessions")),
    os.path.dirname(redis.__file__) + os.sep,
    contextlib.__file__,
)
"""What stands between a program and a connection."""


def calling_place() -> Place:
    """Return where the program called, outside holdfast's packages and redis-py."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PASSED_OVER) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def show_place(place: Place) -> str:
    """Return a place as text: ``app.py:12 in work``."""
    code, at = place
    line = next((line for start, end, line in code.co_lines() if start <= at < end and line), code.co_firstlineno)
    return f"{code.co_filename}:{line} in {code.co_qualname}"
