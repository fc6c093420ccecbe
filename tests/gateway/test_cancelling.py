"""Requests that others than their callers cancel, by their ids: `@gateway/cancel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import (
    CancellationException,
    HandlerNotFound,
    PayloadError,
    PermissionDenied,
    RequestError,
)
from headgate.invocation import Caller
from headgate.network.memory import MemoryNetwork
from headgate.security.identity import is_own

if TYPE_CHECKING:
    from conftest import Records, Rig

PASSWORD = "correct horse"

LOOKS = """
    import time

    def handleMessage(payload, context):
        system.util.globals["running"].put(payload)
        while not context.cancelled:
            time.sleep(0.002)
    """

AWAITS = """
    import asyncio

    async def handleMessage(payload, context):
        system.util.globals["running"].put(payload)
        await asyncio.sleep(20)
    """

OUTER = """
    def handleMessage(payload):
        return system.util.sendRequest("ACME", "hold", payload)
    """


def begun(hub: headgate.Gateway, count: int = 1) -> None:
    """Wait until so many handlers have begun."""
    for _ in range(count):
        hub.globals["running"].get(timeout=20)


def cancelled(client: headgate.Client, request_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.request("@gateway", "cancel", {"id": request_id}).get()
    return found


def log_in(
    rig: Rig, hub: headgate.Gateway, name: str, *, roles: Sequence[str] = ()
) -> headgate.Client:
    """Connect a new user."""
    user = {"name": name, "password": PASSWORD, "roles": list(roles)}
    rig.client(hub).request("@gateway", "user_add", user).get()
    return rig.client(hub, username=name, password=PASSWORD)


class TestFate:
    @pytest.mark.parametrize(
        ("script", "fate", "started"),
        [(LOOKS, "finished", True), (AWAITS, "stopped", True)],
        ids=["thread", "async"],
    )
    def test_of_a_run(self, rig: Rig, script: str, fate: str, started: bool) -> None:
        """What became of the handler is told, to who cancels as to the caller."""
        hub = rig.gateway({"ACME/run": script})
        handle = rig.client(hub).request("ACME", "run", {})
        begun(hub)
        assert cancelled(rig.client(hub), "1-1") == {
            "id": "1-1",
            "request_id": handle.request_id,
            "project": "ACME",
            "handler": "run",
            "cancelled": True,
            "fate": fate,
        }
        error = handle.getError()
        assert isinstance(error, CancellationException)
        assert (error.started, handle.wait_fate(20)) == (started, fate)

    def test_of_one_that_cannot_be_stopped(self, rig: Rig) -> None:
        """It is told that the handler runs on; cancelled again, that the request was over."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client = rig.client(hub)
        handle = client.request("ACME", "hold", {})
        begun(hub)
        first = cancelled(client, handle.request_id)
        assert (first["cancelled"], first["fate"]) == (True, "still running")
        again = cancelled(client, handle.request_id)
        assert (again["cancelled"], again["fate"]) == (False, "still running")

    def test_of_one_that_waits(self, rig: Rig) -> None:
        """It never begins; the one that it waited for is left alone."""
        script = "import headgate\n\n@headgate.handler(concurrency=1)\n"
        script += "def handleMessage(payload, context):\n"
        script += "    system.util.globals['running'].put(payload)\n"
        script += "    return system.util.globals['go'].wait(20)\n"
        hub = rig.gateway({"ACME/one": script})
        client = rig.client(hub)
        first, second = (client.request("ACME", "one", {"n": n}) for n in range(2))
        begun(hub)
        rig.until(lambda: hub.running()["queued"])
        found = cancelled(client, second.request_id)
        assert (found["cancelled"], found["fate"]) == (True, "not started")
        error = second.getError()
        assert isinstance(error, CancellationException)
        assert error.started is False
        hub.globals["go"].set()
        assert first.get() is True
        assert hub.globals["running"].empty()

    def test_of_the_order_itself(self, rig: Rig) -> None:
        """Who does not wait for what becomes of the handler reads that the order was done."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client = rig.client(hub)
        handle = client.request("ACME", "hold", {})
        begun(hub)
        order = client.request("@gateway", "cancel", {"id": handle.request_id})
        assert isinstance(handle.getError(), CancellationException)
        assert order.cancel()
        hub.globals["go"].set()
        assert order.wait_fate(20) == "finished"

    def test_what_it_asked_for_goes_with_it(self, rig: Rig) -> None:
        """A handler's own requests are cancelled with it."""
        hub = rig.gateway({"ACME/outer": OUTER, "ACME/hold": LOOKS})
        client = rig.client(hub)
        handle = client.request("ACME", "outer", {})
        begun(hub)
        assert cancelled(client, handle.request_id)["fate"] == "finished"
        rig.until(lambda: hub.running()["running"] == [])

    def test_of_a_messages_handler(self, rig: Rig) -> None:
        """A handler that nobody waits for is cancelled as well."""
        hub = rig.gateway({"ACME/run": LOOKS})
        client = rig.client(hub)
        client.message("ACME", "run", {}, scope="G").get()
        begun(hub)
        (row,) = hub.running()["running"]
        assert cancelled(client, row["request_id"])["fate"] == "finished"

    def test_of_a_run_for_another_gateway(self, rig: Rig) -> None:
        """Its caller there reads that it was cancelled."""
        network = MemoryNetwork()
        hub = rig.gateway({}, "hub", network=network)
        plant = rig.gateway({"ACME/run": LOOKS}, "plant", network=network)
        handle = rig.client(hub).request("ACME", "run", {}, remote_server="plant")
        begun(plant)
        (row,) = plant.running()["running"]
        assert cancelled(rig.client(plant), row["id"])["fate"] == "finished"
        error = handle.getError()
        assert isinstance(error, CancellationException)
        assert "was cancelled by an administrator" in str(error)


class TestWhoMay:
    def test_everybody_their_own(self, rig: Rig) -> None:
        """From any session of the same user; of others' requests nothing is said to be there."""
        hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/run": LOOKS})
        ben = log_in(rig, hub, "ben")
        others = rig.client(hub).request("ACME", "hold", {})
        own = ben.request("ACME", "run", {})
        begun(hub, 2)
        again = rig.client(hub, username="ben", password=PASSWORD)
        error = again.request("@gateway", "cancel", {"id": others.request_id}).getError()
        assert isinstance(error, HandlerNotFound)
        text = str(error)
        assert text.startswith("Nothing of yours runs or waits here that has the id ")
        nothing = again.request("@gateway", "cancel", {"id": "f" * 32}).getError()
        assert str(nothing) == text.replace(others.request_id, "f" * 32)
        assert cancelled(again, own.request_id)["fate"] == "finished"
        assert str(own.getError()) == "ACME/run was cancelled by its own user, ben"
        assert not others.done

    def test_who_is_not_told_to_everybody(self, rig: Rig, records: Records) -> None:
        """The administrator's name is for the audit, and for those who may know who is at work."""
        hub = rig.gateway({"ACME/run": LOOKS}, recorder=records)
        ben = log_in(rig, hub, "ben")
        handle = ben.request("ACME", "run", {})
        begun(hub)
        cancelled(rig.client(hub), handle.request_id)
        assert str(handle.getError()) == "ACME/run was cancelled by an administrator"
        detail = f"cancelled ACME/run, request {handle.request_id} of 'ben'"
        (record,) = [r for r in records.records if r.detail == detail]
        assert (record.event, record.target, record.outcome) == (
            "administered",
            "@gateway/cancel",
            "ok",
        )
        assert record.user != "ben"

    def test_who_is_told_to_who_may_know(self, rig: Rig) -> None:
        """Whoever may see other people's runs reads which administrator it was."""
        hub = rig.gateway({"ACME/run": LOOKS})
        handle = rig.client(hub).request("ACME", "run", {})
        begun(hub)
        cancelled(log_in(rig, hub, "boss", roles=["owner"]), handle.request_id)
        assert str(handle.getError()) == "ACME/run was cancelled by an administrator (boss)"

    def test_a_token_for_some_handlers(self, rig: Rig) -> None:
        """It cancels nothing, not even what it asked for itself."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        log_in(rig, hub, "ben")
        order = {"user": "ben", "only": ["ACME/*"]}
        made = rig.client(hub).request("@gateway", "token_create", order).get()
        client = rig.client(hub, token=made["token"])
        handle = client.request("ACME", "hold", {})
        begun(hub)
        error = client.request("@gateway", "cancel", {"id": handle.request_id}).getError()
        assert isinstance(error, PermissionDenied)
        assert not handle.done

    def test_nobody_of_another_gateway(self) -> None:
        """Anonymous callers are told apart by their sessions, which other gateways do not tell."""
        here = [Caller("anonymous", method="anonymous", session=session) for session in "12"]
        assert is_own(here[0], here[0])
        assert not is_own(here[0], here[1])
        away = Caller("anonymous", method="anonymous", gateway=("plant",))
        assert not is_own(away, away)
        ben = Caller("ben", method="password", gateway=("plant",))
        assert is_own(ben, ben)

    @pytest.mark.parametrize("name", ["drain", "stack"])
    def test_other_administration_is_not_for_everybody(self, rig: Rig, name: str) -> None:
        """Only administrators drain a gateway and look into runs."""
        hub = rig.gateway({})
        error = log_in(rig, hub, "ben").request("@gateway", name, {"on": True}).getError()
        assert isinstance(error, PermissionDenied)
        assert hub.running()["draining"] is False


class TestIds:
    def test_none(self, rig: Rig) -> None:
        """HandlerNotFound says where to look."""
        error = rig.client(rig.gateway({})).request("@gateway", "cancel", {"id": "7-1"}).getError()
        assert isinstance(error, HandlerNotFound)
        assert str(error) == "Nothing runs or waits here that has the id '7-1'. See: headgate ps"

    @pytest.mark.parametrize("payload", [{}, [1], {"id": ""}, {"id": 5}], ids=str)
    def test_a_payload_that_is_none(self, rig: Rig, payload: Any) -> None:
        """PayloadError says what it takes."""
        error = rig.client(rig.gateway({})).request("@gateway", "cancel", payload).getError()
        assert isinstance(error, PayloadError)
        assert error.started is False

    def test_several_that_begin_alike(self, rig: Rig) -> None:
        """None of them is cancelled."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client = rig.client(hub)
        handles = [client.request("ACME", "hold", {}) for _ in range(2)]
        begun(hub, 2)
        error: RequestError | None = client.request("@gateway", "cancel", {"id": "1-"}).getError()
        assert isinstance(error, HandlerNotFound)
        assert not any(handle.done for handle in handles)


class TestQueue:
    ONE = """
        import headgate

        @headgate.handler(concurrency=1)
        def handleMessage(payload, context):
            system.util.globals["running"].put(payload)
            system.util.globals["go"].wait(20)
        """

    def test_what_waits(self, rig: Rig) -> None:
        """Wanted, each request that waits has a row, the oldest first."""
        hub = rig.gateway({"ACME/one": self.ONE})
        client = rig.client(hub, host_name="panel-7")
        handles = [client.request("ACME", "one", {"n": n}) for n in range(3)]
        begun(hub)
        rig.until(lambda: hub.running()["queued"] == [queued(2)])
        found = client.request("@gateway", "ps", {"queue": True}).get()
        assert [row["request_id"] for row in found["queue"]] == [h.request_id for h in handles[1:]]
        row = found["queue"][0]
        assert (row["id"], row["handler"], row["host"]) == ("1-2", "one", "panel-7")
        assert (row["priority"], row["seconds"] > 0) == ("normal", True)
        assert "queue" not in client.request("@gateway", "ps", {}).get()

    def test_of_others_nothing_is_told_but_that_they_wait(self, rig: Rig) -> None:
        """Who is no administrator sees the rows of others without ids and names."""
        hub = rig.gateway({"ACME/one": self.ONE})
        client, ben = rig.client(hub), log_in(rig, hub, "ben")
        for each in (client, client, ben):
            own = each.request("ACME", "one", {})
            each.request("@gateway", "ps").get()
        begun(hub)
        first, second = ben.request("@gateway", "ps", {"queue": True}).get()["queue"]
        assert (first["user"], first["id"], first["request_id"]) == ("", "", "")
        assert "waits_for" not in first
        assert (second["user"], second["request_id"]) == ("ben", own.request_id)

    def test_has_an_end(self, rig: Rig) -> None:
        """More than 1,000 rows there are never."""
        hub = rig.gateway({"ACME/one": self.ONE})
        client = rig.client(hub)
        for _ in range(1100):
            client.request("ACME", "one", {})
        rig.until(lambda: hub.running()["queued"] == [queued(1099)])
        assert len(client.request("@gateway", "ps", {"queue": True}).get()["queue"]) == 1000
        client.close()


def queued(number: int) -> dict[str, Any]:
    return {"project": "ACME", "handler": "one", "queued": number}
