"""What a real Ignition gateway does, as it was measured: what callers and handlers rely on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import HandlerNotFound, Overloaded, PermissionDenied, RequestError
from headgate.scope import Scope

if TYPE_CHECKING:
    from conftest import Rig
    from seed.conftest import Ends

Begun = Callable[[headgate.Gateway], Any]


class TestRequests:
    """sendRequest and sendRequestAsync."""

    def test_missing_handler_raises_in_send_request(self, caller: Scope) -> None:
        """The blocking form raises, in the words that Ignition's users search for."""
        with pytest.raises(HandlerNotFound, match='The message handler "tset" could not be found'):
            caller.system.util.sendRequest("ACME", "tset", {})

    def test_missing_handler_returns_a_handle_then_calls_on_error(
        self, caller: Scope, ends: Ends
    ) -> None:
        """The async form returns its handle and then calls onError with that error."""
        handle = caller.system.util.sendRequestAsync(
            "ACME", "tset", {}, onSuccess=ends.success, onError=ends.error
        )
        assert isinstance(handle, headgate.Request)
        assert ends.next() == ("error", handle.getError())
        assert isinstance(handle.getError(), HandlerNotFound)
        assert ends.rest(caller) == []

    @pytest.mark.parametrize("name", ["sendRequest", "sendRequestAsync", "sendMessage"])
    def test_no_project_is_a_value_error(self, caller: Scope, name: str) -> None:
        """Its text is Ignition's."""
        with pytest.raises(ValueError, match=r"^Missing required argument project$"):
            getattr(caller.system.util, name)(messageHandler="test", payload={})

    def test_keywords_after_the_payload_as_callers_write_them(self, caller: Scope) -> None:
        """The timeouts that were seen in the wild work, with scope and without a payload too."""
        util = caller.system.util
        for timeout in (1.5, 5, 10, 60, 300, "1200"):
            assert util.sendRequest("ACME", "echo", {"a": 1}, timeoutSec=timeout) == {"a": 1}
            assert util.sendRequest("ACME", "echo", timeoutSec=timeout, scope="G") == {}
            assert util.sendRequestAsync("ACME", "echo", scope="G", timeoutSec=timeout).get() == {}

    def test_every_error_is_caught_by_except_exception(self, caller: Scope) -> None:
        """Scripts write ``except Exception``: cancellation and timeout are caught by it too."""
        util = caller.system.util
        handles = [
            util.sendRequestAsync("ACME", "nothing"),
            util.sendRequestAsync("ACME", "fail"),
            util.sendRequestAsync("ACME", "hold", timeoutSec=0.05),
            util.sendRequestAsync("ACME", "hold"),
        ]
        handles[-1].cancel()
        caught = 0
        for handle in handles:
            try:
                handle.get()
            except Exception as error:
                caught += isinstance(error, RequestError)
        assert caught == 4

    def test_handle_has_a_numeric_id(self, caller: Scope) -> None:
        """getLongId gives a number that stays the handle's own."""
        handles = [caller.request("ACME", "echo") for _ in range(3)]
        ids = [handle.getLongId() for handle in handles]
        assert all(type(number) is int for number in ids)
        assert len(set(ids)) == 3
        assert [handle.getLongId() for handle in handles] == ids

    def test_callers_timeout_does_not_stop_the_handler(
        self, rig: Rig, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """A handler on a thread goes on to its end."""
        handle = caller.request("ACME", "hold", 1, timeout=0.7)
        assert begun(hub) == 1
        assert handle.block() is False
        hub.globals["go"].set()
        assert handle.wait_fate(20) == "finished"


class TestHandlers:
    """Message handlers."""

    def test_payload_is_given_by_position(self, rig: Rig) -> None:
        """The argument may have any name."""
        hub = rig.gateway({"ACME/test": "def handleMessage(p):\n    return p['number']"})
        assert rig.client(hub).system.util.sendRequest("ACME", "test", {"number": 55}) == 55

    def test_no_return_is_none(self, rig: Rig) -> None:
        """The response of a handler without a return is None, and it is a success."""
        hub = rig.gateway({"ACME/test": "def handleMessage(payload):\n    pass"})
        handle = rig.client(hub).system.util.sendRequestAsync("ACME", "test")
        assert (handle.get(), handle.block(), handle.getError()) == (None, True, None)

    def test_scripts_see_system_and_their_library_without_importing_them(self, rig: Rig) -> None:
        """Both are just there."""
        hub = rig.gateway(
            {
                "ACME/library/lines/oee.py": "def of(made):\n    return made * 2",
                "ACME/library/lines/__init__.py": "",
                "ACME/test": """
                    def handleMessage(payload):
                        return system.util.getProjectName(), lines.oee.of(payload["made"])
                    """,
            }
        )
        made = rig.client(hub).system.util.sendRequest("ACME", "test", {"made": 21})
        assert made == ("ACME", 42)

    def test_payload_holds_what_was_seen_in_them(self, caller: Scope) -> None:
        """Strings, numbers, booleans, None, lists, nested dictionaries and dates arrive whole."""
        payload = {
            "text": "Füllung",
            "numbers": [55, -1, 2.5, 2**62],
            "switches": [True, False, None],
            "nested": {"a": {"b": [{"c": []}]}},
            "dates": [datetime(2026, 9, 29, 20, 35, 30, 123000, tzinfo=UTC), date(2026, 9, 29)],
        }
        assert caller.system.util.sendRequest("ACME", "echo", payload) == payload


def fields(line: str) -> dict[str, str]:
    """Return the ``key=value`` pairs of a line of a delivery report."""
    return dict(pair.split("=") for pair in line.split(","))


class TestSendMessage:
    """sendMessage and its delivery report."""

    def test_names_order_and_defaults(self, client: headgate.Client) -> None:
        """The arguments are those of its syntax line, all positional, in its order."""
        parameters = inspect.signature(client.system.util.sendMessage).parameters.values()
        assert {p.kind for p in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
        assert " ".join(p.name for p in parameters) == (
            "project messageHandler payload scope clientSessionId user hasRole hostName "
            "remoteServers"
        )

    def test_list_with_one_string_for_each_system_selected(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """The gateway is selected by G, which the default contains; it gets the message once."""
        sent = {"scope": "G", "gateway": "hub", "project": "ACME", "handler": "hold"}
        for scope in (None, "", "G", "CGS", "GC", "SG"):
            report = caller.system.util.sendMessage("ACME", "hold", {"scope": scope}, scope)
            assert [type(line) for line in report] == [str]
            assert fields(report[0]) == {**sent, "sendStatus": "SENT"}
            # The report came while the handler still ran: SENT means that it is queued.
            assert begun(hub) == {"scope": scope}
        assert hub.globals["running"].empty()

    def test_empty_list_where_no_system_is_selected(
        self, hub: headgate.Gateway, caller: Scope
    ) -> None:
        """With nobody connected who hosts handlers, or a wrong letter, it is [], no exception."""
        util = caller.system.util
        for scope in ("C", "S", "CS", "X", "?"):
            assert util.sendMessage("ACME", "hold", {}, scope) == []
            assert util.sendMessage("nowhere", "nothing", {}, scope=scope) == []
        assert hub.globals["running"].empty()

    @pytest.mark.parametrize("name", ["clientSessionId", "user", "hasRole", "hostName"])
    def test_default_scope_is_cs_if_a_filter_is_given(
        self, hub: headgate.Gateway, caller: Scope, name: str
    ) -> None:
        """Then the gateway itself is not selected, unless the scope says so."""
        util = caller.system.util
        assert util.sendMessage("ACME", "hold", **{name: "somebody"}) == []
        assert hub.globals["running"].empty()
        assert len(util.sendMessage("ACME", "echo", scope="G", **{name: "somebody"})) == 1
        assert len(util.sendMessage("ACME", "echo", **{name: None})) == 1

    @pytest.mark.parametrize(("project", "handler"), [("ACME", "nothing"), ("nowhere", "echo")])
    def test_no_handler_is_told_and_raises_nothing(
        self, caller: Scope, project: str, handler: str
    ) -> None:
        """Where Ignition leaves a missing handler out, the report tells of it: NO_HANDLER."""
        (line,) = caller.system.util.sendMessage(project, handler, {}, "G")
        assert fields(line)["sendStatus"] == "NO_HANDLER"

    def test_overloaded_is_told_and_raises_nothing(self, rig: Rig, begun: Begun) -> None:
        """A handler whose queue is full did not get the message, and the report says so."""
        settings = '[handlers.hold]\nthreading = "Dedicated"\nqueue = 1\n'
        hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/project.toml": settings})
        util = rig.client(hub).system.util
        statuses = [fields(util.sendMessage("ACME", "hold", {})[0])["sendStatus"] for _ in "123"]
        assert statuses == ["SENT", "SENT", "OVERLOADED"]
        assert isinstance(util.sendRequestAsync("ACME", "hold").getError(), Overloaded)

    def test_denied_is_told_and_raises_nothing(self, rig: Rig) -> None:
        """Nor did it get there if the caller may not send it."""

        class Nobody:
            def authorise(self, caller: Any, action: str, project: str, handler: str) -> None:
                raise PermissionDenied("No permission")

        hub = rig.gateway({"ACME/echo": rig.ECHO}, policy=Nobody())
        (line,) = rig.client(hub).system.util.sendMessage("ACME", "echo", {})
        assert fields(line)["sendStatus"] == "DENIED"

    def test_handler_that_fails_does_not_touch_the_sender(self, caller: Scope) -> None:
        """SENT does not mean handled."""
        (line,) = caller.system.util.sendMessage("ACME", "fail", {})
        assert fields(line)["sendStatus"] == "SENT"
        assert caller.system.util.sendRequest("ACME", "echo", {"a": 1}) == {"a": 1}
