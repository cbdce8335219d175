"""What two agents remember together: people, places and how they hang together, and what they may change.

On a real PostgreSQL, which is started for it. Both agents write the same nodes at once; nothing gets lost.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from persistence import DatabaseManager, EmbeddedPostgreSQL
from sessions import Approval, Edge, MemoryGraph, Node, NotPermittedError

PEOPLE = ("ada", "bob", "cleo", "dan")
PLACES = ("observatory", "harbour", "library")


def remember(graph: MemoryGraph, agent: str) -> None:
    """Write what one agent saw: of each person the same node, with an attribute of its own."""
    mine = graph.for_actor(agent)
    for number, person in enumerate(PEOPLE):
        mine.add_node(Node(person, "USER", {f"seen by {agent}": number}))
        mine.add_node(Node(PLACES[number % 3], "CONCEPT", {"text": f"the old {PLACES[number % 3]}"}))
        mine.add_edge(Edge(person, "visits", PLACES[number % 3], attributes={agent: True}))
    mine.add_edges([Edge(one, "knows", other) for one, other in pairwise(PEOPLE)])


def together(graph: MemoryGraph) -> None:
    """Let both agents write at the same time, and look at what is there."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda agent: remember(graph, agent), ("scout", "planner")))
    print(f"{graph.count()} nodes, {graph.count_edges()} edges")
    for person in graph.find(type="USER"):
        print(f"  {person.id:<5} version {person.version}: {sorted(person.attributes)}")
        assert sorted(person.attributes) == ["seen by planner", "seen by scout"]

    print("\nwithin two steps of ada:")
    for each in graph.neighbours("ada", depth=2):
        print(f"  {each.depth}  {each.node.id}")
    path = graph.shortest_path("ada", "dan", relationship="knows")
    assert path is not None
    print("ada to dan:", " -> ".join(path.nodes))
    print("who knows the old library:", [edge.source for edge in graph.edges("library", direction="in")])
    print("about 'old harbour':", [(found.node.id, found.score) for found in graph.search("old harbour")])


def over_time(graph: MemoryGraph) -> None:
    """Change the configuration while both run, and look back."""
    graph.for_actor("planner").set_config("visits.limit", 3)
    graph.for_actor("scout").set_config("visits.limit", 5, expected_version=1)
    print("\nvisits.limit:", [(each.version, each.value, each.by) for each in graph.config_history("visits.limit")])
    assert (graph.get_config("visits.limit"), graph.get_config("visits.limit", as_of=1)) == (5, 3)


def identity(graph: MemoryGraph) -> None:
    """Change who the agent is, which takes the approval of somebody else."""
    self = graph.in_scope("IDENTITY").for_actor("scout")
    try:
        self.add_node(Node("self", "AGENT", {"tone": "brisk"}))
    except NotPermittedError as error:
        print(f"\nrefused: {error}")
    self.add_node(Node("self", "AGENT", {"tone": "calm"}), approved_by=Approval("ada", "asked for at breakfast"))
    for change in self.approvals():
        assert change.approval is not None
        print(f"approved: {change.id} {change.attributes} by {change.approval.by}: {change.approval.reason}")


def main() -> None:
    """Run all of it."""
    with TemporaryDirectory() as folder, EmbeddedPostgreSQL(Path(folder)) as server, DatabaseManager() as manager:
        manager.add_postgresql("main", server.config())
        graph = MemoryGraph(manager, "main")
        together(graph)
        over_time(graph)
        identity(graph)


if __name__ == "__main__":
    main()
