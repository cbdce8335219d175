"""LangGraph's checkpointer on ours, and the importer from LangGraph's own savers (extra ``langgraph``).

::

    with HoldfastSaver.from_url("postgresql://localhost/app") as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke(inputs, {"configurable": {"thread_id": "thread-1"}})

Each operation is written once, as a generator that yields the calls it needs of a checkpointer and is resumed with
their results; ``get_tuple`` performs them on the sync checkpointer, ``aget_tuple`` awaits them on the async one.
Neither side runs the other, and no connection is held while tuples of a list are handed out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

from checkpoint._async.checkpointer import AsyncCheckpointer
from checkpoint._async.sql import AsyncDatabaseCheckpointer
from checkpoint._sync.checkpointer import Checkpointer
from checkpoint._sync.sql import DatabaseCheckpointer
from checkpoint.langgraph_classes import pointing_out, register_classes, register_named
from checkpoint.langgraph_import import Imported, import_langgraph
from checkpoint.langgraph_operations import Call, Operations, Steps
from checkpoint.serializer import Serializer
from persistence._async.manager import AsyncDatabaseManager
from persistence._sync.manager import DatabaseManager
from persistence.errors import (
    CapabilityError,
    ClosedError,
    CorruptError,
    PersistenceError,
    ValidationError,
)
from persistence.extras import extra

with extra("langgraph"):
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        BaseCheckpointSaver,
        ChannelVersions,
        CheckpointMetadata,
        CheckpointTuple,
        DeltaChannelHistory,
    )
    from langgraph.checkpoint.base import Checkpoint as GraphCheckpoint

__all__ = ["HoldfastSaver", "Imported", "import_langgraph"]

R = TypeVar("R")


class HoldfastSaver(BaseCheckpointSaver[Any]):
    """A LangGraph checkpointer over a checkpointer of ours, sync, async or both, on any backend.

    The latest checkpoint of a thread is the one saved last, whatever the clocks and ids say. Values come back equal and
    of the same types; of classes those that LangGraph and LangChain's messages need, and ``classes``: dataclasses,
    pydantic models, enums, named tuples. With ``LANGGRAPH_STRICT_MSGPACK=true`` a graph registers those of its state
    schema by itself. An exception that a node raised is kept as its repr.

    ``append_only`` names channels whose lists only get more items at their end, such as ``messages``: of such a list no
    more than the new items is looked at, however long it is, as long as it begins with the very objects that it had
    when its thread was saved last. An item that is changed in place is not stored again then. The items of the last
    1,024 threads stay in memory for it.

    Raises:
        ValidationError: from any write, when a value, an id or a name can't be stored faithfully.
        CorruptError: from any read, when what is stored was damaged, or holds a class that isn't registered.
    """

    def __init__(
        self,
        *checkpointers: Checkpointer | AsyncCheckpointer,
        classes: Iterable[type] = (),
        append_only: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self._sync: Checkpointer | None = None
        self._async: AsyncCheckpointer | None = None
        self._url: str | None = None
        self._tenant = "default"
        self._durability: Literal["sync", "async"] = "sync"
        self._manager: DatabaseManager | None = None
        self._async_manager: AsyncDatabaseManager | None = None
        self._serializer = Serializer()
        if isinstance(append_only, str):
            raise ValidationError("append_only is one text", hint=f"append_only=[{append_only[:80]!r}]")
        self._operations = Operations(frozenset(append_only))
        classes = tuple(classes)
        for checkpointer in checkpointers:
            if isinstance(checkpointer, Checkpointer) and self._sync is None:
                self._sync = checkpointer
            elif isinstance(checkpointer, AsyncCheckpointer) and self._async is None:
                self._async = checkpointer
            else:
                raise ValidationError(
                    f"a {type(checkpointer).__name__} can't be used here",
                    hint="HoldfastSaver takes a Checkpointer, an AsyncCheckpointer, or one of each",
                )
            if checkpointer._durability == "exit":
                raise ValidationError(
                    'a checkpointer with durability="exit" would hold back what the graph reads again',
                    hint='graph.invoke(…, durability="exit") saves at the end alone',
                )
            register_classes(_serializer_of(checkpointer), classes)
        register_classes(self._serializer, classes)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        tenant: str = "default",
        classes: Iterable[type] = (),
        append_only: Iterable[str] = (),
        durability: Literal["sync", "async"] = "sync",
    ) -> Self:
        """Return a saver that ``with`` or ``async with`` connects and closes: PostgreSQL or SQLite by its URL.

        ``with`` opens the sync side, ``async with`` the async one on the loop that runs; both may be open at once.
        ``durability="async"`` leaves it to PostgreSQL when a commit reaches its disk: a crash of the server loses the
        last moments, one of this program nothing. Saving at the end alone is LangGraph's own ``durability="exit"``.
        """
        saver = cls(classes=classes, append_only=append_only)
        saver._url = url
        saver._tenant = tenant
        saver._durability = durability
        return saver

    def __enter__(self) -> Self:
        if self._url is not None:
            if self._manager is not None:
                raise ValidationError("this saver is open already", hint="make another one from the URL")
            manager = DatabaseManager()
            try:
                manager.add("langgraph", self._url)
                self._sync = DatabaseCheckpointer(
                    manager,
                    "langgraph",
                    tenant=self._tenant,
                    serializer=self._serializer,
                    durability=self._durability,
                )
            except BaseException:
                manager.close()
                raise
            self._manager = manager
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            self._sync = None
            manager.close()

    async def __aenter__(self) -> Self:
        if self._url is not None:
            if self._async_manager is not None:
                raise ValidationError("this saver is open already", hint="make another one from the URL")
            manager = AsyncDatabaseManager()
            try:
                await manager.add("langgraph", self._url)
                self._async = AsyncDatabaseCheckpointer(
                    manager,
                    "langgraph",
                    tenant=self._tenant,
                    serializer=self._serializer,
                    durability=self._durability,
                )
            except BaseException:
                await manager.aclose()
                raise
            self._async_manager = manager
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        manager, self._async_manager = self._async_manager, None
        if manager is not None:
            self._async = None
            await manager.aclose()

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        """Allow the classes of a graph's schemas, which LangGraph names in its strict mode; return this saver."""
        for checkpointer in (self._sync, self._async):
            if checkpointer is not None:
                register_named(_serializer_of(checkpointer), extra_allowlist)
        register_named(self._serializer, extra_allowlist)
        return self

    def get_next_version(self, current: Any, channel: None) -> Any:
        """Return a channel's next version: 1, 2, 3, …, in text where a thread came from a saver that used text."""
        if isinstance(current, str):
            # As LangGraph's own savers write it, so that versions of such a thread go on comparing in order.
            return f"{int(current.partition('.')[0]) + 1:032}.{0:016}"
        return 1 if current is None else current + 1

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that a config names, or the latest, with its pending writes; None: there is none."""
        return self._run(self._operations.get(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As ``get_tuple``."""
        return await self._arun(self._operations.get(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield the checkpoints of a thread, newest first; without a namespace those of all, without a thread all.

        ``filter`` compares metadata, nested dicts by what the filter has of them. Read in pages, so a list may be
        left half way, and other calls made meanwhile.
        """
        steps = self._operations.pages(config, filter, before, limit)
        step = next(steps, None)
        while step is not None:
            if isinstance(step, Call):
                step = _advance(steps, *self._perform(step))
            else:
                yield from step
                step = next(steps, None)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As ``list``."""
        steps = self._operations.pages(config, filter, before, limit)
        step = next(steps, None)
        while step is not None:
            if isinstance(step, Call):
                step = _advance(steps, *await self._aperform(step))
            else:
                for found in step:
                    yield found
                step = next(steps, None)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: GraphCheckpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint whose parent the config names; return the config that names it.

        Saving the same checkpoint again, as after a lost answer, changes nothing. A channel whose version is that of
        the parent, saved just before, has its value: a value changed in place without a new version isn't noticed, as
        with LangGraph's own savers. ``new_versions`` isn't needed.
        """
        return self._run(self._operations.put(config, checkpoint, metadata))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: GraphCheckpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As ``put``."""
        return await self._arun(self._operations.put(config, checkpoint, metadata))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a task wrote on top of a checkpoint, which needn't be there yet; again is once."""
        self._run(self._operations.put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As ``put_writes``."""
        await self._arun(self._operations.put_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread: its checkpoints in every namespace, and their writes."""
        self._run(self._operations.delete_thread(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """As ``delete_thread``."""
        await self._arun(self._operations.delete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that these runs made, in every thread; it looks at each thread.

        A delta channel whose run is deleted is rebuilt without it: delete whole threads where those are in use.
        """
        self._run(self._operations.delete_for_runs(run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As ``delete_for_runs``."""
        await self._arun(self._operations.delete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread with all its checkpoints and writes, under the same ids, without reading them here."""
        self._run(self._operations.copy_thread(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As ``copy_thread``."""
        await self._arun(self._operations.copy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep only the latest checkpoint of each namespace (``"keep_latest"``), or nothing (``"delete"``).

        What a delta channel of the latest is rebuilt from is kept too; let no graph with such channels run on these
        threads meanwhile.
        """
        self._run(self._operations.prune(thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As ``prune``."""
        await self._arun(self._operations.prune(thread_ids, strategy))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return for each channel the nearest value stored before a checkpoint, and what was written since."""
        return self._run(self._operations.delta_history(config, channels))[0]

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As ``get_delta_channel_history``."""
        return (await self._arun(self._operations.delta_history(config, channels)))[0]

    # The two sides.

    def _run(self, steps: Steps[R]) -> R:
        try:
            call = next(steps)
            while True:
                call = _resume(steps, *self._perform(call))
        except StopIteration as done:
            return cast(R, done.value)

    async def _arun(self, steps: Steps[R]) -> R:
        try:
            call = next(steps)
            while True:
                call = _resume(steps, *await self._aperform(call))
        except StopIteration as done:
            return cast(R, done.value)

    def _perform(self, call: Call) -> tuple[Any, BaseException | None]:
        try:
            return getattr(self._side(self._sync, "sync", "with"), call.method)(*call.arguments, **call.options), None
        except PersistenceError as exc:
            return None, exc

    async def _aperform(self, call: Call) -> tuple[Any, BaseException | None]:
        try:
            method = getattr(self._side(self._async, "async", "async with"), call.method)
            return await method(*call.arguments, **call.options), None
        except PersistenceError as exc:
            return None, exc

    def _side(self, checkpointer: Any, side: str, statement: str) -> Any:
        if checkpointer is not None:
            return checkpointer
        if self._url is not None:
            raise ClosedError(
                f"the {side} side of this saver is not open", hint=f"{statement} HoldfastSaver.from_url(…) as saver:"
            )
        kind = "Checkpointer" if side == "sync" else "AsyncCheckpointer"
        raise CapabilityError(
            f"this saver has no {side} side", hint=f"give HoldfastSaver a {kind} too, or use from_url()"
        )


def _resume(steps: Generator[Any, Any, Any], answer: Any, failure: BaseException | None) -> Any:
    """Resume an operation with the result of its call, and return what it yields next."""
    try:
        return steps.send(answer) if failure is None else steps.throw(failure)
    except (ValidationError, CorruptError) as exc:
        pointed = pointing_out(exc)
        if pointed is exc:
            raise
        raise pointed from exc


def _advance(steps: Generator[Any, Any, Any], answer: Any, failure: BaseException | None) -> Any:
    """As ``_resume``, for whoever is a generator too; None: the operation is done."""
    try:
        return _resume(steps, answer, failure)
    except StopIteration:
        return None


def _serializer_of(checkpointer: Checkpointer | AsyncCheckpointer) -> Serializer:
    serializer = getattr(checkpointer, "_serializer", None)
    return serializer if isinstance(serializer, Serializer) else Serializer()
