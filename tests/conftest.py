"""What all tests share: a home of their own, and a rig of gateways and clients."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import headgate
from headgate.security.audit import Record
from headgate.security.policy import Permission, RulePolicy


@pytest.fixture(autouse=True)
def headgate_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a folder of its own for Headgate's data."""
    home = tmp_path / "headgate-home"
    monkeypatch.setenv("HEADGATE_HOME", str(home))
    return home


def from_everywhere() -> RulePolicy:
    """Return a policy that lets callers of all other gateways do everything."""
    return RulePolicy([Permission(allow=True, gateways=("*",))])


class Rig:
    """
    The gateways and clients of one test.

    Each gateway's globals hold ``go``, an event that is set when the test is over, and ``running``,
    a queue: `HOLD` puts its payload there when it begins, then waits for ``go``.
    """

    ECHO = "def handleMessage(payload):\n    return payload\n"

    HOLD = """
        def handleMessage(payload, context):
            system.util.globals["running"].put(payload)
            system.util.globals["go"].wait(20)
            return payload
        """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._gateways: list[headgate.Gateway] = []
        self._clients: list[headgate.Client] = []

    def projects(self, scripts: dict[str, str], name: str = "hub") -> Path:
        """Write scripts, by project/handler or by path with ending, and return their folder."""
        folder = self.folder / name / "projects"
        folder.mkdir(parents=True, exist_ok=True)
        for place, text in scripts.items():
            project, _, handler = place.partition("/")
            script = handler.endswith((".py", ".toml"))
            file = folder / (place if script else f"{project}/messages/{handler}.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text), encoding="utf-8")
        return folder

    def gateway(
        self, scripts: dict[str, str], name: str = "hub", **options: Any
    ) -> headgate.Gateway:
        """Start a gateway with these scripts; in a network, it lets all others do everything."""
        options = {"port": 0, "data": self.folder / name / "data", **options}
        if "network" in options:
            options.setdefault("policy", from_everywhere())
        gateway = headgate.Gateway(name, projects=self.projects(scripts, name), **options)
        gateway.globals.update(go=threading.Event(), running=queue.Queue())
        gateway.start()
        self._gateways.append(gateway)
        return gateway

    def client(self, gateway: headgate.Gateway, **options: Any) -> headgate.Client:
        """Connect a client."""
        client = headgate.connect(gateway.url, **options)
        self._clients.append(client)
        return client

    @staticmethod
    def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        """Wait until a condition holds, and return it; for what nobody announces."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, "It did not come to pass"
            time.sleep(0.002)
        return value

    @classmethod
    def settle(cls, owner: headgate.Gateway | headgate.Client) -> None:
        """Wait until every table is empty, but for the list of sessions."""

        def left() -> dict[str, int]:
            return {name: n for name, n in owner.stats().items() if n and name != "sessions"}

        end = time.monotonic() + 30
        while left() and time.monotonic() < end:
            time.sleep(0.002)
        assert left() == {}, f"left in the tables of {owner}"

    def end(self) -> None:
        """Let everything come to its end; fail if something is left in a table."""
        try:
            for gateway in self._gateways:
                gateway.globals["go"].set()
            # A gateway that was stopped in the middle of something takes no end of it any more.
            running = [gateway for gateway in self._gateways if gateway._serves]
            for owner in (*self._clients, *running):
                self.settle(owner)
        finally:
            for client in self._clients:
                client.close()
            for gateway in self._gateways:
                gateway.stop(0.1)


class Records:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        self.records.append(record)

    def told(self, event: str, text: str) -> bool:
        """Whether an event was recorded whose detail has this text."""
        return any(r.event == event and text in r.detail for r in list(self.records))


@pytest.fixture
def records() -> Records:
    """A recorder for a gateway's audit."""
    return Records()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Gateways and clients; at the end of the test nothing may be left in any of their tables."""
    rig = Rig(tmp_path)
    yield rig
    rig.end()


@pytest.fixture(scope="module")
def module_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The same for all tests of a module."""
    folder = tmp_path_factory.mktemp("rig")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADGATE_HOME", str(folder / "home"))
        rig = Rig(folder)
        yield rig
        rig.end()
