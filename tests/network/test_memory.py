"""Gateways of one process that answer each other."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import (
    CancellationException,
    ConfigurationError,
    ConnectionLost,
    GatewayUnreachable,
    HandlerError,
    HandlerNotFound,
    RequestTimeout,
)
from headgate.network.memory import MemoryNetwork

if TYPE_CHECKING:
    from conftest import Rig

COOPERATIVE = """
    import time
    def handleMessage(payload, context):
        system.util.globals["running"].put(context.remaining())
        while not context.cancelled:
            time.sleep(0.001)
        system.util.globals["running"].put("cancelled")
    """
WHO = """
    def handleMessage(payload, context):
        caller = context.caller
        return caller.user, caller.host, caller.gateway, caller.session
    """


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def sites(rig: Rig, network: MemoryNetwork) -> tuple[headgate.Gateway, headgate.Gateway]:
    """Two gateways, hub and plant, with the same handlers."""
    scripts = {
        "ACME/where": "def handleMessage(payload, context): return system.net.getRemoteServers()",
        "ACME/echo": rig.ECHO,
        "ACME/hold": COOPERATIVE,
        "ACME/who": WHO,
        "ACME/bad": "def handleMessage(payload): raise KeyError('valve')",
        "ACME/work": """
            def handleMessage(payload, context):
                context.progress({"half": True})
                system.util.globals["seen"].wait(20)
                return "done"
            """,
    }
    hub = rig.gateway(scripts, "hub", network=network)
    plant = rig.gateway(scripts, "plant", network=network)
    plant.globals["seen"] = threading.Event()
    return hub, plant


@pytest.fixture(params=["client", "in process"])
def caller(request: pytest.FixtureRequest, rig: Rig, sites: Any) -> Any:
    """Somebody at the hub."""
    return (
        rig.client(sites[0], host_name="panel") if request.param == "client" else sites[0].scope("")
    )


def begun(gateway: headgate.Gateway) -> Any:
    return gateway.globals["running"].get(timeout=20)


class TestRequests:
    def test_each_answers_the_other(self, rig: Rig, sites: Any) -> None:
        """remoteServer= reaches the other gateway's handlers, in both directions."""
        hub, plant = sites
        assert rig.client(hub).request("ACME", "echo", 1, remote_server="plant").get() == 1
        assert rig.client(plant).request("ACME", "echo", 2, remote_server="hub").get() == 2
        assert hub.scope("").request("ACME", "where", remote_server="PLANT").get() == ["hub"]

    def test_the_servers_are_listed(self, caller: Any) -> None:
        """remote_servers() names the others, without the gateway itself."""
        assert caller.remote_servers() == ["plant"]

    def test_the_caller_shows_the_way_it_came(self, rig: Rig, sites: Any) -> None:
        """context.caller there has the same user and host, and the chain of gateways."""
        hub, _ = sites
        client = rig.client(hub, host_name="panel")
        here = client.request("ACME", "who").get()
        there = client.request("ACME", "who", remote_server="plant").get()
        assert there[:2] == here[:2]
        assert (here[2], there[2]) == ((), ("hub",))
        assert there[3] == ""

    def test_an_error_keeps_its_type(self, caller: Any) -> None:
        """Errors of the other gateway and of its handlers arrive as what they are."""
        error = caller.request("ACME", "bad", remote_server="plant").getError()
        assert isinstance(error, HandlerError)
        assert (error.remote_type, error.remote_message) == ("KeyError", "'valve'")
        assert "bad.py" in error.remote_traceback
        error = caller.request("ACME", "none", remote_server="plant").getError()
        assert isinstance(error, HandlerNotFound)
        assert error.started is False

    def test_progress_comes_through(self, caller: Any, sites: Any) -> None:
        """Progress of a handler there reaches the caller here, before the result."""
        values = []

        def seen(value: Any) -> None:
            values.append(value)
            sites[1].globals["seen"].set()

        handle = caller.request("ACME", "work", remote_server="plant", on_progress=seen)
        assert handle.get() == "done"
        assert values == [{"half": True}]

    def test_a_cancel_goes_through(self, caller: Any, sites: Any) -> None:
        """A cancel here stops the handler there, and its fate comes back."""
        handle = caller.request("ACME", "hold", remote_server="plant")
        begun(sites[1])
        assert handle.cancel()
        assert isinstance(handle.error(), CancellationException)
        assert begun(sites[1]) == "cancelled"
        assert handle.wait_fate(20) == "finished"

    def test_the_deadline_goes_through(self, caller: Any, sites: Any) -> None:
        """The handler there has no more time than the caller here gave, and both end then."""
        handle = caller.request("ACME", "hold", remote_server="plant", timeout=1)
        assert begun(sites[1]) <= 1
        error = handle.getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is True
        assert begun(sites[1]) == "cancelled"

    def test_a_caller_that_leaves_stops_what_it_asked_there(self, sites: Any) -> None:
        """Closing the connection here cancels the handler there."""
        hub, plant = sites
        client = headgate.connect(hub.url)
        client.request("ACME", "hold", remote_server="plant")
        begun(plant)
        client.close()
        assert begun(plant) == "cancelled"

    def test_a_nested_request_goes_through(self, rig: Rig, network: MemoryNetwork) -> None:
        """A handler's request to another gateway has the caller, and is cancelled with it."""
        ask = "def handleMessage(p): return system.util.sendRequest('ACME', p['next'], {}, 'plant')"
        hub = rig.gateway({"ACME/ask": ask}, "hub", network=network)
        plant = rig.gateway({"ACME/who": WHO, "ACME/hold": COOPERATIVE}, "plant", network=network)
        client = rig.client(hub, host_name="panel")
        answer = client.request("ACME", "ask", {"next": "who"}).get()
        assert answer[1:3] == ("panel", ("hub",))
        handle = client.request("ACME", "ask", {"next": "hold"})
        begun(plant)
        handle.cancel()
        assert begun(plant) == "cancelled"
        handle = client.request("ACME", "ask", {"next": "hold"}, timeout=1)
        begun(plant)
        assert isinstance(handle.getError(), RequestTimeout)
        assert begun(plant) == "cancelled"
        assert handle.wait_fate(20) == "finished"


class TestUnreachable:
    def test_an_unknown_name_is_an_error_at_once(self, caller: Any) -> None:
        """GatewayUnreachable names what can be reached, and nothing started."""
        error = caller.request("ACME", "echo", remote_server="mars").getError()
        assert isinstance(error, GatewayUnreachable)
        assert "'mars'" in str(error)
        assert "Reachable now: plant" in str(error)
        assert error.started is False

    def test_a_gateway_that_stopped_is_unknown(self, caller: Any, sites: Any) -> None:
        """After it left, it cannot be reached."""
        sites[1].stop()
        error = caller.request("ACME", "echo", remote_server="plant").getError()
        assert isinstance(error, GatewayUnreachable)
        assert error.started is False
        assert caller.remote_servers() == []

    def test_a_gateway_that_stops_ends_what_it_was_asked(self, caller: Any, sites: Any) -> None:
        """Requests in flight there end with an error here when their grace is over."""
        handle = caller.request("ACME", "hold", remote_server="plant")
        begun(sites[1])
        sites[1].stop(0.05)
        assert isinstance(handle.getError(), ConnectionLost)

    def test_asking_while_the_other_stops_never_hangs(self, caller: Any, sites: Any) -> None:
        """Whatever moment the other gateway stops at, each request ends."""
        handles = []

        def ask() -> None:
            for n in range(400):
                handles.append(caller.request("ACME", "echo", n, remote_server="plant", timeout=8))

        asking = threading.Thread(target=ask)
        asking.start()
        sites[1].stop(0.05)
        asking.join()
        for handle in handles:
            assert not isinstance(handle.getError(), RequestTimeout)

    def test_a_name_is_taken_once(self, rig: Rig, sites: Any, network: MemoryNetwork) -> None:
        """A second gateway of the same name is refused, and the first one stays reachable."""
        with pytest.raises(ConfigurationError, match="PLANT"):
            headgate.Gateway(
                "PLANT", projects=rig.projects({}), port=0, data=rig.folder / "x", network=network
            ).start()
        assert sites[0].scope("").request("ACME", "echo", 1, remote_server="plant").get() == 1


class TestDeadlock:
    ONE = """
        import headgate
        @headgate.handler(threading="Dedicated")
        def handleMessage(payload):
            if payload:
                return "second"
            {wait}
        """
    TWO = "def handleMessage(p): return system.util.sendRequest('A', 'one', {'again': 1}, 'hub')"

    @pytest.mark.parametrize("late", [False, True])
    def test_a_circle_through_another_gateway(
        self, rig: Rig, network: MemoryNetwork, late: bool
    ) -> None:
        """A Dedicated handler that waits for itself by way of another gateway is told."""
        wait = "return system.util.sendRequest('A', 'two', {}, 'plant')"
        if late:
            wait = (
                "handle = system.util.sendRequestAsync('A', 'two', {}, 'plant'); "
                "system.util.globals['go'].wait(20); return handle.get()"
            )
        hub = rig.gateway({"A/one": self.ONE.format(wait=wait)}, "hub", network=network)
        rig.gateway({"A/two": self.TWO}, "plant", network=network)
        handle = rig.client(hub).request("A", "one", timeout=8)
        if late:
            # The word that A/two runs has come, and it waits for A/one here.
            rig.until(lambda: hub.stats()["handlers_queued"] == 1)
            rig.until(
                lambda: any(i.announced for i in hub._requests.on_this_node() if i.remote_server)
            )
            hub.globals["go"].set()
        error = handle.getError()
        assert isinstance(error, HandlerError)
        assert "would wait for ever" in str(error)

    def test_a_chain_through_gateways_is_counted(self, rig: Rig, network: MemoryNetwork) -> None:
        """The limit of sixteen holds wherever the handlers run."""
        ask = "def handleMessage(p): return system.util.sendRequest('A', 'ask', {{}}, '{other}')"
        hub = rig.gateway({"A/ask": ask.format(other="plant")}, "hub", network=network)
        rig.gateway({"A/ask": ask.format(other="hub")}, "plant", network=network)
        error = rig.client(hub).request("A", "ask", timeout=20).getError()
        assert isinstance(error, HandlerError)
        assert "number 17" in str(error)
