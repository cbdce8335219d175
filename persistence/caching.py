"""What a cache tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache has done since it was made; counts are exact.

    A call is a hit or a miss, and a miss loads or waits for a load of another. ``stale`` hits gave a value that was due
    to be refreshed; ``errors`` are loads that failed, ``bypassed`` calls that went past a store that was away.
    """

    hits: int = 0
    misses: int = 0
    loads: int = 0
    errors: int = 0
    stale: int = 0
    bypassed: int = 0
    evicted: int = 0

    @property
    def hit_rate(self) -> float:
        """The part of calls that were hits, 0 when there were none."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0
