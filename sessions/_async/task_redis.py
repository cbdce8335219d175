"""Tasks on Redis: each statement about them is one call of one Lua script."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from persistence import Row
from persistence.scripts import call_script
from sessions._async.redis_statements import AsyncRedisStatements
from sessions.task_rows import READS, task_arguments, task_rows


class AsyncRedisTasks(AsyncRedisStatements):
    """The face of a database that the task store uses, on a Redis connection."""

    async def fetch_all(self, name: str, values: dict[str, Any], *, prepare: bool | None = None) -> list[Row]:
        """Return the rows of a statement by name; one that reads is sent again after a dropped connection."""
        given = dict(values)
        root = f"holdfast:{{{quote(given.pop('tenant'), safe='')}}}"
        answer = await self._connection.run_script(
            call_script("sessions", "tasks", name), [root], [name, *task_arguments(given)], reads=name in READS
        )
        return task_rows(answer)
