"""Metadata that a process keeps, and gives out again and again."""

from __future__ import annotations

from typing import Any

from vectorstore.records import metadata_value


class KeptMetadata:
    """Metadata as its JSON text and as a value that nobody else may change."""

    __slots__ = ("_is_flat", "text", "value")

    def __init__(self, text: str) -> None:
        self.text = text
        self.value = metadata_value(text)
        self._is_flat = not any(isinstance(item, dict | list) for item in self.value.values())

    def fresh(self) -> dict[str, Any]:
        """Return the value for others to keep and change: a copy where nothing is nested, which is quicker to make."""
        return self.value.copy() if self._is_flat else metadata_value(self.text)
