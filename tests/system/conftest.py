"""A gateway in this process with the handlers that a test writes, and a client of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent

import pytest

import headgate

Plant = Callable[..., headgate.Gateway]
"""Takes the scripts of the project ACME by the handlers' names; returns the gateway, started."""

ECHO = "def handleMessage(payload):\n    return payload"


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """Start gateways whose project ACME has the given handlers."""
    with ExitStack() as stack:

        def start(*, project: str = "ACME", name: str = "hub", **handlers: str) -> headgate.Gateway:
            projects = tmp_path / f"{name}-projects"
            messages = projects / project / "messages"
            messages.mkdir(parents=True)
            for handler, source in handlers.items():
                (messages / f"{handler}.py").write_text(dedent(source), "utf-8")
            gateway = headgate.Gateway(name, projects=projects, port=0, data=tmp_path / name)
            return stack.enter_context(gateway)

        yield start


@pytest.fixture
def hub(plant: Plant) -> headgate.Gateway:
    """A gateway with the handlers echo and fail."""
    return plant(echo=ECHO, fail="def handleMessage(payload):\n    raise KeyError('valve')")


@pytest.fixture
def client(hub: headgate.Gateway) -> Iterator[headgate.Client]:
    """A client of that gateway, of the project ACME."""
    with headgate.connect(hub.url, project="ACME") as client:
        yield client
