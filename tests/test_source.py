"""What the shipped source never does: unpickle, evaluate, run a shell, keep a password, or log what may hold one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unasync import ROOT

PACKAGES = ("persistence", "checkpoint", "vectorstore", "sessions")
# What lies in _sync/ is generated from its source.
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py") if path.parent.name != "_sync")
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}
LOGGERS = {"log", "_log", "logger", "_logger", "logging"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# What may be a DSN, or hold a password or a stored value.
UNSAID = {
    "url", "dsn", "conninfo", "config", "password", "secret", "key_bytes", "parameters", "connection_parameters",
    "reveal", "environ", "payload", "content", "state", "value", "values",
}  # fmt: skip


def faults_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and kind of each thing that must not be there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if name.partition(".")[0] in MODULES:
                    yield node.lineno, f"imports {name}"
        elif isinstance(node, ast.Call):
            yield from _faults_of_call(node)
        elif isinstance(node, ast.keyword) and node.arg in ("password", "passwd") and _is_text(node.value):
            yield node.lineno, "a password"
        elif isinstance(node, ast.Assign) and _is_text(node.value):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id.lower().endswith("password"):
                    yield node.lineno, "a password"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != ""


def _faults_of_call(node: ast.Call) -> Iterator[tuple[int, str]]:
    called = node.func
    if isinstance(called, ast.Name) and called.id in CALLS:
        yield node.lineno, f"calls {called.id}"
    options = {item.arg: item.value for item in node.keywords}
    shell = options.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        yield node.lineno, "runs a shell"
    if not isinstance(called, ast.Attribute) or not isinstance(called.value, ast.Name):
        return
    where = f"{called.value.id}.{called.attr}"
    if where in ("os.system", "os.popen"):
        yield node.lineno, "runs a shell"
    if where in ("np.load", "numpy.load"):
        pickled = options.get("allow_pickle")
        if not (isinstance(pickled, ast.Constant) and pickled.value is False):
            yield node.lineno, "np.load without allow_pickle=False"
    if called.value.id in LOGGERS and called.attr in LEVELS:
        if not isinstance(node.args[1 if called.attr == "log" else 0], ast.Constant):
            yield node.lineno, "logs a text that was put together"
        said = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        said |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
        for name in sorted(said & UNSAID):
            yield node.lineno, f"logs {name}"


def test_the_source_neither_unpickles_nor_evaluates_nor_logs_what_may_be_secret() -> None:
    assert len(FILES) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line}: {kind}"
        for path in FILES
        for line, kind in faults_of(Path(path).read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("import pickle", "imports pickle"),
        ("from yaml import load", "imports yaml"),
        ("eval(text)", "calls eval"),
        ("subprocess.run(text, shell=True)", "runs a shell"),
        ("os.system(text)", "runs a shell"),
        ("np.load(path)", "np.load without allow_pickle=False"),
        ("np.load(path, allow_pickle=True)", "np.load without allow_pickle=False"),
        ("_log.warning(f'can not reach {host}')", "logs a text that was put together"),
        ("log.info('reaching %s', self.config)", "logs config"),
        ("log.info('reaching %s', url)", "logs url"),
        ("password = 'x'", "a password"),
        ("connect(password='x')", "a password"),
    ],
)
def test_each_of_these_would_be_found(source: str, kind: str) -> None:
    assert [found for _, found in faults_of(source)] == [kind]
