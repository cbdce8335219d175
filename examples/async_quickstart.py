"""The quickstart with asyncio: the same calls, awaited, on classes that begin with ``Async``."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import AsyncDatabaseManager
from sessions import AsyncSessionManager, AsyncThreadManager, Session, Thread
from vectorstore import AsyncSQLiteVectorStore, Document


async def keep_a_conversation(manager: AsyncDatabaseManager) -> None:
    """Open a session with a thread, and find both again."""
    sessions, threads = AsyncSessionManager(manager, "main"), AsyncThreadManager(manager, "main")
    await sessions.create_session(Session(id="session-1", user_id="ada", metadata={"language": "en"}))
    await threads.create_thread(Thread(id="thread-1", session_id="session-1", user_id="ada", title="Which editor?"))
    for session in await sessions.list_user_sessions("ada"):
        titles = [thread.title for thread in await threads.list_session_threads(session.id)]
        print(f"session {session.id} of {session.user_id}: {titles}")


async def run_agent(checkpoints: AsyncDatabaseCheckpointer, thread_id: str) -> None:
    """Take three steps of a workflow, and checkpoint each."""
    for step in range(1, 4):
        await checkpoints.save_checkpoint(Checkpoint(thread_id=thread_id, state={"done": list(range(step))}, step=step))


async def keep_the_state(manager: AsyncDatabaseManager) -> None:
    """Run five agents at the same time, each on a thread of its own."""
    checkpoints = AsyncDatabaseCheckpointer(manager, "main")
    async with asyncio.TaskGroup() as agents:
        for number in range(5):
            agents.create_task(run_agent(checkpoints, f"agent-{number}"))
    for number in range(5):
        last = await checkpoints.load_checkpoint(f"agent-{number}")
        print(f"{last.thread_id} is at version {last.version}: {last.state}")


async def find_similar(manager: AsyncDatabaseManager) -> None:
    """Store three documents with their vectors, and search among those of one kind."""
    store = AsyncSQLiteVectorStore(manager, "main", collection="packages", dimensions=3)
    await store.store_documents(
        [
            Document(id="vim", content="Vi IMproved", metadata={"section": "editors"}, embedding=[0.9, 0.1, 0.0]),
            Document(id="nano", content="small, friendly", metadata={"section": "editors"}, embedding=[0.5, 0.5, 0.1]),
            Document(id="bash", content="the shell", metadata={"section": "shells"}, embedding=[0.8, 0.0, 0.6]),
        ]
    )
    for found in await store.search([1.0, 0.0, 0.0], k=2, filter={"section": "editors"}):
        print(f"{found.score:.3f} {found.id}: {found.content}")


async def main() -> None:
    """Do all of it in a file that is removed at the end."""
    with TemporaryDirectory() as folder:
        async with AsyncDatabaseManager() as manager:
            await manager.add_sqlite("main", f"sqlite:///{Path(folder, 'quickstart.db')}")
            await keep_a_conversation(manager)
            await keep_the_state(manager)
            await find_similar(manager)
            for name, status in (await manager.health_check()).items():
                print(f"{name}: {'healthy' if status else status.error}, {status.latency * 1000:.2f} ms")


if __name__ == "__main__":
    asyncio.run(main())
