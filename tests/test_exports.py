"""What is public exists, is documented, and is no more than it says."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import FunctionType, ModuleType
from typing import Any

import pytest

import headgate

# Modules that only their own program can import: Alembic's entry, `python -m headgate`.
NOT_IMPORTABLE = ("headgate.store.migrations.env", "headgate.__main__")

MODULES = [
    "headgate",
    *(
        found.name
        for found in pkgutil.walk_packages(headgate.__path__, "headgate.")
        if found.name not in NOT_IMPORTABLE
    ),
]


def undocumented(name: str, value: Any) -> list[str]:
    """The names of an exported thing, and of its members, that have no docstring."""
    if isinstance(value, type):
        members = [*methods_of(value)]
        own = documents_itself(value)
    else:
        members = []
        own = not isinstance(value, FunctionType) or bool(inspect.getdoc(value))
    missing = [f"{name}.{member}" for member in members if not inherited_doc(value, member)]
    return missing if own else [name, *missing]


def documents_itself(kind: type) -> bool:
    """Tell whether a class has a docstring of its own, not its parent's nor a generated one."""
    text = vars(kind).get("__doc__") or ""
    return bool(text) and not text.startswith(f"{kind.__name__}(")


def methods_of(kind: type) -> list[str]:
    """The public methods and properties that a class defines itself."""
    plain = (FunctionType, classmethod, staticmethod, property)
    return [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and isinstance(member, plain)
    ]


def inherited_doc(kind: type, name: str) -> str | None:
    """The docstring of a member; one that overrides keeps its parent's."""
    return inspect.getdoc(inspect.getattr_static(kind, name)) or next(
        (doc for parent in kind.__mro__[1:] if (doc := inspect.getdoc(vars(parent).get(name)))),
        None,
    )


@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_it_is_for(name: str) -> None:
    """Every module opens with a sentence on what it is for."""
    assert inspect.getdoc(importlib.import_module(name)), f"{name} has no docstring"


@pytest.mark.parametrize("name", MODULES)
def test_exports_exist(name: str) -> None:
    """Every name of `__all__` is there, once."""
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert [each for each in exported if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", MODULES)
def test_exports_are_documented(name: str) -> None:
    """Every exported class, with its public methods and properties, and function is documented."""
    module = importlib.import_module(name)
    missing = [
        each
        for exported in getattr(module, "__all__", [])
        for each in undocumented(exported, getattr(module, exported, None))
    ]
    assert missing == []


def test_headgate_exports_what_it_says() -> None:
    """`headgate.__all__` is sorted, and nothing else that is Headgate's own is public there."""
    exported = headgate.__all__
    assert list(exported) == sorted(exported)
    for name in exported:
        getattr(headgate, name)
    assert own_names(headgate) - set(exported) == set()
    assert set(exported) - set(dir(headgate)) == set(), "dir() and completion show all of it"


def own_names(module: ModuleType) -> set[str]:
    """The public names of a module that Headgate itself defined; its submodules left out."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and str(getattr(value, "__module__", "")).startswith("headgate")
    }


class Plain:
    """A documented class for the tests below."""

    def shown(self) -> None:
        """Do nothing."""

    def hidden(self) -> None: ...

    @property
    def value(self) -> int:
        return 1


class Silent(Plain):
    def shown(self) -> None: ...


def test_missing_docstrings_are_found() -> None:
    """The rule itself: what lacks a docstring is named; an override keeps its parent's."""
    assert undocumented("Plain", Plain) == ["Plain.hidden", "Plain.value"]
    assert undocumented("Silent", Silent) == ["Silent"]
    assert undocumented("f", lambda: None) == ["f"]
    assert undocumented("LIMIT", 3) == []
