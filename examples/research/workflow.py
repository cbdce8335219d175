"""The agent: three steps for each question, each one checkpointed before the next begins.

It is run by a process of its own (``research_agent.py`` starts it with ``--worker``) and may be killed at any moment:
started again, it goes on from the last checkpoint of its thread. A step that was under way left nothing behind.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

from checkpoint import Checkpoint
from research.debian import Question
from research.stores import Stores

THREAD = "debian-questions"
CACHE_SECONDS = 3600

State = dict[str, Any]
Node = Callable[[Stores, Question, State], State]


def search(stores: Stores, question: Question, state: State) -> State:
    """Find the ten packages whose descriptions are nearest to the question."""
    found = stores.packages.search(question.vector, k=10)
    return {"hits": [{"id": hit.id, "score": hit.score, "section": hit.metadata["section"]} for hit in found]}


def narrow(stores: Stores, question: Question, state: State) -> State:
    """Look once more, only within the section of Debian that most of the hits belong to."""
    section = Counter(hit["section"] for hit in state["hits"]).most_common(1)[0][0]
    found = stores.packages.search(question.vector, k=4, filter={"section": section})
    return {"section": section, "nearby": [hit.id for hit in found]}


def answer(stores: Stores, question: Question, state: State) -> State:
    """Give the best hit as the answer, and what else is in that section."""
    best = state["hits"][0]
    also = [found for found in state["nearby"] if found != best["id"]][:3]
    given = {"best": best["id"], "score": best["score"], "section": state["section"], "also": also}
    return {"answers": {**state["answers"], question.id: given}}


NODES: tuple[Node, ...] = (search, narrow, answer)
START: State = {"hits": [], "section": None, "nearby": [], "answers": {}}


def count_steps(questions: Sequence[Question]) -> int:
    """Return how many steps the workflow takes."""
    return len(questions) * len(NODES)


def run(stores: Stores, questions: Sequence[Question]) -> list[float]:
    """Run the workflow from its last checkpoint to its end; return the seconds that each save took."""
    last = stores.checkpoints.latest(THREAD)
    state, done = (last.state, last.step or 0) if last else (START, 0)
    saves = []
    for step in range(done + 1, count_steps(questions) + 1):
        question, node = questions[(step - 1) // len(NODES)], NODES[(step - 1) % len(NODES)]
        state = {**state, **node(stores, question, state)}
        started = perf_counter()
        save(stores, question, node, step, state)
        if node is not answer:
            saves.append(perf_counter() - started)
    return saves


def save(stores: Stores, question: Question, node: Node, step: int, state: State) -> None:
    """Checkpoint a step. With an answer, the thread says how far it is: both are written, or neither."""
    checkpoint = Checkpoint(
        thread_id=THREAD,
        state=state,
        step=step,
        node=node.__name__,
        metadata={"worker": os.getpid(), "question": question.id},
    )
    if node is not answer:
        stores.checkpoints.save_checkpoint(checkpoint)
        return
    with stores.manager.get_database("main").transaction():
        stores.checkpoints.save_checkpoint(checkpoint)
        stores.threads.patch(THREAD, {"answered": len(state["answers"])})
    if stores.cache is not None:
        stores.cache.set(cache_key(question), json.dumps(state["answers"][question.id]), ex=CACHE_SECONDS)


def cache_key(question: Question) -> str:
    """Return where the answer to a question is cached."""
    return f"demo:answer:{question.id}"


def work(stores: Stores, questions: Sequence[Question]) -> None:
    """Be the worker process: run the workflow, and say on stdout how long a save took."""
    saves = run(stores, questions)
    print(json.dumps({"save_seconds": median(saves) if saves else None}))
