"""The map of `docs/design.md`: imports go downward only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import headgate

PACKAGE = Path(headgate.__file__).parent

PURE = {
    *("dataset", "deadlines", "errors", "handler", "invocation", "outcome", "request", "scalars"),
    "stream",
}
BELOW_GATEWAY = {"security", "store", "network", "projects", "runtimes"}
ROOT = ""

# A part, a module or package right under headgate/, and the parts that it may import. Everything
# may import itself. The root, headgate/__init__.py, is above all: only the edges may import it.
MAY_IMPORT: dict[str, set[str]] = {
    # L0: pure
    **dict.fromkeys(PURE, PURE),
    # L1: sans-I/O
    "wire": PURE,
    "exchange": PURE | {"wire"},
    "scope": PURE | {"wire"},
    # The manual's functions stand on the scope alone, so clients and gateways can both offer them.
    "system": PURE | {"scope"},
    "threads": set(),
    # L2: channel stands beside the others, gateway on all of them
    **dict.fromkeys(BELOW_GATEWAY, PURE | {"wire", "scope", "threads"} | BELOW_GATEWAY),
    "channel": PURE | {"wire", "security", "threads"},
    # What a worker process runs: it never sees the gateway, its store or its secrets.
    "worker": PURE | {"wire", "scope", "system", "threads", "projects", "runtimes"},
    "gateway": PURE | {"wire", "scope", "system", "threads", "channel"} | BELOW_GATEWAY,
    # L3: edges
    "client": PURE | {"wire", "exchange", "scope", "threads", "channel", "system"},
    "cli": PURE
    | {"wire", "scope", "channel", "security", "store", "projects", "gateway", "client", "system"}
    | {ROOT},
    "__main__": {"cli"},
    ROOT: PURE | {"scope", "gateway", "client", "network", "system"},
}

# The packages of others that a part may import, where that is restricted.
THIRD_PARTY: dict[str, set[str]] = {
    **{part: {"msgspec"} for part in PURE},
    # NumPy stands in one function, which needs it where an array arrives.
    "wire": {"msgpack", "msgspec", "ormsgpack", "numpy"},
}

# What a part must not even have from the standard library: no loop, no socket, no clock.
FORBIDDEN: dict[str, set[str]] = {
    "wire": {
        *("asyncio", "concurrent", "multiprocessing", "queue", "sched", "select", "selectors"),
        *("signal", "socket", "socketserver", "ssl", "subprocess", "threading", "time"),
    },
}


@dataclass(frozen=True)
class Import:
    """One import: who, where, and the full name of what."""

    part: str
    place: str
    target: str

    @property
    def top(self) -> str:
        """The imported package: `headgate`, one of the standard library, or another."""
        return self.target.partition(".")[0]

    @property
    def target_part(self) -> str:
        """The imported part, for an import of headgate."""
        _, *names = self.target.split(".")
        return names[0] if len(names) > 1 or (names and names[0] in MAY_IMPORT) else ROOT


def parts() -> dict[str, list[Path]]:
    """The files of each part that exists; the root's are the first of all."""
    found: dict[str, list[Path]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        top = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(ROOT if top == "__init__" else top, []).append(file)
    return found


def imports() -> Iterator[Import]:
    """Every import of headgate's source, also those inside functions and for type checkers."""
    for part, files in parts().items():
        for file in files:
            yield from imports_of(file.read_text(encoding="utf-8"), file=file, part=part)


def imports_of(source: str, *, file: Path, part: str) -> Iterator[Import]:
    """The imports of one module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            place = f"{file.relative_to(PACKAGE.parent)}:{node.lineno}"
            for target in targets(node, file):
                yield Import(part, place, target)


def targets(node: ast.Import | ast.ImportFrom, file: Path) -> list[str]:
    """The full names that an import statement asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    module = node.module or ""
    if node.level:
        package = file.relative_to(PACKAGE.parent).parent.parts
        module = ".".join([*package[: len(package) - node.level + 1], *filter(None, [module])])
    return [f"{module}.{alias.name}" for alias in node.names]


def problem(found: Import) -> str | None:
    """Say what is wrong with an import, or None."""
    if found.part not in MAY_IMPORT:
        return (
            f"the part {found.part!r} has no layer: add it to MAY_IMPORT in {Path(__file__).name}"
        )
    if found.top == "headgate":
        return headgate_problem(found)
    if found.top in sys.stdlib_module_names:
        forbidden = found.top in FORBIDDEN.get(found.part, set())
        return f"{found.part} must do without {found.top}" if forbidden else None
    allowed = THIRD_PARTY.get(found.part)
    wrong = allowed is not None and found.top not in allowed
    return f"{found.part} may not import {found.top}" if wrong else None


def headgate_problem(found: Import) -> str | None:
    """Say what is wrong with an import of headgate itself, or None."""
    if found.target == "headgate.__version__":
        return None
    allowed = MAY_IMPORT[found.part] | {found.part}
    name = found.target_part or "the root package"
    return None if found.target_part in allowed else f"{found.part} may not import {name}"


def test_imports_go_downward() -> None:
    """No module imports one that stands above it, nor what its layer must do without."""
    wrong = {f"{found.place}: {why}" for found in imports() if (why := problem(found))}
    assert not wrong, "\n" + "\n".join(sorted(wrong))


def test_every_part_has_a_layer() -> None:
    """A new module right under headgate/ is entered in the table, even if it imports nothing."""
    missing = sorted(set(parts()) - set(MAY_IMPORT))
    assert not missing, f"add {missing} to MAY_IMPORT in {Path(__file__).name}"


def test_table_has_no_circle() -> None:
    """Outside the pure parts and those below the gateway, no two parts may import each other."""
    for part, allowed in MAY_IMPORT.items():
        for other in allowed - {part}:
            together = {part, other} <= PURE or {part, other} <= BELOW_GATEWAY
            assert together or part not in MAY_IMPORT.get(other, set()), f"{part} and {other}"


def test_source_is_read() -> None:
    """The imports are those of the real source: the part that everything stands on is there."""
    assert "errors" in parts()
    assert any(found.target.startswith("headgate.errors.") for found in imports())


@pytest.mark.parametrize(
    ("file", "source", "why"),
    [
        ("errors.py", "import headgate.outcome", None),
        ("errors.py", "import headgate.wire", "errors may not import wire"),
        ("errors.py", "from headgate import wire", "errors may not import wire"),
        ("errors.py", "from headgate.client import Client", "errors may not import client"),
        ("errors.py", "import msgspec, attrs", "errors may not import attrs"),
        ("errors.py", "from headgate import connect", "errors may not import the root package"),
        ("errors.py", "from headgate import __version__", None),
        ("wire/session.py", "import time", "wire must do without time"),
        ("wire/session.py", "from asyncio import sleep", "wire must do without asyncio"),
        ("wire/session.py", "def f():\n    import socket", "wire must do without socket"),
        ("wire/session.py", "if TYPE_CHECKING:\n    import ssl", "wire must do without ssl"),
        ("wire/session.py", "import ormsgpack, struct", None),
        ("wire/session.py", "from ..errors import HeadgateError", None),
        ("wire/session.py", "from . import frames", None),
        ("store/store.py", "from ..gateway.project import Project", "store may not import gateway"),
        ("gateway/gateway.py", "import headgate.runtimes.project, sqlalchemy", None),
        ("new.py", "import os", "the part 'new' has no layer"),
    ],
)
def test_rule(file: str, source: str, why: str | None) -> None:
    """The rule itself: each kind of import is read and judged."""
    part = file.partition("/")[0].removesuffix(".py")
    found = [problem(each) for each in imports_of(source, file=PACKAGE / file, part=part)]
    reasons = [reason for reason in found if reason]
    assert bool(reasons) == bool(why), reasons
    assert not why or why in reasons[0]
