"""Which handler answers, what is said when there is none, and where messages go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import (
    ClientNotFound,
    GatewayUnreachable,
    HandlerNotFound,
    Overloaded,
    PayloadError,
    ProjectNotFound,
)
from headgate.scope import Scope

if TYPE_CHECKING:
    from conftest import Rig


@pytest.fixture(params=["client", "in process"])
def scope(request: pytest.FixtureRequest, rig: Rig) -> Callable[[headgate.Gateway], Scope]:
    """Callers of both kinds: through a connection, and in the gateway's process."""
    return rig.client if request.param == "client" else lambda gateway: gateway.scope("")


class TestNotFound:
    def test_an_unknown_project_is_named_with_the_nearest_one(self, rig: Rig, scope: Any) -> None:
        """ProjectNotFound names the gateway, the project, and the one that was probably meant."""
        hub = rig.gateway({"ACME/test": rig.ECHO, "Boiler/test": rig.ECHO})
        error = scope(hub).request("ACNE", "test").getError()
        assert isinstance(error, ProjectNotFound)
        assert "'hub' has no project 'ACNE'" in str(error)
        assert "Did you mean 'ACME'?" in str(error)
        assert error.started is False

    def test_without_a_near_one_the_projects_are_listed(self, rig: Rig, scope: Any) -> None:
        """Where nothing is similar, what there is is said."""
        hub = rig.gateway({"ACME/test": rig.ECHO, "Boiler/test": rig.ECHO})
        error = scope(hub).request("xyz", "test").getError()
        assert "There is: ACME, Boiler" in str(error)
        assert "headgate handlers" in str(error)

    def test_an_unknown_handler_is_named_with_the_nearest_one(self, rig: Rig, scope: Any) -> None:
        """HandlerNotFound names project and handler, the near match, and where scripts stand."""
        hub = rig.gateway({"ACME/start": rig.ECHO})
        error = scope(hub).request("ACME", "strat").getError()
        assert isinstance(error, HandlerNotFound)
        assert '"strat" could not be found in project' in str(error)
        assert "Did you mean 'start'?" in str(error)
        assert "messages" in str(error)
        assert error.started is False

    def test_a_project_without_handlers_says_so(self, rig: Rig) -> None:
        """There is none: the project has no handler at all."""
        hub = rig.gateway({"ACME/project.toml": "title = 'Empty'"})
        error = rig.client(hub).request("ACME", "test").getError()
        assert isinstance(error, HandlerNotFound)
        assert "There is none." in str(error)

    def test_a_disabled_project_does_not_answer(self, rig: Rig) -> None:
        """enabled = false takes a project's handlers away."""
        hub = rig.gateway({"ACME/test": rig.ECHO, "ACME/project.toml": "enabled = false"})
        assert isinstance(rig.client(hub).request("ACME", "test").getError(), HandlerNotFound)

    def test_no_client_hosts_a_handler_yet(self, rig: Rig, scope: Any) -> None:
        """hostName= means a client; where none hosts the handler, ClientNotFound says so."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        error = scope(hub).request("ACME", "test", host_name="panel-7").getError()
        assert isinstance(error, ClientNotFound)
        assert "'panel-7'" in str(error)
        assert "ACME/test" in str(error)
        assert error.started is False

    def test_names_that_cannot_be_sent_fail_alone(self, rig: Rig, scope: Any) -> None:
        """A name that is no Unicode text hurts no other request of the same moment."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        caller = scope(hub)
        good = [caller.request("ACME", "test", n, timeout=5) for n in range(5)]
        with pytest.raises((ValueError, ProjectNotFound)):
            caller.request("AC\udcff", "test", timeout=5).get()
        good += [caller.request("ACME", "test", n, timeout=5) for n in range(5, 10)]
        assert [handle.get() for handle in good] == list(range(10))

    @pytest.mark.parametrize("where", ["remote_server", "host_name"])
    def test_other_names_that_cannot_be_sent_fail_alone(self, rig: Rig, where: str) -> None:
        """The same for remoteServer and hostName."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        client = rig.client(hub)
        good = [client.request("ACME", "test", n, timeout=5) for n in range(5)]
        with pytest.raises((ValueError, headgate.RequestError)):
            client.request("ACME", "test", timeout=5, **{where: "\udcff"}).get()
        good += [client.request("ACME", "test", n, timeout=5) for n in range(5, 10)]
        assert [handle.get() for handle in good] == list(range(10))


class TestGatewaysOwn:
    def test_it_lists_its_handlers(self, rig: Rig, scope: Any) -> None:
        """@gateway/handlers tells project, name, threading and file of each handler."""
        hub = rig.gateway({"B/two": "async " + rig.ECHO, "A/one": rig.ECHO})
        listed = scope(hub).request("@gateway", "handlers").get()
        assert [(row["project"], row["handler"], row["async"]) for row in listed] == [
            ("A", "one", False),
            ("B", "two", True),
        ]
        assert listed[0]["threading"] == "Shared"
        assert listed[0]["file"].endswith("one.py")

    def test_it_tells_the_size_of_its_tables(self, rig: Rig) -> None:
        """@gateway/stats is gateway.stats(), which counts the request that asks."""
        hub = rig.gateway({})
        told = rig.client(hub).request("@gateway", "stats").get()
        assert told.keys() >= hub.stats().keys()
        assert (told["open"], told["sessions"]) == (1, 1)

    def test_an_unknown_one_is_named_with_those_there_are(self, rig: Rig, scope: Any) -> None:
        """HandlerNotFound lists the gateway's own handlers."""
        error = scope(rig.gateway({})).request("@gateway", "reboot").getError()
        assert isinstance(error, HandlerNotFound)
        assert "'reboot'" in str(error)
        listed = str(error).rpartition("It has: ")[2].split(", ")
        assert {"handlers", "permission_list", "problems", "ps", "reload", "stats"} <= set(listed)
        assert listed == sorted(listed)


class TestRemote:
    @pytest.mark.parametrize("name", ["hub", "HUB"])
    def test_a_gateways_own_name_means_itself(self, rig: Rig, scope: Any, name: str) -> None:
        """remoteServer= with the own name, in any case, needs no network."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        assert scope(hub).request("ACME", "test", 1, remote_server=name).get() == 1

    def test_without_a_network_every_other_name_is_unreachable(self, rig: Rig, scope: Any) -> None:
        """An unknown remote server is an error at once, and nothing started."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        error = scope(hub).request("ACME", "test", remote_server="mars").getError()
        assert isinstance(error, GatewayUnreachable)
        assert "'mars'" in str(error)
        assert error.started is False

    def test_it_has_no_remote_servers(self, rig: Rig, scope: Any) -> None:
        """remote_servers() is empty where there is no network."""
        assert scope(rig.gateway({})).remote_servers() == []


def status(report: list[str]) -> list[str]:
    """The sendStatus of each line of a report."""
    return [dict(part.split("=") for part in line.split(","))["sendStatus"] for line in report]


class TestMessages:
    def test_a_message_reaches_the_gateways_handler(self, rig: Rig, scope: Any) -> None:
        """Scope G: the handler gets a copy of the payload, and the report says SENT."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        report = scope(hub).message("ACME", "hold", {"n": 1}, scope="G").get()
        assert status(report) == ["SENT"]
        assert report == ["scope=G,gateway=hub,project=ACME,handler=hold,sendStatus=SENT"]
        assert hub.globals["running"].get(timeout=20) == {"n": 1}

    def test_without_a_scope_the_gateway_is_meant_too(self, rig: Rig) -> None:
        """The default scope is CGS."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        assert status(rig.client(hub).message("ACME", "hold").get()) == ["SENT"]

    @pytest.mark.parametrize("options", [{"scope": "C"}, {"filters": {"user": "operator"}}])
    def test_other_receivers_than_the_gateway(self, rig: Rig, options: dict[str, Any]) -> None:
        """A message to clients, or with filters for sessions, is not for the gateway."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        assert rig.client(hub).message("ACME", "hold", **options).get() == []
        rig.settle(hub)
        assert hub.globals["running"].empty()

    @pytest.mark.parametrize(("project", "handler"), [("ACME", "none"), ("none", "test")])
    def test_no_handler_is_a_line_in_the_report(
        self, rig: Rig, scope: Any, project: str, handler: str
    ) -> None:
        """Where no such handler exists the report says NO_HANDLER; nothing raises."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        assert status(scope(hub).message(project, handler, scope="G").get()) == ["NO_HANDLER"]

    def test_a_full_queue_is_a_line_in_the_report(self, rig: Rig, scope: Any) -> None:
        """Where too many wait the report says OVERLOADED."""
        hub = rig.gateway(
            {
                "ACME/hold": rig.HOLD,
                "ACME/project.toml": "[handlers.hold]\nconcurrency = 1\nqueue = 1\n",
            }
        )
        caller = scope(hub)
        reports = [caller.message("ACME", "hold", {"n": n}, scope="G").get() for n in range(3)]
        assert [status(report) for report in reports] == [["SENT"], ["SENT"], ["OVERLOADED"]]

    def test_a_handler_that_fails_hurts_nothing(self, rig: Rig, scope: Any) -> None:
        """An exception or an unsendable result in a message's handler is nobody's error."""
        hub = rig.gateway(
            {
                "ACME/fail": "def handleMessage(payload): raise SystemExit",
                "ACME/odd": "def handleMessage(payload): return object()",
                "ACME/echo": rig.ECHO,
            }
        )
        caller = scope(hub)
        assert status(caller.message("ACME", "fail", scope="G").get()) == ["SENT"]
        assert status(caller.message("ACME", "odd", scope="G").get()) == ["SENT"]
        assert caller.request("ACME", "echo", 1).get() == 1

    def test_progress_of_a_messages_handler_goes_nowhere(self, rig: Rig) -> None:
        """context.progress in a message's handler does no harm."""
        hub = rig.gateway(
            {
                "ACME/test": """
                def handleMessage(payload, context):
                    context.progress(1)
                    system.util.globals["running"].put(len(context.request_id))
                """
            }
        )
        rig.client(hub).message("ACME", "test", scope="G").get()
        assert hub.globals["running"].get(timeout=20) == 32

    def test_its_handler_runs_on_when_the_sender_leaves(self, rig: Rig) -> None:
        """Nobody waits for a message's handler, so nobody's leaving cancels it."""
        hub = rig.gateway(
            {
                "ACME/test": """
                def handleMessage(payload, context):
                    system.util.globals["left"].wait(20)
                    system.util.globals["running"].put(context.cancelled)
                """
            }
        )
        hub.globals["left"] = threading.Event()
        client = headgate.connect(hub.url)
        client.message("ACME", "test", scope="G").get()
        client.close()
        rig.until(lambda: hub.stats()["sessions"] == 0)
        hub.globals["left"].set()
        assert hub.globals["running"].get(timeout=20) is False

    def test_an_unsendable_payload_is_refused_before_anything_is_sent(
        self, rig: Rig, scope: Any
    ) -> None:
        """The call raises, and names the place."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        with pytest.raises(PayloadError, match=r"payload\['a'\]\[3\]"):
            scope(hub).message("ACME", "test", {"a": [0, 1, 2, object()]})

    def test_a_message_takes_no_place_of_its_sender(self, rig: Rig) -> None:
        """A Dedicated handler may send itself a message."""
        hub = rig.gateway(
            {
                "ACME/test": """
                import headgate
                @headgate.handler(threading="Dedicated")
                def handleMessage(payload):
                    if payload.get("again"):
                        system.util.globals["running"].put("again")
                    else:
                        return system.util.sendMessage("ACME", "test", {"again": 1}, scope="G")
                """
            }
        )
        assert status(rig.client(hub).request("ACME", "test").get()) == ["SENT"]
        assert hub.globals["running"].get(timeout=20) == "again"


class TestFailingMessages:
    """Nobody gets the traceback of a message's handler but the log."""

    def test_the_traceback_is_logged(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        """With the script's file and line, the target and the caller."""
        hub = rig.gateway({"ACME/bad": "def handleMessage(payload):\n    return 1 / 0\n"})
        hub.scope("").message("ACME", "bad").get()
        rig.until(lambda: "ZeroDivisionError" in caplog.text)
        assert "The handler ACME/bad failed" in caplog.text
        assert 'bad.py", line 2' in caplog.text


class TestBadInput:
    """What is wrong is named with its cure, and everything else serves."""

    def test_an_unsendable_object_is_named_by_its_place(self, rig: Rig, scope: Any) -> None:
        """payload['a'][3]: the call raises before anything is sent."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        caller = scope(hub)
        with pytest.raises(PayloadError, match=r"payload\['a'\]\[3\]") as caught:
            caller.request("ACME", "test", {"a": [0, 1, 2, object()]})
        assert caught.value.place == "payload['a'][3]"
        assert caller.request("ACME", "test", 1).get() == 1

    def test_a_script_that_came_later(self, rig: Rig, scope: Any) -> None:
        """A handler that was written after the start is told apart from one that is not there."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        rig.projects({"ACME/late": rig.ECHO})
        error = scope(hub).request("ACME", "late").getError()
        assert isinstance(error, HandlerNotFound)
        assert "headgate reload" in str(error)

    def test_the_file_system_is_not_told_about(self, rig: Rig, scope: Any) -> None:
        """A name that leads out of the project's folder says nothing of what is there."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        (rig.folder / "secret.py").write_text("")
        name = "../../../../secret"
        assert (hub.projects["ACME"].path / "messages" / f"{name}.py").exists()
        error = scope(hub).request("ACME", name).getError()
        assert "could not be found" in str(error)

    def test_a_script_with_a_syntax_error(self, rig: Rig, scope: Any) -> None:
        """The gateway starts, names file and line, and the other handlers serve."""
        hub = rig.gateway({"ACME/bad": "def handleMessage(payload:\n", "ACME/good": rig.ECHO})
        (problem,) = hub.problems
        assert "bad.py:1" in str(problem)
        assert "SyntaxError" in str(problem)
        caller = scope(hub)
        error = caller.request("ACME", "bad").getError()
        assert isinstance(error, HandlerNotFound)
        assert "could not be loaded" in str(error)
        assert "bad.py:1" in str(error)
        assert caller.request("ACME", "good", 1).get() == 1

    def test_a_script_without_handlemessage(self, rig: Rig, scope: Any) -> None:
        """What is missing is named, with the lines to write."""
        hub = rig.gateway({"ACME/bad": "def handle(payload): pass", "ACME/good": rig.ECHO})
        caller = scope(hub)
        error = caller.request("ACME", "bad").getError()
        assert isinstance(error, HandlerNotFound)
        assert "bad.py does not define handleMessage" in str(error)
        assert "Write def handleMessage(payload):" in str(error)
        assert caller.request("ACME", "good", 1).get() == 1

    def test_a_script_that_fails_when_it_is_loaded(self, rig: Rig) -> None:
        """An exception, or even an exit, at the top of a script is one handler's problem."""
        hub = rig.gateway(
            {
                "ACME/bad": "import nonsense_that_is_not_installed\n",
                "ACME/exits": "raise SystemExit(3)\n",
                "ACME/good": rig.ECHO,
            }
        )
        client = rig.client(hub)
        assert "nonsense_that" in str(client.request("ACME", "bad").getError())
        assert "SystemExit" in str(client.request("ACME", "exits").getError())
        assert client.request("ACME", "good", 1).get() == 1

    def test_a_wrong_key_in_project_toml(self, rig: Rig, scope: Any) -> None:
        """The project does not serve and says why; the other projects do."""
        hub = rig.gateway(
            {
                "Bad/test": rig.ECHO,
                "Bad/project.toml": "titel = 'Boiler'\n",
                "Good/test": rig.ECHO,
            }
        )
        (problem,) = hub.problems
        assert "'titel'" in str(problem)
        assert "Did you mean 'title'?" in str(problem)
        caller = scope(hub)
        error = caller.request("Bad", "test").getError()
        assert isinstance(error, (HandlerNotFound, ProjectNotFound))
        assert "'titel'" in str(error)
        assert caller.request("Good", "test", 1).get() == 1

    def test_a_wrong_setting_of_a_handler(self, rig: Rig) -> None:
        """A handler whose settings are wrong says so when it is asked."""
        hub = rig.gateway(
            {
                "ACME/bad": "import headgate\n@headgate.handler(threading='dedicated')\n"
                + rig.ECHO,
                "ACME/good": rig.ECHO,
            }
        )
        client = rig.client(hub)
        assert "threading cannot be 'dedicated'" in str(client.request("ACME", "bad").getError())
        assert client.request("ACME", "good", 1).get() == 1

    def test_an_overlong_queue_of_names_is_no_problem(self, rig: Rig) -> None:
        """Names of any length and script are only names."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        client = rig.client(hub)
        for long in (("x" * 100_000, "test"), ("ACME", "x" * 100_000)):
            assert isinstance(client.request(*long).getError(), HandlerNotFound)
        long_name = {"remote_server": "x" * 100_000}, {"host_name": "x" * 100_000}
        for where, kind in zip(long_name, (GatewayUnreachable, ClientNotFound), strict=True):
            request = client.request("ACME", "test", **where)
            assert isinstance(request.getError(), kind)
            assert request.started is False
        for name in ("Füllstand", "../../etc/passwd", "a\0b", " "):
            assert isinstance(client.request(name, "test").getError(), ProjectNotFound)
            assert isinstance(client.request("ACME", name).getError(), HandlerNotFound)

    @pytest.mark.parametrize(
        "filters",
        [{"user": "x" * 256}, {"x" * 256: "user"}, {str(n): "x" for n in range(17)}],
    )
    def test_filters_beyond_reason(self, rig: Rig, filters: dict[str, str]) -> None:
        """Filters that no message can have are refused where they are given."""
        client = rig.client(rig.gateway({"ACME/test": rig.ECHO}))
        with pytest.raises(ValueError, match="filter"):
            client.message("ACME", "test", filters=filters)

    def test_too_many_requests_of_one_session(self, rig: Rig) -> None:
        """The 4,097th request in flight is refused at once, and the others are not hurt."""
        hub = rig.gateway({"ACME/wait": ASYNC_WAIT})
        client = rig.client(hub)
        handles = [client.request("ACME", "wait", n) for n in range(4096)]
        error = client.request("ACME", "wait").getError()
        assert isinstance(error, Overloaded)
        assert error.started is False
        assert "4096" in str(error)
        hub.globals["go"].set()
        assert [handle.get() for handle in handles] == list(range(4096))
        assert client.request("ACME", "wait", "more").get() == "more"


ASYNC_WAIT = """
    import asyncio
    async def handleMessage(payload):
        while not system.util.globals["go"].is_set():
            await asyncio.sleep(0.02)
        return payload
    """
