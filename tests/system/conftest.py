"""A gateway in this process with the handlers that a test writes, and a client of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import headgate

if TYPE_CHECKING:
    from conftest import Rig


@pytest.fixture
def plant(rig: Rig, tmp_path: Path) -> Iterator[Callable[..., headgate.Gateway]]:
    """Give a function that starts a gateway whose project ACME has the handlers given by name."""
    with ExitStack() as stack:

        def start(name: str = "hub", /, **handlers: str) -> headgate.Gateway:
            # Not the rig's own gateways: these have nothing in their globals.
            scripts = {f"ACME/{handler}": source for handler, source in handlers.items()}
            projects, data = rig.projects(scripts, name), tmp_path / name / "data"
            gateway = headgate.Gateway(name, projects=projects, port=0, data=data)
            stack.enter_context(gateway)
            assert gateway.problems == []
            return gateway

        yield start


@pytest.fixture
def hub(plant: Callable[..., headgate.Gateway]) -> headgate.Gateway:
    """A gateway with some handlers."""
    return plant(
        echo="def handleMessage(payload):\n    return payload",
        fail="def handleMessage(payload):\n    raise KeyError('valve')",
        slow="import time\ndef handleMessage(payload):\n    time.sleep(0.4)",
        count="""
            def handleMessage(payload):
                system.util.globals["count"] = system.util.globals.get("count", 0) + 1
                return system.util.globals["count"]
            """,
    )


@pytest.fixture
def client(hub: headgate.Gateway) -> Iterator[headgate.Client]:
    """A client of that gateway, of the project panels."""
    with headgate.connect(hub.url, project="panels") as client:
        yield client
