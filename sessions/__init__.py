"""Sessions of users, their threads, the messages of these, and shared context, on PostgreSQL, SQLite or Redis.

The calls that a program needs::

    sessions, threads = SessionManager(manager, "main"), ThreadManager(manager, "main")
    session = sessions.create_session(Session(user_id="ada"), ttl=3600, sliding=True)
    thread = threads.create_thread(Thread(session_id=session.id, title="Bridges"))
    MessageStore(manager, "main").append(thread.id, Message(role="user", content="How long is the longest?"))

Every class that waits has an async twin, ``AsyncSessionManager`` for ``SessionManager`` and so on, with the same
methods. Each call is one statement; it commits before it returns, or joins the transaction that it is called in.

**Sessions.** ``SessionManager`` keeps ``Session`` records: a user's visit, with metadata, a title and an expiry that is
fixed or slides with each touch. What has expired is not there, also before ``delete_expired`` has removed it.

**Threads.** ``ThreadManager`` keeps ``Thread`` records: conversations, within a session or by themselves. They end with
their session.

**Messages.** ``MessageStore`` appends ``Message`` records to threads, numbered in the order of their commits, and reads
them back; it takes them back, summarises (``compact``), forks, searches, follows and prunes. ``Conversation`` is the
state of a thread's messages, ``Usage`` their tokens and cost, ``Query`` a question with its answer.

**State.** ``StateStore`` keeps what an agent remembers, by scope: the application's, the user's, the session's.

**Users.** ``UserData`` exports and erases everything of one person, in other stores too (``UserStore``).

**Tasks.** ``TaskStore`` keeps ``Task`` records: work that one owner does at a time, claimed for a lease, with
priorities, retries, children and hand-over. ``TaskWorker`` does them by handlers.

**Shared context.** ``ContextStore`` keeps ``ContextItem`` records that agents share: addressed to subscribers and
topics, with a time to live and permissions to post, apart for each user (``for_user``). It works on Redis too, and as
``MemoryContextStore`` without a server.

**Graph.** ``MemoryGraph`` remembers what agents know as ``Node`` and ``Edge`` records, in scopes with a
``ScopePolicy`` each; it searches, recalls, walks (``neighbours``, ``shortest_path``), keeps every version, and holds
configuration that changes while programs run.

**Events.** ``EventLog`` keeps ``Event`` records in the order of their time: metrics, logs, audit events, correlations
and kinds of your own. It queries, sums (``EventBucket``) and follows them, rolls up old ones by an ``EventPolicy``
(with a ``RollUpReport``), and verifies chains of audit events (``ChainHead``, ``ChainReport``). ``EventPartition``
tells how it grows, and an ``EventWriter`` stores many beside the caller.

**Changes.** ``patch`` merges into the metadata atomically. An update of a record that somebody else changed since it
was read is a ``persistence.ConflictError``.

**Listings.** Newest activity first; the ``cursor`` of the last record, passed as ``after``, gives the next page.
"""

from sessions._async.context import AsyncContextStore, AsyncMemoryContextStore
from sessions._async.events import AsyncEventLog
from sessions._async.events_writer import AsyncEventWriter
from sessions._async.graph import AsyncMemoryGraph
from sessions._async.messages import AsyncMessageStore
from sessions._async.sessions import AsyncSessionManager
from sessions._async.state import AsyncStateStore
from sessions._async.task_worker import AsyncTaskWorker
from sessions._async.tasks import AsyncTaskStore
from sessions._async.threads import AsyncThreadManager
from sessions._async.users import AsyncUserData, AsyncUserStore
from sessions._sync.context import ContextStore, MemoryContextStore
from sessions._sync.events import EventLog
from sessions._sync.events_writer import EventWriter
from sessions._sync.graph import MemoryGraph
from sessions._sync.messages import MessageStore
from sessions._sync.sessions import SessionManager
from sessions._sync.state import StateStore
from sessions._sync.task_worker import TaskWorker
from sessions._sync.tasks import TaskStore
from sessions._sync.threads import ThreadManager
from sessions._sync.users import UserData, UserStore
from sessions.context import ContextAgent, ContextItem, ContextStats, NotPermittedError, lines_from_syntha
from sessions.event_chains import ChainHead, ChainReport
from sessions.event_partitions import EventPartition
from sessions.event_queries import EventBucket
from sessions.event_retention import EventPolicy, RollUpReport
from sessions.events import Event
from sessions.graph import ConfigVersion, Deleted, Edge, Found, GraphChange, GraphPath, Neighbour, Node
from sessions.messages import Conversation, Message, Query, Usage
from sessions.records import Session, Thread
from sessions.scopes import Approval, ScopePolicy
from sessions.tasks import LeaseLostError, Task

__all__ = [
    "Approval",
    "AsyncContextStore",
    "AsyncEventLog",
    "AsyncEventWriter",
    "AsyncMemoryContextStore",
    "AsyncMemoryGraph",
    "AsyncMessageStore",
    "AsyncSessionManager",
    "AsyncStateStore",
    "AsyncTaskStore",
    "AsyncTaskWorker",
    "AsyncThreadManager",
    "AsyncUserData",
    "AsyncUserStore",
    "ChainHead",
    "ChainReport",
    "ConfigVersion",
    "ContextAgent",
    "ContextItem",
    "ContextStats",
    "ContextStore",
    "Conversation",
    "Deleted",
    "Edge",
    "Event",
    "EventBucket",
    "EventLog",
    "EventPartition",
    "EventPolicy",
    "EventWriter",
    "Found",
    "GraphChange",
    "GraphPath",
    "LeaseLostError",
    "MemoryContextStore",
    "MemoryGraph",
    "Message",
    "MessageStore",
    "Neighbour",
    "Node",
    "NotPermittedError",
    "Query",
    "RollUpReport",
    "ScopePolicy",
    "Session",
    "SessionManager",
    "StateStore",
    "Task",
    "TaskStore",
    "TaskWorker",
    "Thread",
    "ThreadManager",
    "Usage",
    "UserData",
    "UserStore",
    "lines_from_syntha",
]
