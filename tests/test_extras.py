"""What is said where an extra is not installed."""

from __future__ import annotations

import importlib
import sys

import pytest

from persistence import CapabilityError, MissingExtraError
from persistence.extras import extra


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


def test_a_package_that_is_too_old_is_told_from_a_missing_one() -> None:
    said = "a package of the extra crypto is too old: cannot import name 'newer'"
    with pytest.raises(ImportError, match=said), extra("crypto"):
        from json import newer  # type: ignore[attr-defined]  # noqa: F401
    assert issubclass(MissingExtraError, CapabilityError)
