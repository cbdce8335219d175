"""A LangGraph workflow with everything that leans on checkpoints, and a process that runs it and may be killed.

plan → three fetchers side by side (Send) and one check → a subgraph that asks a human → publish, which fails once.
Each node writes a line into a journal file, so that a test sees what ran, in whichever process.

    python -m tests.langgraph_workflow (sync|async) URL JOURNAL [KILL_IN]
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, RetryPolicy, Send, interrupt

from checkpoint.langgraph import HoldfastSaver

TOPICS = ("lakes", "moors", "rivers")
CONFIG: RunnableConfig = {"configurable": {"thread_id": "article"}}


class State(TypedDict, total=False):
    topics: list[str]
    found: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]
    verdict: str
    article: str


class Edited(TypedDict, total=False):
    messages: list[AnyMessage]
    verdict: str


class Fetch(TypedDict):
    topic: str


class Workflow:
    """Builds the graph over a journal; ``kill_in`` names the node that the process dies in."""

    def __init__(self, journal: Path, kill_in: str | None = None) -> None:
        self.journal = journal
        self.kill_in = kill_in
        self.stored = threading.Semaphore(0)

    def note(self, line: str) -> None:
        with self.journal.open("a") as file:
            file.write(f"{line}\n")

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def plan(self, state: State) -> dict[str, Any]:
        self.note("plan")
        return {"topics": list(TOPICS), "messages": [HumanMessage("Write about water.", id="ask")]}

    def spread(self, state: State) -> Sequence[Send | str]:
        return [*(Send("fetch", {"topic": topic}) for topic in state["topics"]), "check"]

    def fetch(self, state: Fetch) -> dict[str, Any]:
        self.note(f"fetch {state['topic']}")
        return {"found": [state["topic"].upper()]}

    def check(self, state: State) -> dict[str, Any]:
        self.note("check")
        if self.kill_in == "check":
            # Not before the writes of the three that run beside it are stored.
            for _ in TOPICS:
                self.stored.acquire(timeout=30)
            os.kill(os.getpid(), signal.SIGKILL)
        return {"found": ["checked"]}

    def draft(self, state: State) -> dict[str, Any]:
        self.note("draft")
        return {"messages": [AIMessage(f"A draft on {', '.join(sorted(state['found']))}.", id="draft")]}

    def review(self, state: State) -> dict[str, Any]:
        self.note("review")
        verdict = interrupt({"question": "publish?", "draft": state["messages"][-1].content})
        self.note("reviewed")
        if self.kill_in == "review":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"verdict": verdict}

    def publish(self, state: State) -> dict[str, Any]:
        self.note("publish")
        if self.lines().count("publish") == 1:
            raise ConnectionError("the printer is out of paper")
        return {"article": f"{state['verdict']}: {state['messages'][-1].content}"}

    def build(self, saver: Any) -> Any:
        review = StateGraph(State, output_schema=Edited)
        review.add_node("draft", self.draft)
        review.add_node("review", self.review)
        review.add_edge(START, "draft")
        review.add_edge("draft", "review")
        review.add_edge("review", END)
        graph = StateGraph(State)
        graph.add_node("plan", self.plan)
        graph.add_node("fetch", self.fetch)
        graph.add_node("check", self.check)
        graph.add_node("editing", review.compile())
        policy = RetryPolicy(initial_interval=0.001, max_attempts=3, retry_on=ConnectionError)
        graph.add_node("publish", self.publish, retry_policy=policy)
        graph.add_edge(START, "plan")
        graph.add_conditional_edges("plan", self.spread, ["fetch", "check"])
        graph.add_edge("fetch", "editing")
        graph.add_edge("check", "editing")
        graph.add_edge("editing", "publish")
        graph.add_edge("publish", END)
        return graph.compile(checkpointer=saver)


class Signalling(HoldfastSaver):
    """Tells the workflow when what a fetcher found is stored."""

    workflow: Workflow

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        super().put_writes(config, writes, task_id, task_path)
        self.tell(writes)

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        await super().aput_writes(config, writes, task_id, task_path)
        self.tell(writes)

    def tell(self, writes: Sequence[tuple[str, Any]]) -> None:
        if any(channel == "found" and found for channel, found in writes):
            self.workflow.stored.release()


def next_input(state: Any) -> Any:
    """Return what the graph is to be called with now: the question's answer, nothing, or its first input."""
    if state.interrupts:
        return Command(resume="good")
    return None if state.next else {"found": []}


def run(url: str, workflow: Workflow) -> dict[str, Any]:
    saver = Signalling.from_url(url)
    saver.workflow = workflow
    with saver:
        graph = workflow.build(saver)
        graph.invoke(next_input(graph.get_state(CONFIG)), CONFIG, durability="sync")
        return report(graph.get_state(CONFIG))


async def arun(url: str, workflow: Workflow) -> dict[str, Any]:
    saver = Signalling.from_url(url)
    saver.workflow = workflow
    async with saver:
        graph = workflow.build(saver)
        await graph.ainvoke(next_input(await graph.aget_state(CONFIG)), CONFIG, durability="sync")
        return report(await graph.aget_state(CONFIG))


def report(state: Any) -> dict[str, Any]:
    values = state.values
    return {
        "found": sorted(values.get("found", [])),
        "messages": [[type(each).__name__, each.content] for each in values.get("messages", [])],
        "article": values.get("article"),
        "interrupts": [each.value for each in state.interrupts],
        "next": list(state.next),
    }


if __name__ == "__main__":
    side, url, journal, *rest = sys.argv[1:]
    made = Workflow(Path(journal), rest[0] if rest else None)
    print(json.dumps(run(url, made) if side == "sync" else asyncio.run(arun(url, made))))
