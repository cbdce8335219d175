"""Sessions of users and their threads, on PostgreSQL or SQLite.

The three calls that a program needs::

    sessions, threads = SessionManager(manager, "main"), ThreadManager(manager, "main")
    session = sessions.create_session(Session(user_id="ada"), ttl=3600, sliding=True)
    thread = threads.create_thread(Thread(session_id=session.id, title="Bridges"))

Every class that waits has an async twin, ``AsyncSessionManager`` for ``SessionManager`` and so on, with the same
methods. Each call is one statement; it commits before it returns, or joins the transaction that it is called in.

**Sessions.** ``SessionManager`` keeps ``Session`` records: a user's visit, with metadata, a title and an expiry that is
fixed or slides with each touch. What has expired is not there, also before ``delete_expired`` has removed it.

**Threads.** ``ThreadManager`` keeps ``Thread`` records: conversations, within a session or by themselves. They end with
their session.

**Changes.** ``patch`` merges into the metadata atomically. An update of a record that somebody else changed since it
was read is a ``persistence.ConflictError``.

**Listings.** Newest activity first; the ``cursor`` of the last record, passed as ``after``, gives the next page.
"""

from sessions._async.sessions import AsyncSessionManager
from sessions._async.threads import AsyncThreadManager
from sessions._sync.sessions import SessionManager
from sessions._sync.threads import ThreadManager
from sessions.records import Session, Thread

__all__ = ["AsyncSessionManager", "AsyncThreadManager", "Session", "SessionManager", "Thread", "ThreadManager"]
