"""Google ADK's session service on ours: PostgreSQL or SQLite (extra ``google-adk``).

::

    async with AsyncDatabaseManager() as manager:
        await manager.add_postgresql("main", "postgresql://localhost/app")
        runner = Runner(agent=agent, app_name="app", session_service=HoldfastSessionService(manager))

The events of a session are the messages of a thread. State is kept key by key in namespaced items, below ``adk`` and
the app: ``state`` of a session, ``user`` of a user, ``app`` of the app; ``sessions`` lists them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from persistence._async.manager import AsyncDatabaseManager
from persistence.errors import DuplicateError, NotFoundError, ValidationError
from persistence.extras import extra
from persistence.validation import LIMIT, check_id, shown
from sessions._async.events_of_threads import AsyncThreadEvents
from sessions._async.items import AsyncItemStore
from sessions._async.threads import AsyncThreadManager
from sessions.contents import content_json, decoded
from sessions.item_batches import Batch, Found, Get, Listing, Put, Search
from sessions.items import namespace_key, namespace_labels
from sessions.messages import Message
from sessions.records import Thread, new_id

with extra("google-adk"):
    from google.adk.errors.already_exists_error import AlreadyExistsError
    from google.adk.errors.session_not_found_error import SessionNotFoundError
    from google.adk.events.event import Event
    from google.adk.sessions.base_session_service import BaseSessionService, GetSessionConfig, ListSessionsResponse
    from google.adk.sessions.session import Session
    from google.adk.sessions.state import State
    from pydantic_core import PydanticSerializationError, to_jsonable_python

__all__ = ["HoldfastSessionService"]

_ALL = 2**31
_PREFIXES = {"app": State.APP_PREFIX, "user": State.USER_PREFIX, "state": ""}


class HoldfastSessionService(BaseSessionService):
    """Sessions, events and state of ADK's apps, on a connection of a manager.

    An event and the state that it changes are written together, on PostgreSQL in one statement; the order of events is
    that in which they were committed. Each key of a state is written by itself, so that two writers of different keys
    both count. An event that is delivered twice is stored once. ``temp:`` state is never stored.
    """

    def __init__(self, manager: AsyncDatabaseManager, name: str = "main", *, tenant: str = "default") -> None:
        self._manager = manager
        self._name = name
        self._items = AsyncItemStore(manager, name, tenant=tenant)
        self._messages = AsyncThreadEvents(manager, name, tenant=tenant)
        self._threads = AsyncThreadManager(manager, name, tenant=tenant)

    async def create_session(
        self, *, app_name: str, user_id: str, state: dict[str, Any] | None = None, session_id: str | None = None
    ) -> Session:
        """Make a session and return it, the state of the app and the user merged into its own.

        Raises:
            AlreadyExistsError: the user has one of that id.
        """
        place = _Place(app_name, user_id, (session_id or "").strip() or new_id())
        session = Session(app_name=app_name, user_id=user_id, id=place.session_id)
        batch = Batch(searches=place.searches())
        database = self._manager.get_database(self._name)
        async with database.transaction():
            try:
                made = await self._threads.create_thread(Thread(id=place.thread_id, user_id=user_id))
            except DuplicateError as exc:
                raise AlreadyExistsError(f"Session with id {shown(place.session_id)} already exists.") from exc
            session.last_update_time = made.created_at.timestamp()
            batch.puts = [place.put(session.last_update_time), *place.writes(state or {})]
            answers = await self._items.run(batch)
        session.state = _merged(answers.searches)
        session.state.update(_without_temp(state or {}))
        return session

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """Return a session with its events, oldest first, and the merged state; None where there is none."""
        place = _Place(app_name, user_id, session_id.strip())
        answers = await self._items.run(Batch(gets=[place.get()], searches=place.searches()))
        entry = answers.gets[0]
        if entry is None:
            return None
        session = _session(app_name, user_id, place.session_id, entry)
        session.state = _merged(answers.searches)
        config = config or GetSessionConfig()
        if config.num_recent_events == 0:
            _update(session, (await self._messages.last_contents([place.thread_id])).get(place.thread_id))
            return session
        found = await self._newest(place.thread_id, config.num_recent_events)
        _update(session, found[-1].content if found else None)
        session.events = _since(config.after_timestamp, [Event.model_validate(message.content) for message in found])
        return session

    async def _newest(self, thread_id: str, wanted: int | None) -> list[Message]:
        found: list[Message] = []
        if wanted is not None and wanted <= LIMIT:
            found = await self._messages.last(thread_id, wanted)
        else:
            page = await self._messages.list_messages(thread_id, limit=LIMIT)
            while page:
                found += page
                page = await self._messages.list_messages(thread_id, after=page[-1].seq, limit=LIMIT)
        return found if wanted is None else found[-wanted:]

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Return the sessions of a user, or of all, with their state and without events, oldest activity first."""
        scope = [app_name, "sessions"] if user_id is None else [app_name, "sessions", user_id]
        own = [app_name, "state"] if user_id is None else [app_name, "state", user_id]
        shared = [app_name, "user"] if user_id is None else [app_name, "user", user_id]
        answers = await self._items.run(
            Batch(searches=[_search(*part) for part in (scope, own, shared, [app_name, "app"])])
        )
        entries, states, users, app = answers.searches
        by_session, by_user = _grouped(states), _grouped(users)
        places = [_Place(app_name, namespace_labels(entry.namespace)[3], entry.key) for entry in entries]
        last = await self._messages.last_contents([place.thread_id for place in places])
        sessions = []
        for entry, place in zip(entries, places, strict=True):
            owner = place.user_id
            session = _session(app_name, owner, entry.key, entry)
            _update(session, last.get(place.thread_id))
            session.state = _merged([app, by_user.get((owner,), []), by_session.get((owner, entry.key), [])])
            sessions.append(session)
        sessions.sort(key=lambda session: (session.last_update_time, session.user_id, session.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Remove a session, its events and its own state; the state of the user and the app stays."""
        place = _Place(app_name, user_id, session_id.strip())
        database = self._manager.get_database(self._name)
        async with database.transaction():
            await self._threads.delete_thread(place.thread_id)
            own = (await self._items.run(Batch(searches=[place.searches()[2]]))).searches[0]
            gone = [(found.namespace, found.key) for found in own]
            await self._items.run(Batch(deletes=[(place.entry, place.session_id), *gone]))

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the state of a user, its keys without ``user:``."""
        answers = await self._items.run(Batch(searches=[_search(app_name, "user", user_id)]))
        return {found.key: decoded(found.value) for found in answers.searches[0]}

    async def erase_user(self, user_id: str) -> dict[str, int]:
        """Remove the sessions, events and state of a user in every app, and count the items of state as ``adk_items``.

        ``AsyncUserData(manager, "main", stores=[service])`` does it with the rest, in one transaction.
        """
        database = self._manager.get_database(self._name)
        async with database.transaction():
            gone = {(item.namespace, item.key) for item in await self._items_of(user_id)}
            for namespace, key in sorted(gone):
                _, app_name, kind, *_ = namespace_labels(namespace)
                if kind == "sessions":
                    await self._threads.delete_thread(_Place(app_name, user_id, key).thread_id)
            await self._items.run(Batch(deletes=sorted(gone)))
        return {"adk_items": len(gone)}

    async def export_user(self, user_id: str) -> AsyncIterator[str]:
        """Yield the state of a user in every app as JSON lines of kind ``adk_item``.

        The events are messages of the user's threads, which ``AsyncUserData`` exports.
        """
        for item in sorted(await self._items_of(user_id), key=lambda item: (item.namespace, item.key)):
            labels = namespace_labels(item.namespace)
            line = {"kind": "adk_item", "namespace": list(labels), "key": item.key, "value": decoded(item.value)}
            yield content_json(line)

    async def _items_of(self, user_id: str) -> list[Found]:
        label = namespace_key([check_id("user_id", user_id)])[:-1]
        mine = Listing(_namespace(), [{"path": [None, None, label], "suffix": False}], None, _ALL, 0)
        names = (await self._items.run(Batch(listings=[mine]))).listings[0]
        found = await self._items.run(Batch(searches=[Search(name, [], _ALL, 0, False) for name in names]))
        unique = {(item.namespace, item.key): item for items in found.searches for item in items}
        return list(unique.values())

    async def append_event(self, session: Session, event: Event) -> Event:
        """Store an event and the state that it changes, and apply both to the session.

        Raises:
            SessionNotFoundError: the session isn't there, or was deleted.
        """
        if event.partial:
            return event
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        place = _place(session.app_name, session.user_id, session.id)
        content = event.model_dump(mode="json", exclude_none=True)
        message = Message(role=event.author or "event", content=content)
        puts = place.writes(event.actions.state_delta)
        try:
            if not await self._messages.append_event(place.thread_id, message, puts):
                return event  # delivered again
        except NotFoundError as exc:
            raise SessionNotFoundError(f"Session {shown(session.id)} not found.") from exc
        self._commit_event_to_session(session, event)
        session.last_update_time = event.timestamp
        return event


class _Place:
    """Where a session is stored."""

    def __init__(self, app_name: str, user_id: str, session_id: str) -> None:
        self.app_name = check_id("app_name", app_name)
        self.user_id = check_id("user_id", user_id)
        self.session_id = check_id("session_id", session_id)
        self.thread_id = "adk/" + "/".join(quote(part, safe="") for part in (app_name, user_id, session_id))
        self.entry = _namespace(app_name, "sessions", user_id)

    def get(self) -> Get:
        """Return the read of the session's entry."""
        return Get(self.entry, self.session_id, False)

    def searches(self) -> list[Search]:
        """Return the reads of the app's, the user's and the session's state."""
        return [
            _search(self.app_name, "app"),
            _search(self.app_name, "user", self.user_id),
            _search(self.app_name, "state", self.user_id, self.session_id),
        ]

    def put(self, moment: float) -> Put:
        """Return the write of the session's entry, with the time of its creation."""
        return Put(self.entry, self.session_id, content_json({"updated": moment}), None, [])

    def writes(self, delta: dict[str, Any]) -> list[Put]:
        """Return the writes of what a state changes."""
        puts = []
        for key, value in _without_temp(delta).items():
            kind = next(kind for kind, prefix in _PREFIXES.items() if key.startswith(prefix))
            owner = {"app": [], "user": [self.user_id], "state": [self.user_id, self.session_id]}[kind]
            name = check_id("a key of the state", key.removeprefix(_PREFIXES[kind]))
            try:
                text = content_json(to_jsonable_python(value), f"the state {shown(key)}")
            except PydanticSerializationError as exc:
                raise ValidationError(f"the state {shown(key)} is not storable as JSON: {exc}") from None
            puts.append(Put(_namespace(self.app_name, kind, *owner), name, text, None, []))
        return puts


@lru_cache(maxsize=1024)
def _place(app_name: str, user_id: str, session_id: str) -> _Place:
    """Return where a session is stored, worked out once for its many events."""
    return _Place(app_name, user_id, session_id)


def _namespace(*labels: str) -> str:
    return namespace_key(["adk", *labels])


def _search(*labels: str) -> Search:
    return Search(_namespace(*labels), [], _ALL, 0, False)


def _without_temp(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.startswith(State.TEMP_PREFIX)}


def _grouped(found: Iterable[Found]) -> dict[tuple[str, ...], list[Found]]:
    """Return items by the labels that follow ``adk``, the app and the kind: the user, and the session."""
    groups: dict[tuple[str, ...], list[Found]] = {}
    for item in found:
        groups.setdefault(namespace_labels(item.namespace)[3:], []).append(item)
    return groups


def _merged(states: Sequence[Sequence[Found]]) -> dict[str, Any]:
    """Return a session's state from the app's, the user's and its own; each key has the prefix of its kind."""
    merged: dict[str, Any] = {}
    for prefix, found in zip(_PREFIXES.values(), states, strict=True):
        merged.update((prefix + item.key, decoded(item.value)) for item in found)
    return merged


def _session(app_name: str, user_id: str, session_id: str, entry: Found) -> Session:
    updated = decoded(entry.value)["updated"]
    return Session(app_name=app_name, user_id=user_id, id=session_id, last_update_time=updated)


def _update(session: Session, last: Any) -> None:
    """Give a session the time of its last event; without one it keeps that of its creation."""
    if last is not None:
        session.last_update_time = last["timestamp"]


def _since(after: float | None, events: list[Event]) -> list[Event]:
    """Return the events that follow the last one that is older."""
    older = [place for place, event in enumerate(events) if after is not None and event.timestamp < after]
    return events[older[-1] + 1 :] if older else events
