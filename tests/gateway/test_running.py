"""What runs on a gateway: `@gateway/ps`, `@gateway/stack` and `Gateway.running`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import HandlerNotFound, PayloadError, PermissionDenied
from headgate.invocation import Caller
from headgate.network.memory import MemoryNetwork

if TYPE_CHECKING:
    from conftest import Rig

AWAIT = """
    import asyncio

    async def wait(payload):
        await asyncio.sleep(payload)

    async def handleMessage(payload, context):
        system.util.globals["running"].put(payload)
        await wait(20)
    """

OUTER = """
    def handleMessage(payload):
        return system.util.sendRequest("ACME", "hold", payload)
    """


NOTHING = {"running": [], "queued": [], "workers": [], "draining": False}
"""What `ps` tells of a gateway at which nothing runs."""


class OnlySee:
    """Lets everybody do everything but what needs the action ``administer``."""

    def authorise(self, caller: Caller, action: Any, project: str, handler: str) -> None:
        if action == "administer":
            raise PermissionDenied(f"No {action} on {project}/{handler}", started=False)


def rows(owner: Any) -> dict[str, dict[str, Any]]:
    """What runs, by handler."""
    found = owner.request("@gateway", "ps").get()["running"]
    return {row["handler"]: row for row in found}


def begun(hub: headgate.Gateway, count: int = 1) -> None:
    """Wait until so many handlers have begun."""
    for _ in range(count):
        hub.globals["running"].get(timeout=20)


class TestTable:
    def test_nothing_runs(self, rig: Rig) -> None:
        """Without a run both lists are empty; the request that asks is none."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        assert rig.client(hub).request("@gateway", "ps").get() == NOTHING

    def test_a_run_has_its_place_and_its_caller(self, rig: Rig) -> None:
        """A row says what runs, on which thread, since when and for whom."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client = rig.client(hub, host_name="panel-7")
        handle = client.request("ACME", "hold", {})
        begun(hub)
        first = rows(client)["hold"]
        assert first["seconds"] > 0
        assert rows(client)["hold"]["seconds"] > first["seconds"]
        assert first.keys() - {"seconds", "cpu_seconds", "user"} == {
            *("id", "request_id", "project", "handler", "place", "async", "state"),
            *("waits_for", "host", "session", "gateway", "pid", "memory", "priority"),
        }
        assert first["request_id"] == handle.request_id
        assert first["id"] == "1-1"
        assert first["session"] == handle.request_id[:20]
        assert (first["project"], first["place"], first["async"]) == ("ACME", "headgate-ACME-1", 0)
        assert (first["state"], first["waits_for"], first["host"]) == ("running", None, "panel-7")
        assert (first["pid"], first["memory"], first["priority"]) == (os.getpid(), None, "normal")
        assert (first["gateway"], bool(first["user"])) == ([], True)

    def test_the_python_api_tells_the_same(self, rig: Rig) -> None:
        """`Gateway.running` is what clients get, also before the start and after the end."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        assert headgate.Gateway("other", projects={}).running() == NOTHING
        rig.client(hub).request("ACME", "hold", {})
        begun(hub)
        (row,) = hub.running()["running"]
        assert row["handler"] == "hold"
        hub.globals["go"].set()
        hub.stop()
        assert hub.running() == NOTHING

    def test_a_handler_that_waits_for_another(self, rig: Rig) -> None:
        """It waits, and the table says for what; its own request is shown by the same caller."""
        hub = rig.gateway({"ACME/outer": OUTER, "ACME/hold": rig.HOLD})
        client = rig.client(hub)
        client.request("ACME", "outer", {})
        begun(hub)
        found = rig.until(lambda: (r := rows(client))["outer"]["state"] == "waiting" and r)
        assert found["outer"]["waits_for"] == "ACME/hold"
        assert found["hold"]["state"] == "running"
        assert found["hold"]["id"] == "0-1"
        assert found["hold"]["user"] == found["outer"]["user"]

    @pytest.mark.parametrize("end", ["timeout", "cancel"])
    def test_an_abandoned_run(self, rig: Rig, end: str) -> None:
        """It is shown while its handler has not returned, and counted in `stats`."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client = rig.client(hub)
        handle = client.request("ACME", "hold", {}, timeout=0.7 if end == "timeout" else 60)
        begun(hub)
        if end == "cancel":
            handle.cancel()
        assert handle.getError() is not None
        row = rig.until(lambda: (row := rows(client)["hold"])["state"] == "abandoned" and row)
        assert row["request_id"] == handle.request_id
        assert client.request("@gateway", "stats").get()["handlers_abandoned"] == 1
        hub.globals["go"].set()
        rig.until(lambda: not rows(client))

    def test_async_handlers(self, rig: Rig) -> None:
        """Tasks are shown with the thread of their loop; their processor time is not known."""
        hub = rig.gateway({"ACME/await": AWAIT})
        client = rig.client(hub)
        handle = client.request("ACME", "await", {})
        begun(hub)
        row = rows(client)["await"]
        assert (row["async"], row["place"]) == (True, "headgate-ACME-async")
        assert (row["state"], row["cpu_seconds"]) == ("running", None)
        handle.cancel()

    def test_what_waits_to_begin_is_counted(self, rig: Rig) -> None:
        """Calls behind a handler's concurrency, a thread of its own or a full pool are queued."""
        hub = rig.gateway(
            {
                "ACME/hold": rig.HOLD,
                "ACME/one": rig.HOLD,
                "ACME/own": rig.HOLD,
                "ACME/project.toml": """
                    [handlers.one]
                    concurrency = 1
                    [handlers.own]
                    threading = "Dedicated"
                    """,
            }
        )
        client = rig.client(hub)
        for handler, count in (("one", 3), ("own", 4)):
            for _ in range(count):
                client.request("ACME", handler, {})
        for _ in range(9):
            client.request("ACME", "hold", {})
        begun(hub, 1 + 1 + 7)
        assert client.request("@gateway", "ps").get()["queued"] == [
            {"project": "ACME", "handler": "hold", "queued": 2},
            {"project": "ACME", "handler": "one", "queued": 2},
            {"project": "ACME", "handler": "own", "queued": 3},
        ]

    def test_a_run_for_another_gateway(self, rig: Rig) -> None:
        """The gateway that a request came through is named."""
        network = MemoryNetwork()
        hub = rig.gateway({}, "hub", network=network)
        plant = rig.gateway({"ACME/hold": rig.HOLD}, "plant", network=network)
        client = rig.client(hub)
        client.request("ACME", "hold", {}, remote_server="plant")
        begun(plant)
        assert rows(client) == {}
        found = client.request("@gateway", "ps", remote_server="plant").get()["running"]
        assert [row["gateway"] for row in found] == [["hub"]]
        plant.globals["go"].set()


class TestStack:
    def test_of_a_thread(self, rig: Rig) -> None:
        """It begins in the handler, ends where that is, and has the run's row with it."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client = rig.client(hub)
        handle = client.request("ACME", "hold", {})
        begun(hub)
        script = str(hub.projects["ACME"].handlers["hold"].file)

        def waits() -> Any:
            found = client.request("@gateway", "stack", {"id": "1-1"}).get()
            return found if "go" in "".join(found["stack"]) else None

        found = rig.until(waits)
        assert found["request_id"] == handle.request_id
        assert f'File "{script}", line' in found["stack"][0]
        assert found["stack"][0].endswith("in handleMessage")
        assert found["stack"][1].strip() == 'system.util.globals["go"].wait(20)'
        assert "threading.py" in found["stack"][-2]

    def test_of_a_task(self, rig: Rig) -> None:
        """It has every coroutine from the handler to what is awaited."""
        hub = rig.gateway({"ACME/await": AWAIT})
        client = rig.client(hub)
        handle = client.request("ACME", "await", {})
        begun(hub)

        def names() -> list[str]:
            found = client.request("@gateway", "stack", {"id": handle.request_id}).get()
            return [line.split(" in ")[-1] for line in found["stack"] if " in " in line]

        rig.until(lambda: names() == ["handleMessage", "wait", "sleep"])
        handle.cancel()

    def test_ids_may_be_short(self, rig: Rig) -> None:
        """The ID, the request's ID, and the beginning of one that no other has, all do."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client = rig.client(hub)
        handles = [client.request("ACME", "hold", {}) for _ in range(2)]
        begun(hub, 2)
        second = handles[1].request_id
        for run_id in ("1-2", second, second[-32:]):
            found = client.request("@gateway", "stack", {"id": run_id}).get()
            assert found["request_id"] == second
        error = client.request("@gateway", "stack", {"id": "1-"}).getError()
        assert isinstance(error, HandlerNotFound)
        assert str(error).startswith("The ids of 2 runs begin with '1-': ")
        assert second in str(error)

    def test_an_id_that_begins_others_is_its_own(self, rig: Rig) -> None:
        """An ID in full is never taken for the beginning of a longer one."""
        hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/echo": rig.ECHO})
        client = rig.client(hub)
        client.request("ACME", "hold", {})
        for _ in range(8):
            client.request("ACME", "echo", {}).get()
        client.request("ACME", "hold", {})
        begun(hub, 2)
        assert {row["id"] for row in hub.running()["running"]} == {"1-1", "1-10"}
        assert client.request("@gateway", "stack", {"id": "1-1"}).get()["id"] == "1-1"

    def test_an_unknown_id(self, rig: Rig) -> None:
        """HandlerNotFound names it, and tells where to look."""
        error = rig.client(rig.gateway({})).request("@gateway", "stack", {"id": "7-1"}).getError()
        assert isinstance(error, HandlerNotFound)
        assert str(error) == "Nothing runs here that has the id '7-1'. See: headgate ps"

    @pytest.mark.parametrize(
        "payload", [{}, [1], {"id": ""}, {"id": 5}, {"id": "x" * 5000}], ids=str
    )
    def test_a_payload_that_is_none(self, rig: Rig, payload: Any) -> None:
        """PayloadError says what it takes; a long one is not even decoded."""
        error = rig.client(rig.gateway({})).request("@gateway", "stack", payload).getError()
        assert isinstance(error, PayloadError)
        assert error.started is False

    def test_needs_its_own_permission(self, rig: Rig) -> None:
        """Who may see what runs may not for that see inside of it, by request or message."""
        hub = rig.gateway({"ACME/hold": rig.HOLD}, policy=OnlySee())
        client = rig.client(hub)
        client.request("ACME", "hold", {})
        begun(hub)
        assert rows(client).keys() == {"hold"}
        error = client.request("@gateway", "stack", {"id": "1-1"}).getError()
        assert isinstance(error, PermissionDenied)
        assert str(error) == "No administer on @gateway/stack"
        (line,) = client.message("@gateway", "stack", {"id": "1-1"}, scope="G").get()
        assert line.endswith("sendStatus=DENIED")
        hub.globals["go"].set()


class TestWatchdog:
    def test_a_gateway_has_one(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        """A handler that computes for long is named in the gateway's log."""
        script = """
            def handleMessage(payload):
                while not system.util.globals["go"].is_set():
                    pass
            """
        hub = rig.gateway({"ACME/spin": script})
        rig.client(hub).request("ACME", "spin", {})
        rig.until(lambda: "The handler ACME/spin holds the interpreter" in caplog.text, 60)
        hub.globals["go"].set()
