"""The client's side imports on Windows, without the gateway's packages, and quickly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import headgate

PACKAGE = Path(headgate.__file__).parent

# Right under headgate/: what only runs in a gateway or beside one. All else is the client's side.
GATEWAY_SIDE = {"gateway", "runtimes", "worker", "security", "store", "network", "__main__"}

POSIX_ONLY = ["fcntl", "grp", "pwd", "resource", "termios", "uvloop"]

# What `headgate[gateway]` adds to the core.
GATEWAY_PACKAGES = [
    *("alembic", "annotated_types", "argon2", "cryptography", "pydantic", "pydantic_settings"),
    *("sqlalchemy", "structlog", "uvloop"),
]

# What `headgate[tables]` adds, for values that only those have who have imported it.
TABLE_PACKAGES = ["numpy", "pandas", "polars", "pyarrow"]

# What `import headgate` leaves for later.
HEAVY = [*GATEWAY_PACKAGES, *TABLE_PACKAGES, "rich", "typer"]

IMPORT_EACH = """
import importlib, json, sys, traceback
names, blocked = json.load(sys.stdin)
sys.modules.update(dict.fromkeys(blocked))
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except BaseException:
        failed[name] = traceback.format_exc(limit=-1)
print(json.dumps(failed))
"""


def client_side() -> list[str]:
    """The names of all modules of the client's side."""
    files = [file.relative_to(PACKAGE.parent).with_suffix("") for file in PACKAGE.rglob("*.py")]
    names = [".".join(file.parts).removesuffix(".__init__") for file in files]
    return sorted(name for name in names if not GATEWAY_SIDE.intersection(name.split(".")[1:2]))


def import_without(blocked: list[str], names: list[str]) -> dict[str, str]:
    """Import modules in a process where `blocked` cannot be; returns the tracebacks by name."""
    out = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH],
        input=json.dumps([names, blocked]),
        capture_output=True,
        text=True,
        check=True,
    )
    failed: dict[str, str] = json.loads(out.stdout)
    return failed


def summary(failed: dict[str, str]) -> str:
    """One paragraph for each module that cannot be imported: where, and why."""
    return "\n" + "\n".join(f"{name}: {text}" for name, text in failed.items())


def import_seconds(module: str) -> float:
    """How long a new process takes to import a module with all that it needs."""
    out = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {module}"],
        capture_output=True,
        text=True,
        check=True,
    )
    *_, last = out.stderr.splitlines()
    _, cumulative, name = last.split("|")
    assert name.strip() == module
    return int(cumulative) / 1e6


def test_client_side_is_seen() -> None:
    """The modules are those of the real source."""
    assert {"headgate", "headgate.errors", "headgate.wire.frames"} <= set(client_side())
    assert not [name for name in client_side() if name.startswith("headgate.store")]


def test_blocked_module_is_found() -> None:
    """The rule itself: a module that needs what is blocked is named, with the place."""
    failed = import_without(["sqlalchemy"], ["headgate.errors", "headgate.store"])
    assert list(failed) == ["headgate.store"]
    assert "sqlalchemy" in failed["headgate.store"]


def test_client_side_needs_no_posix() -> None:
    """Every module of the client's side imports where there are no POSIX-only modules."""
    failed = import_without(POSIX_ONLY, client_side())
    assert not failed, summary(failed)


def test_client_side_needs_no_gateway_package() -> None:
    """Every module of the client's side imports where only the core is installed."""
    failed = import_without(GATEWAY_PACKAGES, client_side())
    assert not failed, summary(failed)


def test_import_brings_nothing_heavy() -> None:
    """`import headgate` leaves the server's and the command line's packages alone."""
    program = "import sys, headgate; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = out.stdout.split()
    assert "headgate" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_client_command_brings_no_gateway() -> None:
    """A command that asks a gateway imports nothing of the gateway itself, nor its settings."""
    program = """
import sys
from headgate.cli import main
sys.argv[1:] = ["handlers", "--url", "ws://127.0.0.1:1"]
try:
    main()
except SystemExit as end:
    print(end.code, *sys.modules)
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    code, *loaded = out.stdout.split()
    assert code == "4"
    assert "headgate.client" in loaded
    parts = {".".join(name.split(".")[:2]) for name in loaded}
    # Not pydantic: Typer itself uses it where it is installed.
    wanted = {"headgate.gateway", "headgate.store", "alembic", "sqlalchemy", "structlog"}
    assert sorted(parts & wanted) == []


def test_import_is_quick() -> None:
    """`import headgate` takes 150 ms at most; on a slow machine, 3 times as long as asyncio."""
    ours, asyncios = [], []
    for _ in range(20):
        ours.append(import_seconds("headgate"))
        asyncios.append(import_seconds("asyncio"))
        if len(ours) >= 5 and min(ours) <= max(0.150, 3 * min(asyncios)):
            return
    pytest.fail(f"{min(ours):.3f} s, and asyncio {min(asyncios):.3f} s")
