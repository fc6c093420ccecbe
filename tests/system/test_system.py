"""`headgate.system`, the package, and `System`, which is bound to a scope."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import headgate
from headgate.system import System, dataset, gui, net, project, util
from headgate.system.namespace import Namespace

Plant = Callable[..., headgate.Gateway]

MODULES: list[tuple[ModuleType, str]] = [
    (util, "Util"),
    (gui, "Gui"),
    (net, "Net"),
    (project, "Project"),
    (dataset, "DatasetFunctions"),
]


# --- from where the package calls -----------------------------------------------------------------


def test_only_client(client: headgate.Client) -> None:
    """Where one client is open, headgate.system calls through it."""
    assert headgate.system.util.sendRequest("ACME", "echo", {"a": 1}) == {"a": 1}
    assert headgate.system.project.getProjectName() == "panels"


def test_no_client(hub: headgate.Gateway) -> None:
    """Where none is open the error says how to connect; a closed one does not count."""
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"Not connected: call headgate\.connect\(\)"):
            headgate.system.util.sendRequest("ACME", "echo")
        with headgate.connect(hub.url):
            assert headgate.system.util.sendRequest("ACME", "echo") == {}


def test_failed_connect(hub: headgate.Gateway) -> None:
    """A client that could not connect does not count."""
    with pytest.raises(headgate.GatewayUnreachable):
        headgate.connect("ws://127.0.0.1:9")
    with headgate.connect(hub.url):
        assert headgate.system.util.sendRequest("ACME", "echo") == {}


def test_several_clients(hub: headgate.Gateway, client: headgate.Client) -> None:
    """Where several are open the error says to use client.system, until one is left."""
    with headgate.connect(hub.url, project="other") as other:
        with pytest.raises(RuntimeError, match=r"2 clients are open.*client\.system"):
            headgate.system.util.sendRequest("ACME", "echo")
        assert other.system.util.getProjectName() == "other"
    assert headgate.system.util.getProjectName() == "panels"


async def test_client_of_an_event_loop(hub: headgate.Gateway) -> None:
    """A client under `async with` counts as long as its block."""
    async with headgate.connect(hub.url, project="loop"):
        assert await headgate.system.util.sendRequestAsync("ACME", "echo", {"a": 1}) == {"a": 1}
        assert headgate.system.util.getProjectName() == "loop"
    with pytest.raises(RuntimeError, match="Not connected"):
        headgate.system.util.getProjectName()


INSIDE = """
    {definition} handleMessage(payload, context):
        from headgate import system as facade
        facade.util.globals["seen"] = context.caller.session
        names = [facade.util.getProjectName(), facade.project.getProjectName()]
        return [*names, facade.util.globals is system.util.globals]
    """


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_handler(plant: Plant, definition: str) -> None:
    """In a handler headgate.system calls from the handler's project, whatever client is open."""
    hub = plant(inside=INSIDE.format(definition=definition))
    with headgate.connect(hub.url, project="panels") as client:
        assert client.system.util.sendRequest("ACME", "inside") == ["ACME", "ACME", True]
        assert hub.system.util.globals == {"seen": client.session_id}


def test_asynchronous_function_of_a_handler(plant: Plant) -> None:
    """It does on the threads that a handler starts with invokeAsynchronous, too."""
    hub = plant(
        inside="""
            from headgate import system as facade
            def handleMessage(payload):
                names = []
                work = lambda: names.append(facade.util.getProjectName())
                facade.util.invokeAsynchronous(work).join(20)
                return names
            """
    )
    assert hub.system.util.sendRequest("ACME", "inside") == ["ACME"]


# --- how it is built ------------------------------------------------------------------------------


def test_imports(client: headgate.Client) -> None:
    """Its parts are plain modules: every form of import gives the same functions."""
    import headgate.system.util as by_path
    from headgate.system.util import sendRequest

    assert importlib.import_module("headgate.system.util") is by_path is headgate.system.util
    assert sendRequest("ACME", "echo", {"a": 1}) == {"a": 1}


@pytest.mark.parametrize(("module", "kind"), MODULES)
def test_module_and_class_agree(module: ModuleType, kind: str) -> None:
    """A module has the functions of its class, all of them, and lists them."""
    namespace: type[Namespace] = getattr(module, kind)
    methods = {name for name, _ in inspect.getmembers(namespace, inspect.isfunction)}
    public = {name for name in methods if not name.startswith("_")}
    assert public <= set(module.__all__)
    for name in public:
        assert getattr(module, name).__func__ is getattr(namespace, name)


def test_bound(client: headgate.Client, hub: headgate.Gateway) -> None:
    """A client's and a gateway's system are bound to them, and list what they have."""
    for system in (client.system, hub.system):
        assert isinstance(system, System)
        assert {"util", "gui", "net", "project"} <= set(dir(system))
        assert "sendRequestAsync" in dir(system.util)
        assert not [name for name in dir(system.util) if name.startswith("_")]
        assert repr(system.util) == "<system.util>"


TYPED = """
import headgate
from headgate import system

client: headgate.Client
reveal_type(headgate.system.util.sendRequestAsync("ACME", "test", {"number": 55}))
reveal_type(system.util.sendMessage("ACME", "test"))
reveal_type(client.system.util.sendRequestAsync)
reveal_type(client.system.net.getRemoteServers())
reveal_type(system.util.getLogger("a").isInfoEnabled())
reveal_type(system.util.globals)
system.util.sendRequestAsynch("ACME", "test")
client.system.util.sendRequest("ACME", "test", timeout=5)
"""


def test_types(tmp_path: Path) -> None:
    """A type checker knows the functions, of the package and bound, and sees what is wrong."""
    pytest.importorskip("mypy")
    (tmp_path / "script.py").write_text(TYPED, "utf-8")
    # Not the repository's own cache: it was made with other options.
    cache = Path(__file__).parents[2] / ".mypy_cache" / "test_types"
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    revealed = [line for line in lines if "Revealed" in line]
    errors = [line for line in lines if line.startswith("error")]
    assert "headgate.request.Request" in revealed[0], done.stdout
    assert "list[" in revealed[1]
    assert all(name in revealed[2] for name in ("messageHandler: ", "hostName: "))
    assert "str" in revealed[3]
    assert "bool" in revealed[4]
    assert "dict[" in revealed[5]
    assert len(errors) == 2, done.stdout
    assert "sendRequestAsynch" in errors[0]
    assert "timeout" in errors[1]
