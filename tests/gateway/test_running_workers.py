"""What runs in worker processes: seen, looked into, named, cancelled and waited for."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import CancellationException

if TYPE_CHECKING:
    from conftest import Rig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")

PROJECT = """
    [pool]
    workers = 2

    [defaults]
    runtime = "process"
    """

SLEEPS = """
    import time

    def sleeps(seconds):
        time.sleep(seconds)

    def handleMessage(payload):
        sleeps(30)
    """

HOLDS = """
    def handleMessage(payload):
        sum(range(10**13))
    """

SPINS = """
    def handleMessage(payload):
        while True:
            pass
    """

AWAITS = """
    import asyncio

    async def sleeps(seconds):
        await asyncio.sleep(seconds)

    async def handleMessage(payload):
        await sleeps(30)
    """

ASKS = """
    def handleMessage(payload):
        return system.util.sendRequest("ACME", "run", payload)
    """


def plant(rig: Rig, **scripts: str) -> headgate.Gateway:
    """Start a gateway with these handlers in two worker processes."""
    return rig.gateway(
        {"ACME/project.toml": PROJECT, **{f"ACME/{name}": text for name, text in scripts.items()}}
    )


def row(rig: Rig, hub: headgate.Gateway, handler: str = "run") -> dict[str, Any]:
    """Wait until a handler runs, and return its row."""

    def found() -> list[dict[str, Any]]:
        return [row for row in hub.running()["running"] if row["handler"] == handler]

    (only,) = rig.until(found)
    return dict(only)


def cancelled(client: headgate.Client, row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.request("@gateway", "cancel", {"id": row["id"]}).get()
    return found


class TestTable:
    def test_a_run_has_its_worker(self, rig: Rig) -> None:
        """A row has the worker's process, what it holds and what the run has used."""
        hub = plant(rig, run=SPINS)
        client = rig.client(hub)
        client.request("ACME", "run", {})
        first = row(rig, hub)
        assert first["pid"] != os.getpid()
        os.kill(first["pid"], 0)
        assert (first["place"], first["state"]) == (f"worker {first['pid']}", "running")
        assert first["async"] is False
        assert first["memory"] > 1 << 20
        rig.until(lambda: row(rig, hub)["cpu_seconds"] > first["cpu_seconds"])
        cancelled(client, first)

    def test_the_workers_of_a_project(self, rig: Rig) -> None:
        """Idle ones and busy ones have a row each, with age and memory."""
        hub = plant(rig, run=SLEEPS)
        client = rig.client(hub)
        client.request("ACME", "run", {})
        pid = row(rig, hub)["pid"]

        def states() -> dict[int, str]:
            rows = client.request("@gateway", "ps").get()["workers"]
            assert {each["project"] for each in rows} <= {"ACME"}
            assert all(each["age"] >= 0 for each in rows)
            return {each["pid"]: each["state"] for each in rows if each["memory"]}

        found = rig.until(lambda: len(s := states()) == 2 and s)
        assert found.pop(pid) == "busy"
        assert list(found.values()) == ["idle"]
        cancelled(client, row(rig, hub))

    def test_one_that_waits_for_another(self, rig: Rig) -> None:
        """The table says for what."""
        hub = plant(rig, outer=ASKS, run=SLEEPS)
        client = rig.client(hub)
        client.request("ACME", "outer", {})
        inner = row(rig, hub)
        outer = rig.until(lambda: (r := row(rig, hub, "outer"))["state"] == "waiting" and r)
        assert outer["waits_for"] == "ACME/run"
        assert outer["pid"] != inner["pid"]
        assert cancelled(client, outer)["fate"] == "stopped"
        rig.until(lambda: hub.running()["running"] == [])


class TestStack:
    @pytest.mark.parametrize(
        ("script", "names", "line"),
        [
            (SLEEPS, ["handleMessage", "sleeps"], "time.sleep(seconds)"),
            (HOLDS, ["handleMessage"], "sum(range(10**13))"),
            (SPINS, ["handleMessage"], None),
        ],
        ids=["waits", "in C with the interpreter", "computes"],
    )
    def test_of_a_worker(self, rig: Rig, script: str, names: list[str], line: str | None) -> None:
        """It begins in the handler and ends where that is, with the lines of the script."""
        hub = plant(rig, run=script)
        client = rig.client(hub)
        client.request("ACME", "run", {})
        run = row(rig, hub)

        def stack() -> list[str]:
            found = client.request("@gateway", "stack", {"id": run["id"]}).get()["stack"]
            return list(found)

        def ends() -> list[str] | None:
            found = stack()
            return found if len(found) == 2 * len(names) else None

        lines = rig.until(ends)
        assert [each.rpartition(" in ")[2] for each in lines[::2]] == names
        assert 'messages/run.py", line ' in lines[0]
        assert line is None or lines[-1].strip() == line
        cancelled(client, run)


class TestCancel:
    @pytest.mark.parametrize("script", [SLEEPS, HOLDS, SPINS, AWAITS], ids=range(4))
    def test_of_a_run(self, rig: Rig, script: str) -> None:
        """Its worker is killed, and that is told to both."""
        hub = plant(rig, run=script)
        client = rig.client(hub)
        handle = client.request("ACME", "run", {})
        run = row(rig, hub)
        found = cancelled(client, run)
        assert (found["cancelled"], found["fate"]) == (True, "stopped")
        error = handle.getError()
        assert isinstance(error, CancellationException)
        assert (error.started, handle.wait_fate(20)) == (True, "stopped")
        rig.until(lambda: hub.running()["running"] == [])

    def test_of_one_that_waits(self, rig: Rig) -> None:
        """It never begins; `ps` has a row for it while it waits."""
        hub = plant(rig, run=SLEEPS)
        client = rig.client(hub)
        handles = [client.request("ACME", "run", {}) for _ in range(2)]
        run = row(rig, hub)

        def queue() -> list[dict[str, Any]]:
            return list(client.request("@gateway", "ps", {"queue": True}).get()["queue"])

        (waiting,) = rig.until(lambda: len(q := queue()) == 1 and q)
        assert {waiting["request_id"], run["request_id"]} == {h.request_id for h in handles}
        assert cancelled(client, waiting)["fate"] == "not started"
        assert hub.running()["running"][0]["request_id"] == run["request_id"]
        cancelled(client, run)
        errors = {handle.request_id: handle.getError() for handle in handles}
        told = [error is not None and error.started for error in errors.values()]
        assert sorted(told) == [False, True]
        assert getattr(errors[waiting["request_id"]], "started", None) is False


def test_a_slow_run_is_named(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the worker and the last lines of the stack in it."""
    hub = rig.gateway(
        {
            "ACME/project.toml": PROJECT.rstrip() + "\n    warn_after = 0.05\n",
            "ACME/run": HOLDS,
            "ACME/task": AWAITS,
        }
    )
    client = rig.client(hub)
    client.request("ACME", "run", {})
    run = row(rig, hub)
    text = f", worker {run['pid']}, running.)"
    rig.until(lambda: text in caplog.text)
    assert "sum(range(10**13))" in caplog.text
    cancelled(client, run)


def test_a_gateway_that_drains_waits_for_workers(rig: Rig) -> None:
    """What a worker runs is under way, until it ends or its worker is killed."""
    hub = plant(rig, run=SLEEPS)
    client = rig.client(hub)
    client.request("ACME", "run", {})
    run = row(rig, hub)
    assert hub.drain(timeout=0) is False
    os.kill(run["pid"], signal.SIGKILL)
    assert hub.drain(timeout=30) is True
    hub.resume()
