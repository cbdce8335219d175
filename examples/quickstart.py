"""A session, a checkpoint, a search and a health poll, on one SQLite file.

Change the URL to ``postgresql://user:password@host/database`` and the store to ``PgVectorStore``, and the rest stays.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import DatabaseManager
from sessions import Session, SessionManager, Thread, ThreadManager
from vectorstore import Document, SQLiteVectorStore


def keep_a_conversation(manager: DatabaseManager) -> None:
    """Open a session with a thread, and find both again."""
    sessions, threads = SessionManager(manager, "main"), ThreadManager(manager, "main")
    sessions.create_session(Session(id="session-1", user_id="ada", metadata={"language": "en"}))
    threads.create_thread(Thread(id="thread-1", session_id="session-1", user_id="ada", title="Which editor?"))
    for session in sessions.list_user_sessions("ada"):
        titles = [thread.title for thread in threads.list_session_threads(session.id)]
        print(f"session {session.id} of {session.user_id}: {titles}")


def keep_the_state(manager: DatabaseManager) -> None:
    """Save two versions of a workflow's state, and load the last one and the first one."""
    checkpoints = DatabaseCheckpointer(manager, "main")
    checkpoints.save_checkpoint(Checkpoint(thread_id="thread-1", state={"asked": ["Which editor?"], "step": 1}))
    checkpoints.save_checkpoint(Checkpoint(thread_id="thread-1", state={"asked": ["Which editor?"], "step": 2}))
    print("last: ", checkpoints.load_checkpoint("thread-1").state)
    print("first:", checkpoints.load_checkpoint("thread-1", 1).state)


def find_similar(manager: DatabaseManager) -> None:
    """Store three documents with their vectors, and search among those of one kind."""
    store = SQLiteVectorStore(manager, "main", collection="packages", dimensions=3)
    store.store_documents(
        [
            Document(id="vim", content="Vi IMproved", metadata={"section": "editors"}, embedding=[0.9, 0.1, 0.0]),
            Document(id="nano", content="small, friendly", metadata={"section": "editors"}, embedding=[0.5, 0.5, 0.1]),
            Document(id="bash", content="the shell", metadata={"section": "shells"}, embedding=[0.8, 0.0, 0.6]),
        ]
    )
    for found in store.search([1.0, 0.0, 0.0], k=2, filter={"section": "editors"}):
        print(f"{found.score:.3f} {found.id}: {found.content}")


def main() -> None:
    """Do all of it in a file that is removed at the end."""
    with TemporaryDirectory() as folder, DatabaseManager() as manager:
        manager.add_sqlite("main", f"sqlite:///{Path(folder, 'quickstart.db')}")
        keep_a_conversation(manager)
        keep_the_state(manager)
        find_similar(manager)
        for name, status in manager.health_check().items():
            print(f"{name}: {'healthy' if status else status.error}, {status.latency * 1000:.2f} ms")


if __name__ == "__main__":
    main()
