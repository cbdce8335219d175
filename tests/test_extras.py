"""What is said where an extra is not installed."""

from __future__ import annotations

import ast
import importlib
import runpy
import sys
from pathlib import Path

import pytest

from persistence import CapabilityError, MissingExtraError
from persistence.extras import extra

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("module", "package", "name"),
    [
        ("checkpoint.langgraph", "langgraph.checkpoint.base", "langgraph"),
        ("persistence.opentelemetry", "opentelemetry", "opentelemetry"),
        ("persistence.prometheus", "prometheus_client", "metrics"),
        ("sessions.google_adk", "google.adk.sessions.session", "google-adk"),
        ("sessions.langchain_history", "langchain_core.messages", "langchain"),
        ("sessions.langgraph_store", "langgraph.store.base", "langgraph"),
        ("sessions.networkx_graph", "networkx", "networkx"),
        ("sessions.openai_agents", "agents.memory", "openai-agents"),
        ("vectorstore.langchain", "langchain_core.embeddings", "langchain"),
    ],
)
def test_an_adapter_names_its_extra(monkeypatch: pytest.MonkeyPatch, module: str, package: str, name: str) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"^{package} is not installed") as caught:
        importlib.import_module(module)
    assert caught.value.hint == f'pip install "holdfast[{name}]"'


def test_an_example_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.bar", None)
    with pytest.raises(MissingExtraError, match=r"^rich\.bar is not installed") as caught:
        runpy.run_path(str(EXAMPLES / "model_usage.py"))
    assert caught.value.hint == 'pip install "holdfast[examples]"'


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_what_an_example_imports_beside_the_dependencies_is_of_a_named_extra(path: Path) -> None:
    known = {*sys.stdlib_module_names, "persistence", "checkpoint", "vectorstore", "sessions", "research", "numpy"}
    tree = ast.parse(path.read_text())
    named = {each for block in ast.walk(tree) if isinstance(block, ast.With) for each in block.body}
    for each in ast.walk(tree):
        if each not in named and isinstance(each, ast.Import | ast.ImportFrom):
            modules = [one.name for one in each.names] if isinstance(each, ast.Import) else [each.module or ""]
            assert {module.partition(".")[0] for module in modules} <= known, ast.unparse(each)


def test_a_package_that_is_too_old_is_told_from_a_missing_one() -> None:
    said = "a package of the extra crypto is too old: cannot import name 'newer'"
    with pytest.raises(ImportError, match=said), extra("crypto"):
        from json import newer  # type: ignore[attr-defined]  # noqa: F401
    assert issubclass(MissingExtraError, CapabilityError)
