"""A gateway that drains finishes what is under way and takes nothing new."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import GatewayUnreachable, PayloadError
from headgate.network.memory import MemoryNetwork

if TYPE_CHECKING:
    from conftest import Records, Rig

ASKS = """
    import headgate

    @headgate.handler(concurrency=1)
    def handleMessage(payload, context):
        system.util.globals["running"].put(payload)
        system.util.globals["go"].wait(20)
        return system.util.sendRequest("ACME", "echo", payload)
    """

ROUND = """
    def handleMessage(payload, context):
        system.util.globals["running"].put(payload)
        system.util.globals["go"].wait(20)
        return system.util.sendRequest("ACME", "back", payload, remoteServer="plant")
    """

BACK = """
    def handleMessage(payload):
        return system.util.sendRequest("ACME", "echo", payload, remoteServer="hub")
    """


def is_refused(request: headgate.Request) -> None:
    error = request.getError()
    assert isinstance(error, GatewayUnreachable)
    assert error.started is False
    assert " is draining: " in str(error)


def drain(client: headgate.Client, **payload: bool) -> dict[str, Any]:
    found: dict[str, Any] = client.request("@gateway", "drain", payload).get()
    return found


def test_what_is_under_way_ends_and_nothing_new_begins(rig: Rig) -> None:
    """What runs may ask for what it needs, what waits begins, new requests are refused."""
    hub = rig.gateway({"ACME/asks": ASKS, "ACME/echo": rig.ECHO})
    client = rig.client(hub)
    handles = [client.request("ACME", "asks", {"n": n}) for n in range(2)]
    hub.globals["running"].get(timeout=20)
    assert drain(client, on=True) == {"draining": True, "under_way": 2, "abandoned": 0}
    is_refused(client.request("ACME", "echo", {}))
    is_refused(client.message("ACME", "echo", {}))
    is_refused(rig.client(hub).request("ACME", "echo", {}))
    is_refused(hub.system.util.sendRequestAsync("ACME", "echo", {}))
    assert drain(client)["under_way"] == 2
    hub.globals["go"].set()
    assert [handle.get() for handle in handles] == [{"n": 0}, {"n": 1}]
    rig.until(lambda: drain(client)["under_way"] == 0)
    hub.resume()


def test_another_try_is_something_new(rig: Rig) -> None:
    """Whoever tries again is refused as at first, until service is taken up."""
    hub = rig.gateway({"ACME/echo": rig.ECHO})
    scope = hub.scope("")
    assert hub.drain() is True
    for caller in (scope, rig.client(hub)):
        is_refused(caller.request("ACME", "echo", {}, retries=1))
    handle = scope.request("ACME", "echo", {}, retries=20)
    hub.resume()
    assert handle.get() == {}


def test_service_is_taken_up_again(rig: Rig) -> None:
    """Sessions were connected throughout; `ps` and `stats` tell which it is."""
    hub = rig.gateway({"ACME/echo": rig.ECHO})
    client = rig.client(hub)
    assert hub.drain() is True
    assert client.request("@gateway", "ps").get()["draining"] is True
    assert client.request("@gateway", "stats").get()["draining"] == 1
    is_refused(client.request("ACME", "echo", {}))
    assert drain(client, on=False) == {"draining": False, "under_way": 0, "abandoned": 0}
    assert client.request("ACME", "echo", {"a": 1}).get() == {"a": 1}
    assert hub.stats()["draining"] == 0


def test_waiting_for_it(rig: Rig) -> None:
    """`Gateway.drain` waits, for abandoned runs too, until all is over or the time is up."""
    hub = rig.gateway({"ACME/hold": rig.HOLD})
    client = rig.client(hub)
    handle = client.request("ACME", "hold", {}, timeout=0.3)
    hub.globals["running"].get(timeout=20)
    assert handle.getError() is not None
    assert hub.drain(timeout=0) is False
    assert drain(client) == {"draining": True, "under_way": 1, "abandoned": 1}
    ends: list[bool] = []
    waiter = threading.Thread(target=lambda: ends.append(hub.drain()))
    waiter.start()
    hub.globals["go"].set()
    waiter.join(20)
    assert ends == [True]
    hub.resume()


def test_waiting_ends_when_service_is_taken_up(rig: Rig) -> None:
    """Who waits is told that something is under way."""
    hub = rig.gateway({"ACME/hold": rig.HOLD})
    rig.client(hub).request("ACME", "hold", {})
    hub.globals["running"].get(timeout=20)
    ends: list[bool] = []
    waiter = threading.Thread(target=lambda: ends.append(hub.drain()))
    waiter.start()
    rig.until(lambda: hub.running()["draining"])
    hub.resume()
    waiter.join(20)
    assert ends == [False]


def test_other_gateways(rig: Rig) -> None:
    """Their requests are refused, but for those that a run here needs to end."""
    network = MemoryNetwork()
    scripts = {"ACME/round": ROUND, "ACME/echo": rig.ECHO}
    hub = rig.gateway(scripts, "hub", network=network)
    plant = rig.gateway({"ACME/back": BACK}, "plant", network=network)
    client = rig.client(hub)
    handle = client.request("ACME", "round", {"n": 1})
    hub.globals["running"].get(timeout=20)
    hub.drain(timeout=0)
    is_refused(rig.client(plant).request("ACME", "echo", {}, remote_server="hub"))
    hub.globals["go"].set()
    assert handle.get() == {"n": 1}
    hub.resume()


def test_a_new_start(rig: Rig, records: Records) -> None:
    """A gateway that was stopped does not drain when it is started again; the audit tells."""
    hub = rig.gateway({"ACME/echo": rig.ECHO}, recorder=records)
    hub.drain()
    hub.drain()
    hub.stop()
    hub.start()
    assert hub.running()["draining"] is False
    assert hub.system.util.sendRequest("ACME", "echo", {"a": 1}) == {"a": 1}
    told = [r.detail for r in records.records if r.target == "@gateway/drain"]
    assert told == ["the gateway drains: it takes nothing new"]


def test_a_gateway_that_does_not_run(rig: Rig) -> None:
    """It cannot drain."""
    hub = headgate.Gateway("off", projects=rig.projects({}, "off"), data=rig.folder / "off")
    for each in (hub.drain, hub.resume):
        with pytest.raises(RuntimeError, match="The gateway 'off' does not run"):
            each()


@pytest.mark.parametrize("payload", [{"on": 1}, {"on": "yes"}, [1], 5], ids=str)
def test_a_payload_that_is_none(rig: Rig, payload: Any) -> None:
    """PayloadError says what it takes, and nothing changes."""
    hub = rig.gateway({})
    error = rig.client(hub).request("@gateway", "drain", payload).getError()
    assert isinstance(error, PayloadError)
    assert hub.running()["draining"] is False
