"""The arrows between the layers: who may import whom, read from the source so that no import can hide in a function."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.unasync import PACKAGES, ROOT

STORES = ("checkpoint", "vectorstore", "sessions")
ADAPTERS = {
    "persistence.prometheus",
    "persistence.opentelemetry",
    "checkpoint.langgraph",
    "vectorstore.langchain",
    "sessions.openai_agents",
    "sessions.google_adk",
    "sessions.langchain_history",
    "sessions.langgraph_store",
    "sessions.networkx_graph",
}
ENTRIES = {"__init__", "__main__", "cli"}
"""Beside them, the subcommands: every module ``x_cli``."""


@dataclass(frozen=True)
class Import:
    """One module name that `importer` asks for; `from a import b` asks for `a` and perhaps for `a.b`."""

    importer: str
    line: int
    name: str

    def is_in(self, *modules: str) -> bool:
        return any(self.name == module or self.name.startswith(f"{module}.") for module in modules)

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.name}"


def imports_of(source: str, importer: str, package: str) -> Iterator[Import]:
    """Yield every import in `source`, in functions too, with relative names resolved against `package`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield Import(importer, node.lineno, name)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def modules() -> dict[str, list[Import]]:
    """Return every module with its imports."""
    return {
        module_name(path): list(imports_of(path.read_text(), module_name(path), module_name(path.parent)))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def violations(importers: Iterator[str], *, of: tuple[str, ...]) -> list[str]:
    return sorted({str(found) for importer in importers for found in modules()[importer] if found.is_in(*of)})


def of_package(package: str, side: str | None = None) -> Iterator[str]:
    prefix = f"{package}.{side}." if side else f"{package}."
    return (module for module in modules() if module.startswith(prefix))


@pytest.mark.parametrize("store", STORES)
def test_a_store_never_imports_another_store(store: str) -> None:
    others = tuple(other for other in STORES if other != store)
    assert violations(of_package(store), of=others) == []


def test_persistence_imports_no_store() -> None:
    assert violations(of_package("persistence"), of=STORES) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_sync_side_knows_neither_the_async_side_nor_asyncio(package: str) -> None:
    forbidden = (*(f"{other}._async" for other in PACKAGES), "asyncio", "redis.asyncio")
    assert violations(of_package(package, "_sync"), of=forbidden) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_async_side_never_imports_the_sync_side(package: str) -> None:
    assert violations(of_package(package, "_async"), of=tuple(f"{other}._sync" for other in PACKAGES)) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_plain_module_imports_from_neither_side(package: str) -> None:
    plain = (
        module
        for module in of_package(package)
        if module.split(".")[1] not in {"_async", "_sync", *ENTRIES}
        and not module.endswith("_cli")
        and module not in ADAPTERS
    )
    sides = tuple(f"{other}.{side}" for other in PACKAGES for side in ("_async", "_sync"))
    assert violations(plain, of=sides) == []


def test_nobody_imports_an_adapter() -> None:
    assert violations(iter(modules()), of=tuple(ADAPTERS)) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_has_both_sides_to_look_at(package: str) -> None:
    assert list(of_package(package, "_async"))
    assert list(of_package(package, "_sync"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import checkpoint.records", {"checkpoint.records"}),
        ("from checkpoint import records", {"checkpoint", "checkpoint.records"}),
        ("from . import compat", {"sessions._async", "sessions._async.compat"}),
        ("from .._sync.tasks import take", {"sessions._sync.tasks", "sessions._sync.tasks.take"}),
        ("def f():\n    import asyncio", {"asyncio"}),
        ("if TYPE_CHECKING:\n    from asyncio import Task", {"asyncio", "asyncio.Task"}),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, expected: set[str]) -> None:
    assert {found.name for found in imports_of(source, "sessions._async.tasks", "sessions._async")} == expected


def test_a_name_that_only_begins_alike_is_not_the_module() -> None:
    assert Import("m", 1, "checkpoint.records").is_in("checkpoint")
    assert not Import("m", 1, "checkpointing").is_in("checkpoint")
