"""The policy stands before everything: no endpoint is reached without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import PermissionDenied
from headgate.gateway.dispatch import Dispatch
from headgate.invocation import Caller, Endpoint, Invocation
from headgate.network.memory import MemoryNetwork

if TYPE_CHECKING:
    from conftest import Records, Rig

MARK = "def handleMessage(payload): system.util.globals['ran'] = True"


class Denying:
    """Lets nobody do anything but what it is told."""

    def __init__(self, *allowed: tuple[str, str]) -> None:
        self.allowed = allowed

    def authorise(self, caller: Caller, action: Any, project: str, handler: str) -> None:
        if (project, handler) not in self.allowed:
            raise PermissionDenied(f"No {action} on {project}/{handler}", started=False)


class Recording:
    """Lets everybody do everything, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def authorise(self, caller: Caller, action: Any, project: str, handler: str) -> None:
        self.asked.append((action, project, handler))


Ways = dict[str, Callable[[], headgate.Request]]


class TestDenial:
    @pytest.mark.parametrize("target", ["ACME/test", "ACME/none", "none/test", "@gateway/handlers"])
    @pytest.mark.parametrize("remote", [None, "hub", "mars"])
    @pytest.mark.parametrize("host", [None, "panel-7"])
    @pytest.mark.parametrize("via", ["client", "in process"])
    def test_no_request_gets_past_it(
        self, rig: Rig, target: str, remote: str | None, host: str | None, via: str
    ) -> None:
        """Every request ends with PermissionDenied, wherever it goes and whatever exists."""
        hub = rig.gateway({"ACME/test": MARK}, policy=Denying())
        caller = rig.client(hub) if via == "client" else hub.scope("")
        project, handler = target.split("/")
        error = caller.request(project, handler, remote_server=remote, host_name=host).getError()
        assert isinstance(error, PermissionDenied)
        assert error.started is False
        rig.settle(hub)
        assert "ran" not in hub.globals

    def test_the_text_does_not_tell_what_exists(self, rig: Rig) -> None:
        """But for the names, the answer is the same for what is there and what is not."""
        hub = rig.gateway({"ACME/test": MARK}, policy=Denying())
        client = rig.client(hub)
        texts = {
            str(client.request(project, handler).getError()).replace(f"{project}/{handler}", "X")
            for project, handler in (("ACME", "test"), ("ACME", "none"), ("none", "none"))
        }
        assert len(texts) == 1

    @pytest.mark.parametrize("via", ["client", "in process"])
    @pytest.mark.parametrize("target", ["ACME/test", "ACME/none", "none/test"])
    def test_no_message_gets_past_it(self, rig: Rig, target: str, via: str) -> None:
        """The report of a message says DENIED, and no handler runs."""
        hub = rig.gateway({"ACME/test": MARK}, policy=Denying())
        caller = rig.client(hub) if via == "client" else hub.scope("")
        project, handler = target.split("/")
        (line,) = caller.message(project, handler, scope="G").get()
        assert line.endswith("sendStatus=DENIED")
        rig.settle(hub)
        assert "ran" not in hub.globals

    def test_no_nested_request_gets_past_it(self, rig: Rig) -> None:
        """A handler may not ask what its caller may not ask, in any form."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    handle = system.util.sendRequestAsync("ACME", "test")
                    report = system.util.sendMessage("ACME", "test", scope="G")
                    return type(handle.getError()).__name__, handle.started, report[0][-6:]
                """,
                "ACME/test": MARK,
            },
            policy=Denying(("ACME", "outer")),
        )
        answer = rig.client(hub).request("ACME", "outer").get()
        assert answer == ("PermissionDenied", False, "DENIED")
        assert "ran" not in hub.globals

    def test_the_other_gateway_decides_for_itself(self, rig: Rig) -> None:
        """A request that this gateway lets pass is refused by the other one's policy."""
        network = MemoryNetwork()
        hub = rig.gateway({}, "hub", network=network, policy=Recording())
        plant = rig.gateway({"ACME/test": MARK}, "plant", network=network, policy=Denying())
        for caller in (rig.client(hub), hub.scope("")):
            error = caller.request("ACME", "test", remote_server="plant").getError()
            assert isinstance(error, PermissionDenied)
            assert error.started is False
        assert "ran" not in plant.globals

    def test_a_refusal_is_recorded(self, rig: Rig, records: Records) -> None:
        """The recorder learns who was refused what, and under which id."""
        hub = rig.gateway({"ACME/test": MARK}, policy=Denying(), recorder=records)
        handle = rig.client(hub, host_name="panel-7").request("ACME", "test")
        handle.block()
        (record,) = [r for r in records.records if r.event == "refused"]
        assert record.target == "ACME/test"
        assert record.outcome == "denied"
        assert record.host == "panel-7"
        assert record.user
        assert record.request_id == handle.request_id

    def test_a_policy_that_fails_lets_nobody_pass(self, rig: Rig) -> None:
        """An exception in a policy ends that request with an error; others go on."""

        class Failing:
            def authorise(self, caller: Caller, action: Any, project: str, handler: str) -> None:
                if handler == "test":
                    raise KeyError("a bug")

        hub = rig.gateway({"ACME/test": MARK, "ACME/echo": rig.ECHO}, policy=Failing())
        client = rig.client(hub)
        before = client.session_id
        handles = [client.request("ACME", "echo", 1, timeout=3)]
        bad = client.request("ACME", "test", timeout=3)
        handles.append(client.request("ACME", "echo", 2, timeout=3))
        assert bad.block() is False
        assert "ran" not in hub.globals
        assert [handle.get() for handle in handles] == [1, 2]
        assert client.session_id == before


class TestEveryWay:
    def test_no_endpoint_is_reached_without_it(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However a handler is reached, the policy was asked about it just before."""
        policy, reached = Recording(), []
        choose = Dispatch._endpoint

        def watched(self: Dispatch, invocation: Invocation, action: Any) -> Endpoint:
            before = len(policy.asked)
            try:
                return choose(self, invocation, action)
            finally:
                asked = policy.asked[before:]
                reached.append((asked, invocation.project, invocation.handler))

        monkeypatch.setattr(Dispatch, "_endpoint", watched)
        network = MemoryNetwork()
        hub = rig.gateway(
            {
                "ACME/test": MARK,
                "ACME/outer": "def handleMessage(p): system.util.sendRequest('ACME', 'test')",
            },
            policy=policy,
            network=network,
        )
        rig.gateway({"ACME/test": MARK}, "plant", network=network, policy=policy)
        for caller in (rig.client(hub), hub.scope("")):
            for asked, expected in (
                (lambda c=caller: c.request("ACME", "test"), 1),
                (lambda c=caller: c.request("ACME", "outer"), 2),
                (lambda c=caller: c.request("ACME", "test", remote_server="plant"), 2),
                (lambda c=caller: c.request("ACME", "test", remote_server="hub"), 1),
                (lambda c=caller: c.request("@gateway", "stats"), 1),
                (lambda c=caller: c.message("ACME", "test", scope="G"), 1),
            ):
                policy.asked.clear()
                reached.clear()
                asked().get()
                assert len(policy.asked) == len(reached) == expected
                for (question,), project, handler in reached:
                    assert question[1:] == (project, handler)

    def test_the_actions_are_told_apart(self, rig: Rig) -> None:
        """Requests, messages and the gateway's own handlers are three actions."""
        policy = Recording()
        hub = rig.gateway({"ACME/test": rig.ECHO}, policy=policy)
        client = rig.client(hub)
        client.request("ACME", "test").get()
        client.message("ACME", "test", scope="G").get()
        client.request("@gateway", "stats").get()
        assert [action for action, _, _ in policy.asked] == ["request", "message", "see"]


class TestClaims:
    def test_a_claimed_host_name_gives_no_right(self, rig: Rig) -> None:
        """The host name that a client claims changes who it is in nothing but that name."""
        hub = rig.gateway(
            {"ACME/who": "def handleMessage(p, context): return context.caller.roles"}
        )
        roles = {rig.client(hub, host_name=n).request("ACME", "who").get() for n in ("", "hub")}
        assert roles == {frozenset({"owner"})}
