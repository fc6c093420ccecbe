"""What a caller says of how its request is run: its priority, and what its own end means for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import ConnectionLost
from headgate.gateway.config import Settings
from headgate.network.memory import MemoryNetwork
from headgate.security.audit import AuditSettings

if TYPE_CHECKING:
    from conftest import Records, Rig
    from headgate.invocation import Invocation

COOPERATIVE = """
    import time
    def handleMessage(payload, context):
        shared = system.util.globals
        shared["running"].put(payload)
        while not (context.cancelled or shared["go"].is_set()):
            time.sleep(0.001)
        shared["running"].put("cancelled" if context.cancelled else "went on")
    """


def begun(gateway: headgate.Gateway) -> Any:
    """Wait until a handler has begun, and return what it put."""
    return gateway.globals["running"].get(timeout=20)


def open_on(gateway: headgate.Gateway, handler: str) -> Invocation:
    """Return what a gateway knows of the only open request to a handler."""
    (found,) = [i for i in gateway._requests.on_this_node() if i.handler == handler]
    return found


class TestPriority:
    @pytest.mark.parametrize(
        ("name", "number"), [("low", -1), ("normal", 0), ("high", 1), (None, 0)]
    )
    def test_it_comes_to_the_gateway(self, rig: Rig, name: Any, number: int) -> None:
        """A request has the priority that its caller gave it."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        for caller in (rig.client(hub), hub.scope("")):
            handle = caller.request("ACME", "hold", priority=name)
            begun(hub)
            assert open_on(hub, "hold").priority == number
            hub.globals["go"].set()
            handle.get()
            hub.globals["go"].clear()

    @pytest.mark.parametrize(("own", "number"), [({}, 1), ({"priority": "low"}, -1)])
    @pytest.mark.parametrize("way", ["gateway", "client"])
    def test_nested_requests_have_it_too(
        self, rig: Rig, own: dict[str, str], number: int, way: str
    ) -> None:
        """What a handler asks for has the priority of its own request, unless it gives another."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    return system.util.globals["ask"]("ACME", "hold", **payload).get()
                """,
                "ACME/hold": rig.HOLD,
            }
        )
        client = rig.client(hub)
        hub.globals["ask"] = (hub.scope("ACME") if way == "gateway" else client).request
        outer = client.request("ACME", "outer", own, priority="high")
        begun(hub)
        assert open_on(hub, "hold").priority == number
        hub.globals["go"].set()
        outer.get()
        del hub.globals["ask"]

    def test_it_goes_along_to_other_gateways(self, rig: Rig) -> None:
        """Another gateway of the network learns it."""
        network = MemoryNetwork()
        hub = rig.gateway({}, "hub", network=network)
        plant = rig.gateway({"ACME/hold": rig.HOLD}, "plant", network=network)
        handle = rig.client(hub).request("ACME", "hold", remote_server="plant", priority="low")
        begun(plant)
        assert open_on(plant, "hold").priority == -1
        plant.globals["go"].set()
        handle.get()

    @pytest.mark.parametrize("wishes", [{"priority": "urgent"}, {"on_disconnect": "kill"}])
    def test_a_value_that_there_is_not(self, rig: Rig, wishes: dict[str, Any]) -> None:
        """It is a ValueError that names those that there are."""
        scope = rig.gateway({"ACME/echo": rig.ECHO}).scope("")
        with pytest.raises(ValueError, match=r"low, normal, high|'cancel' or 'finish'"):
            scope.request("ACME", "echo", **wishes)


class TestDisconnect:
    def test_it_cancels_by_default(self, rig: Rig) -> None:
        """Nobody waits for the answer, so the handler is stopped as far as that goes."""
        hub = rig.gateway({"ACME/hold": COOPERATIVE})
        with headgate.connect(hub.url) as client:
            client.request("ACME", "hold", 1)
            assert begun(hub) == 1
        assert begun(hub) == "cancelled"

    @pytest.mark.parametrize("way", ["request", "setting"])
    def test_finish_lets_it_go_on(self, rig: Rig, records: Records, way: str) -> None:
        """It runs to its end, its result is dropped, and the audit has the end."""
        everything = Settings(audit=AuditSettings(requests="all"))
        setting = "" if way == "request" else "[handlers.hold]\non_disconnect = 'finish'\n"
        scripts = {"ACME/hold": COOPERATIVE, "ACME/project.toml": setting}
        hub = rig.gateway(scripts, recorder=records, config=everything)
        wishes: dict[str, Any] = {"on_disconnect": "finish"} if way == "request" else {}
        with headgate.connect(hub.url) as client:
            handle = client.request("ACME", "hold", 1, **wishes)
            assert begun(hub) == 1
        assert isinstance(handle.error(), ConnectionLost)
        rig.until(lambda: hub.stats()["sessions"] == 0)
        assert hub.stats()["open"] == 1
        hub.globals["go"].set()
        assert begun(hub) == "went on"
        rig.settle(hub)
        (answered,) = [r for r in records.records if r.event == "answered"]
        assert (answered.target, answered.outcome) == ("ACME/hold", "ok")

    def test_what_waits_begins_nevertheless(self, rig: Rig) -> None:
        """A request that is to finish runs also if it was still queued."""
        script = "import headgate\n@headgate.handler(threading='Dedicated')\n"
        script += "def handleMessage(payload):\n"
        script += "    system.util.globals['running'].put(payload)\n"
        script += "    system.util.globals['go'].wait(20)\n"
        hub = rig.gateway({"ACME/hold": script})
        first = rig.client(hub).request("ACME", "hold", 1)
        assert begun(hub) == 1
        with headgate.connect(hub.url) as client:
            client.request("ACME", "hold", 2)
            client.request("ACME", "hold", 3, on_disconnect="finish")
            rig.until(lambda: hub.stats()["handlers_queued"] == 2)
        rig.until(lambda: hub.stats()["handlers_queued"] == 1)
        hub.globals["go"].set()
        first.get()
        assert begun(hub) == 3

    def test_what_it_asked_for_goes_on_too(self, rig: Rig) -> None:
        """Its nested requests live as long as it does, also on another gateway."""
        network = MemoryNetwork()
        scripts = {
            "ACME/outer": """
            def handleMessage(payload):
                system.util.sendRequest("ACME", "hold", {"n": 1}, remoteServer="plant")
                system.util.globals["running"].put("outer returned")
            """
        }
        hub = rig.gateway(scripts, "hub", network=network)
        plant = rig.gateway({"ACME/hold": COOPERATIVE}, "plant", network=network)
        with headgate.connect(hub.url) as client:
            client.request("ACME", "outer", on_disconnect="finish")
            assert begun(plant) == {"n": 1}
        rig.until(lambda: hub.stats()["sessions"] == 0)
        plant.globals["go"].set()
        assert begun(plant) == "went on"
        assert begun(hub) == "outer returned"

    def test_its_deadline_still_ends_it(self, rig: Rig, records: Records) -> None:
        """A request without a deadline does not exist."""
        hub = rig.gateway({"ACME/hold": COOPERATIVE}, recorder=records)
        with headgate.connect(hub.url) as client:
            client.request("ACME", "hold", 1, timeout=0.7, on_disconnect="finish")
            assert begun(hub) == 1
        assert begun(hub) == "cancelled"
        rig.settle(hub)
        assert [r.outcome for r in records.records if r.event == "failed"] == ["timeout"]

    @pytest.mark.parametrize("where", ["thread", "async", "process", "another gateway"])
    def test_a_generator_runs_to_its_end(self, rig: Rig, records: Records, where: str) -> None:
        """Nobody reads its values any more, so they hold it up no longer."""
        script = FLOOD.replace("RUNTIME", "process" if where == "process" else "thread")
        if where == "async":
            script = script.replace("runtime='thread'", "").replace(
                "def handle", "async def handle"
            )
        audit = AuditSettings(requests="all")
        everything: dict[str, Any] = {"recorder": records, "config": Settings(audit=audit)}
        network = MemoryNetwork()
        hub = there = rig.gateway({"ACME/flood": script}, network=network, **everything)
        server = None
        if where == "another gateway":
            server = "plant"
            there = rig.gateway({"ACME/flood": script}, server, network=network)
        with headgate.connect(hub.url) as client:
            wishes: dict[str, Any] = {"on_disconnect": "finish", "remote_server": server}
            stream = client.request("ACME", "flood", timeout=8, **wishes).stream()
            assert next(stream) == bytes(1000)
        rig.settle(there)
        rig.settle(hub)
        (answered,) = [r for r in records.records if r.event == "answered"]
        assert (answered.target, answered.outcome) == ("ACME/flood", "ok")

    def test_a_login_that_holds_no_longer_cancels_all(self, rig: Rig) -> None:
        """Who may ask for nothing any more has nothing running either."""
        hub = rig.gateway({"ACME/hold": COOPERATIVE})
        client = rig.client(hub)
        client.request("ACME", "hold", 1, on_disconnect="finish")
        assert begun(hub) == 1
        (session,) = hub._reception.sessions.on_this_node()
        hub.call(lambda: session.end("revoked"))
        assert begun(hub) == "cancelled"


FLOOD = """
    import headgate
    @headgate.handler(runtime='RUNTIME')
    def handleMessage(payload):
        for _ in range(1000):
            yield bytes(1000)
    """
ABANDONED = """
    import asyncio, headgate
    @headgate.handler(on_timeout="abandon", concurrency=1)
    async def handleMessage(payload, context):
        shared = system.util.globals
        shared["running"].put(payload)
        while not shared["go"].is_set():
            await asyncio.sleep(0.001)
        shared["running"].put(context.cancelled)
        if payload == "raise":
            raise ValueError(payload)
        return payload
    """


class TestOnTimeout:
    @pytest.mark.parametrize("how", ["cancel", "deadline"])
    @pytest.mark.parametrize("payload", [1, "raise"])
    def test_an_async_handler_may_be_left_to_go_on(self, rig: Rig, how: str, payload: Any) -> None:
        """abandon: it is not interrupted, sees that it is cancelled, and its end is told."""
        hub = rig.gateway({"ACME/hold": ABANDONED})
        client = rig.client(hub)
        handle = client.request("ACME", "hold", payload, timeout=0.7 if how == "deadline" else 60)
        assert begun(hub) == payload
        if how == "cancel":
            rig.until(lambda: handle.started)
            handle.cancel()
        assert handle.block() is False
        assert handle.started is True
        rig.until(lambda: handle.fate == "still running")
        # It counts against the handler's concurrency until it returns.
        second = client.request("ACME", "hold", 2)
        rig.until(lambda: hub.stats()["handlers_queued"] == 1)
        assert hub.running()["running"][0]["state"] == "abandoned"
        hub.globals["go"].set()
        assert begun(hub) is True
        assert handle.wait_fate(20) == "finished"
        assert (second.get(), begun(hub), begun(hub)) == (2, 2, False)

    def test_eight_of_them_leave_the_projects_threads_alone(self, rig: Rig) -> None:
        """Only threads that hang are counted: a task holds none."""
        script = ABANDONED.replace(", concurrency=1", "")
        hub = rig.gateway({"ACME/hold": script, "ACME/echo": rig.ECHO})
        client = rig.client(hub)
        for n in range(10):
            handle = client.request("ACME", "hold", n)
            assert begun(hub) == n
            handle.cancel()
        rig.until(lambda: handle.fate == "still running")
        assert client.request("ACME", "echo", 1).get() == 1

    def test_a_thread_cannot_be_interrupted(self, rig: Rig) -> None:
        """on_timeout='interrupt' of a plain function is a problem that says what to write."""
        setting = "@headgate.handler(on_timeout='interrupt')\n"
        hub = rig.gateway(
            {
                "ACME/plain": f"import headgate\n{setting}{rig.ECHO}",
                "ACME/task": f"import headgate\n{setting}async {rig.ECHO}",
            }
        )
        (problem,) = hub.problems
        assert problem.handler == "plain"
        assert "a thread cannot be stopped" in str(problem)
        assert "`async def` function or runtime='process'" in problem.cure
        assert problem.file.endswith("plain.py")
        assert rig.client(hub).request("ACME", "task", 1).get() == 1
