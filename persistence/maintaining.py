"""What a run of maintenance found: the jobs by name, how much each did, and why one failed."""

from __future__ import annotations

from dataclasses import dataclass

from persistence.errors import ValidationError


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job did: how many rows in how many seconds, and why it failed (None: it didn't).

    ``rows`` is None in a dry run of a job that can't count. ``is_over`` is False where there was more to do than a run
    may.
    """

    name: str
    rows: int | None
    seconds: float
    is_over: bool = True
    error: str | None = None


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What a run did, by job in the order of registration; ``ran`` is False where another program was at it."""

    jobs: tuple[JobReport, ...]
    ran: bool = True

    @property
    def failed(self) -> tuple[JobReport, ...]:
        """The jobs that failed."""
        return tuple(job for job in self.jobs if job.error is not None)


def check_rows(job: str, rows: object) -> int:
    """Return how many rows a batch says it did.

    Raises:
        ValidationError: that is no whole number.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        raise ValidationError(f"the job {job!r} returned a {type(rows).__name__}", hint="return the number of rows")
    return rows
