"""The faces: what a package's `__init__` offers is sorted, documented and alike on both sides, and it does nothing."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.unasync import PACKAGES, ROOT, twin


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


@pytest.fixture
def face(package: ModuleType) -> ast.Module:
    return ast.parse((ROOT / package.__name__ / "__init__.py").read_text())


def public_classes(package: ModuleType) -> list[type]:
    return [offered for name in package.__all__ if inspect.isclass(offered := getattr(package, name))]


def public_members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield the methods and properties that our own classes in `cls`'s line define; of dunders those of a protocol."""
    protocol = {"__enter__", "__exit__", "__iter__", "__next__", "__await__"}
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        if owner is None or owner.__module__.partition(".")[0] not in PACKAGES:
            continue
        member = vars(owner)[name]
        is_method = callable(member) or isinstance(member, (property, classmethod, staticmethod))
        if is_method and (not name.startswith("_") or twin(name) in protocol):
            yield name, member


def test_the_face_is_a_docstring_imports_and_a_list_of_names(face: ast.Module) -> None:
    docstring, *statements, names = face.body
    assert ast.get_docstring(face)
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(node) for node in statements if not isinstance(node, (ast.Import, ast.ImportFrom))] == []
    assert isinstance(names, ast.Assign)
    assert ast.unparse(names.targets[0]) == "__all__"


def test_the_list_of_names_is_sorted_and_is_what_the_imports_bind(package: ModuleType, face: ast.Module) -> None:
    bound = [
        alias.asname or alias.name
        for node in face.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    ]
    assert list(package.__all__) == sorted(bound)
    assert len(set(bound)) == len(bound)


def test_everything_offered_has_a_docstring(package: ModuleType) -> None:
    bare = []
    for name in package.__all__:
        offered = getattr(package, name)
        if inspect.isclass(offered):
            text = vars(offered).get("__doc__") or ""
            # A dataclass or named tuple without a docstring gets its signature for one.
            if not text.strip() or text.startswith(f"{name}("):
                bare.append(name)
            bare += [
                f"{name}.{member}"
                for member, value in public_members(offered)
                if not member.startswith("__")
                and not inspect.isclass(value)
                and not inspect.getdoc(getattr(offered, member))
            ]
        elif callable(offered) and not inspect.getdoc(offered):
            bare.append(name)
    assert bare == []


def test_every_class_that_waits_is_offered_on_both_sides(package: ModuleType) -> None:
    lonely = []
    for cls in public_classes(package):
        if cls.__name__.startswith("Async") and twin(cls.__name__) not in package.__all__:
            lonely.append(f"{cls.__name__} without {twin(cls.__name__)}")
        if "._sync." in cls.__module__ and f"Async{cls.__name__}" not in package.__all__:
            lonely.append(f"{cls.__name__} without Async{cls.__name__}")
    assert lonely == []


def test_both_sides_of_a_class_have_the_same_methods(package: ModuleType) -> None:
    different = {}
    for cls in public_classes(package):
        other = getattr(package, twin(cls.__name__), None)
        if other is not None and other is not cls:
            ours = {twin(name) for name, _ in public_members(cls)}
            theirs = {name for name, _ in public_members(other)}
            if ours != theirs:
                different[cls.__name__] = ours ^ theirs
    assert different == {}
