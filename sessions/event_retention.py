"""How long events are kept at which detail: the policy, the steps that it comes to, and the report of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from persistence.errors import ValidationError
from persistence.validation import check_id
from sessions.event_partitions import DAY
from sessions.event_queries import ORIGIN, check_kinds
from sessions.events import AUDIT, FIRST_MOMENT, EventRetention
from sessions.records import micros_of

EventAction = Literal["delete", "aggregate", "downsample"]

_ROLLED: tuple[EventRetention, ...] = ("raw", "aggregated", "downsampled")


@dataclass(frozen=True, kw_only=True, slots=True)
class EventPolicy:
    """How long events of a kind are kept at which detail; ages are counted from the time of the event.

    Raw events older than ``aggregate_after`` become one event a series and ``aggregate_by`` (an hour), those older than
    ``downsample_after`` one a series and ``downsample_by`` (a day), and what is older than ``delete_after`` goes. None:
    never. A series is the events of one kind, service, name, level and ``tags``: the named ones stay apart (None: all).
    Messages and correlations are not kept by a roll-up. ``kinds`` are those that it is about; None is all of them.

    Events whose retention is ``kept``, as is that of every audit event, are never touched.

    Raises:
        ValidationError: no age is given, they don't grow, or a roll-up's length doesn't divide a day.
    """

    aggregate_after: timedelta | None = None
    downsample_after: timedelta | None = None
    delete_after: timedelta | None = None
    aggregate_by: timedelta = timedelta(hours=1)
    downsample_by: timedelta = timedelta(days=1)
    tags: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        ages = []
        for name in ("aggregate_after", "downsample_after", "delete_after"):
            age = getattr(self, name)
            if age is not None:
                if not isinstance(age, timedelta):
                    raise ValidationError(f"{name} is a {type(age).__name__}, not a timedelta")
                micros_of(name, age)
                ages.append(age)
        if not ages:
            raise ValidationError("a policy needs an age", hint="aggregate_after, downsample_after or delete_after")
        if ages != sorted(set(ages)):
            raise ValidationError("each age of a policy must be above the one before")
        if self.downsample_after is not None and self.aggregate_after is None:
            raise ValidationError("only what was aggregated is downsampled", hint="give aggregate_after too")
        for name in ("aggregate_by", "downsample_by"):
            length = getattr(self, name)
            if not isinstance(length, timedelta) or not timedelta(0) < length <= DAY or DAY % length:
                raise ValidationError(f"{name} must be a timedelta that divides a day")
        if self.downsample_by % self.aggregate_by:
            raise ValidationError("downsample_by must be a multiple of aggregate_by")
        if self.tags is not None:
            if not isinstance(self.tags, tuple):
                raise ValidationError(f"tags is a {type(self.tags).__name__}, not a tuple")
            for tag in self.tags:
                check_id("a tag", tag)
        if AUDIT in (check_kinds(self.kinds) or ()):
            raise ValidationError("audit events are kept for good")

    def steps(self, now: datetime) -> list[RollUpStep]:
        """Return what a run does, in order: what goes isn't rolled up first."""
        found = []
        gone = FIRST_MOMENT
        if self.delete_after is not None:
            gone = max(now - self.delete_after, FIRST_MOMENT)
            found += [RollUpStep("delete", stage, None, FIRST_MOMENT, gone, DAY) for stage in _ROLLED]
        rolled: list[tuple[EventAction, EventRetention, EventRetention, timedelta | None, timedelta]] = [
            ("aggregate", "raw", "aggregated", self.aggregate_after, self.aggregate_by),
            ("downsample", "aggregated", "downsampled", self.downsample_after, self.downsample_by),
        ]
        for action, source, target, age, length in rolled:
            if age is not None:
                until = max(now - age, FIRST_MOMENT)
                whole = until - (until - ORIGIN) % length  # a bucket is rolled up once it is over
                found.append(RollUpStep(action, source, target, gone, whole, length))
        return found


class RollUpStep(NamedTuple):
    """One step of a run: what happens to the events of a stage before ``until``, and to which stage they go.

    What lies before ``since`` is gone already, by the steps before.
    """

    action: EventAction
    source: EventRetention
    target: EventRetention | None
    since: datetime
    until: datetime
    length: timedelta


@dataclass(kw_only=True, slots=True)
class RollUpReport:
    """What a run did, or with ``dry_run`` would do.

    ``aggregated``, ``downsampled`` and ``deleted`` count the events that went, ``made`` those that stand for them (in a
    dry run 0). ``dropped`` are the partitions that went as a whole, ``busy`` those that somebody else held too long and
    that the next run looks at again. ``complete`` is False where ``limit`` ended the run.
    """

    dry_run: bool = False
    aggregated: int = 0
    downsampled: int = 0
    deleted: int = 0
    made: int = 0
    dropped: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    complete: bool = True

    @property
    def events(self) -> int:
        """How many events went."""
        return self.aggregated + self.downsampled + self.deleted

    def add(self, action: EventAction, events: int, made: int = 0) -> None:
        """Count what one statement did."""
        name = {"aggregate": "aggregated", "downsample": "downsampled", "delete": "deleted"}[action]
        setattr(self, name, getattr(self, name) + events)
        self.made += made
