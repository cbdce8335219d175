"""What a user gets: the distribution built as for the index, installed alone with its declared dependencies."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.test_layers import ADAPTERS
from tests.unasync import PACKAGES, ROOT


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", target, cwd=ROOT)
    return next(target.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from the sdist, as pip does where it finds no wheel: what the sdist lacks, the wheel lacks."""
    target = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel")
    run(*pip, "--no-build-isolation", "--no-deps", "-w", target, sdist, cwd=target)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def shipped(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_the_packages_whole_and_nothing_else(shipped: set[str]) -> None:
    assert shipped == {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".sql", ".lua", ".typed"}
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_ships_both_sides_its_sql_its_migrations_and_its_types(shipped: set[str], package: str) -> None:
    assert {f"{package}/_async/__init__.py", f"{package}/_sync/__init__.py", f"{package}/py.typed"} <= shipped
    folders = ["sql", "migrations/postgresql", "migrations/sqlite"]
    if package == "persistence":
        folders = ["sql"]  # its one table is made by the migrator itself
    for folder in folders:
        assert [name for name in shipped if name.startswith(f"{package}/{folder}/") and name.endswith(".sql")], folder


def test_the_sdist_holds_what_the_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"}
    assert needed | {"tests/unasync.py", "examples/research_agent.py"} <= names


IMPORT_ALL = """
import importlib.util, sys, threading
for name in sys.argv[1:]:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
for absent in ("tests", "examples"):
    assert importlib.util.find_spec(absent) is None, absent
"""


def test_every_module_imports_with_the_declared_dependencies_alone(
    wheel: Path, shipped: set[str], tmp_path: Path
) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", python)
    run(*pip, "install", "--no-compile", "--only-binary", ":all:", wheel, cwd=tmp_path)
    sources = (name.removesuffix(".py") for name in shipped if name.endswith(".py"))
    modules = {source.removesuffix("/__init__").replace("/", ".") for source in sources}
    run(python, "-I", "-W", "error", "-c", IMPORT_ALL, *sorted(modules - ADAPTERS), cwd=tmp_path)
