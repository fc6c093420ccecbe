"""Who may not is refused before anything happens, and learns nothing of what there is."""

from __future__ import annotations

import difflib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

import headgate
from headgate.errors import HandlerNotFound, PermissionDenied, ProjectNotFound
from headgate.gateway import dispatch
from headgate.gateway.dispatch import Dispatch
from headgate.network.memory import MemoryNetwork
from headgate.runtimes.gate import Gate
from headgate.security.identity import own_user
from headgate.security.policy import Permission, RulePolicy
from headgate.security.zones import Zone
from headgate.wire.frames import Fault
from headgate.wire.session import Session

if TYPE_CHECKING:
    from conftest import Records, Rig

BODY = """handleMessage(payload):
    system.util.globals["ran"] = True
    return "answer"
"""
ASKING = """handleMessage(payload):
    handle = system.util.sendRequestAsync("ACME", "thread", remoteServer=payload.get("at"))
    error = {wait}
    return None if error is None else (type(error).__name__, error.started)
"""
WAITING_ASYNC = """None
    try:
        await handle
    except Exception as caught:
        error = caught
"""
SCRIPTS = {
    "ACME/thread": f"def {BODY}",
    "ACME/async": f"async def {BODY}",
    "ACME/dedicated": f"import headgate\n@headgate.handler(threading='Dedicated')\ndef {BODY}",
    "ACME/asks": "def " + ASKING.format(wait="handle.getError()"),
    "ACME/asks_async": "async def " + ASKING.format(wait=WAITING_ASYNC),
}
MAY_ASK = Permission(allow=True, handlers=("ACME/asks*",))
NOTHING = Permission(allow=False)
NOTHING_THERE = Permission(allow=False, gateways=("*",))
ALL_THERE = Permission(allow=True, gateways=("*",))

Asked = Callable[[headgate.Client], Any]


def error_of(handle: headgate.Request) -> Any:
    """What a request ended with, as far as it matters here."""
    error = handle.getError()
    return None if error is None else (type(error).__name__, error.started)


def requested(project: str, handler: str, payload: Any = None, **options: Any) -> Asked:
    return lambda client: error_of(client.request(project, handler, payload, **options))


def told(project: str, handler: str, payload: Any = None) -> Asked:
    def ask(client: headgate.Client) -> Any:
        (line,) = client.message(project, handler, payload, scope="G").get()
        return None if line.endswith("=SENT") else ("PermissionDenied", False)

    return ask


def nested(handler: str, at: str | None = None) -> Asked:
    return lambda client: client.request("ACME", handler, {"at": at}).get()


RULE = {"allow": True, "users": ["mallory"]}
KINDS: dict[str, Asked] = {
    "thread": requested("ACME", "thread"),
    "async": requested("ACME", "async"),
    "dedicated": requested("ACME", "dedicated"),
    "by the gateway's own name": requested("ACME", "thread", remote_server="hub"),
    "another gateway": requested("ACME", "thread", remote_server="plant"),
    "see": requested("@gateway", "stats"),
    "see, awaited": requested("@gateway", "permission_list"),
    "administer": requested("@gateway", "reload"),
    "administer, with the caller": requested("@gateway", "permission_add", RULE),
    "message": told("ACME", "thread"),
    "message to async": told("ACME", "async"),
    "message that administers": told("@gateway", "permission_add", RULE),
    "nested": nested("asks"),
    "nested in async": nested("asks_async"),
    "nested, another gateway": nested("asks", "plant"),
}


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was reached behind the policy, but for the handlers that only ask."""
    found: list[str] = []

    def watch(kind: type, method: str, name: Callable[..., str]) -> None:
        original = getattr(kind, method)

        def watched(self: Any, *arguments: Any) -> Any:
            if not name(self, *arguments).startswith("asks"):
                found.append(name(self, *arguments))
            return original(self, *arguments)

        monkeypatch.setattr(kind, method, watched)

    watch(Gate, "__call__", lambda gate, invocation: gate.handler.name)
    watch(Dispatch, "_answer", lambda dispatch, invocation, builtin: invocation.handler)
    watch(MemoryNetwork, "send", lambda network, source, target, invocation: target)
    return found


class TestEveryKind:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_refused_before_anything_is_reached(
        self, rig: Rig, reached: list[str], records: Records, kind: str
    ) -> None:
        """No handler, none of the gateway's own, no other gateway; and it is recorded."""
        network = MemoryNetwork()
        policy = RulePolicy([MAY_ASK, NOTHING])
        hub = rig.gateway(SCRIPTS, "hub", network=network, policy=policy, recorder=records)
        plant = rig.gateway(SCRIPTS, "plant", network=network)
        assert KINDS[kind](rig.client(hub)) == ("PermissionDenied", False)
        assert reached == []
        assert "ran" not in hub.globals
        assert "ran" not in plant.globals
        assert [record.outcome for record in records.records if record.event == "refused"] == [
            "denied"
        ]

    def test_it_is_reached_by_who_may(self, rig: Rig, reached: list[str]) -> None:
        """All is done for the owner: what the other test looks for does happen."""
        network = MemoryNetwork()
        hub = rig.gateway(SCRIPTS, "hub", network=network)
        rig.gateway(SCRIPTS, "plant", network=network)
        client = rig.client(hub)
        unreached = []
        for kind, ask in KINDS.items():
            reached.clear()
            assert ask(client) is None, kind
            if not reached:
                unreached.append(kind)
        assert unreached == []

    @pytest.mark.parametrize("kind", ["another gateway", "nested, another gateway"])
    def test_the_other_gateway_refuses_for_itself(
        self, rig: Rig, reached: list[str], kind: str
    ) -> None:
        """The owner of one gateway is nobody at another one, unless a rule there says so."""
        network = MemoryNetwork()
        hub = rig.gateway(SCRIPTS, "hub", network=network)
        plant = rig.gateway(SCRIPTS, "plant", network=network, policy=RulePolicy([NOTHING_THERE]))
        assert KINDS[kind](rig.client(hub)) == ("PermissionDenied", False)
        assert reached == ["plant"]
        assert "ran" not in plant.globals

    def test_a_role_there_is_a_role_of_its_gateway(self, rig: Rig) -> None:
        """Other gateways' owners are owner@gateway, and only that."""
        network = MemoryNetwork()
        hub = rig.gateway(SCRIPTS, "hub", network=network)
        for name, role in (("plant", "owner"), ("mill", "owner@hub"), ("farm", "owner@mill")):
            rule = Permission(allow=True, roles=(role,), gateways=("*",))
            rig.gateway(SCRIPTS, name, network=network, policy=RulePolicy([rule]))
        client = rig.client(hub)
        asked = {at: nested("asks", at)(client) for at in ("plant", "mill", "farm")}
        denied = ("PermissionDenied", False)
        assert asked == {"plant": denied, "mill": None, "farm": denied}


class TestTheAnswer:
    """It does not tell what there is: neither by what it says, nor by when."""

    def test_it_is_the_same_byte_for_byte(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the handler, without it, and without its project: but for the request's number."""
        faults: list[bytes] = []
        receive = Session.receive

        def watched(self: Session, message: bytes, now: float) -> Any:
            for frame in msgpack.unpackb(message, strict_map_key=False)[-1]:
                if frame[0] == Fault.__struct_config__.tag:
                    faults.append(msgpack.packb([frame[0], *frame[2:]]))
            return receive(self, message, now)

        policy = RulePolicy([Permission(allow=False, handlers=("ACME/*",))])
        hub = rig.gateway({"ACME/test": rig.ECHO, "B/test": rig.ECHO}, policy=policy)
        client = rig.client(hub)
        monkeypatch.setattr(Session, "receive", watched)
        script = rig.folder / "hub/projects/ACME/messages/test.py"
        for step in (lambda: None, script.unlink, script.parent.rmdir, script.parents[1].rmdir):
            step()
            hub.reload()
            assert isinstance(client.request("ACME", "test", 1).getError(), PermissionDenied)
            report = client.message("ACME", "test", 1, scope="G").get()
            assert report == ["scope=G,gateway=hub,project=ACME,handler=test,sendStatus=DENIED"]
        assert len(faults) == 4
        assert len(set(faults)) == 1
        assert isinstance(client.request("B", "none").getError(), HandlerNotFound)
        assert isinstance(client.request("none", "test").getError(), ProjectNotFound)
        assert len(set(faults)) == 3

    def test_handlers_of_the_gateway_are_no_exception(self, rig: Rig) -> None:
        """Which action one needs is not told to who may not, nor whether there is one."""
        client = rig.client(rig.gateway({}, policy=RulePolicy([NOTHING])))
        texts = {
            str(client.request("@gateway", name).getError()).replace(name, "X")
            for name in ("stats", "reload", "none")
        }
        assert len(texts) == 1

    def test_it_takes_as_long(self, rig: Rig) -> None:
        """Asked in turns, the median times of what exists and what does not are alike."""
        policy = RulePolicy([Permission(allow=False, handlers=("A*/*",))])
        client = rig.client(rig.gateway({"ACME/test": rig.ECHO}, policy=policy))
        targets = [("ACME", "test"), ("ACME", "tesx"), ("ACMX", "test")]
        times: dict[tuple[str, str], list[float]] = {target: [] for target in targets}
        for _ in range(300):
            for target in targets:
                begin = time.perf_counter()
                client.request(*target).block()
                times[target].append(time.perf_counter() - begin)
        medians = [statistics.median(each) for each in times.values()]
        assert max(medians) < 2 * min(medians), medians


class TestLists:
    """What is told of others' handlers is what the caller may see, or ask itself."""

    def test_a_hint_names_nothing_that_may_not_be_asked(self, rig: Rig) -> None:
        """Neither the nearest name nor the list of all has what the rules keep from the caller."""
        rules = (
            Permission(allow=False, handlers=("SECRET/*", "ACME/vault")),
            Permission(allow=True),
        )
        scripts = dict.fromkeys(("ACME/start", "ACME/vault", "SECRET/test", "B/test"), rig.ECHO)
        client = rig.client(rig.gateway(scripts, policy=RulePolicy(rules)))
        for target, told in (
            (("SECRE", "test"), "There is: ACME, B."),
            (("ACM", "test"), "Did you mean 'ACME'?"),
            (("ACME", "vaul"), "There is: start."),
            (("ACME", "strat"), "Did you mean 'start'?"),
        ):
            text = str(client.request(*target).getError())
            assert told in text
            assert "SECRET" not in text
            assert "vault" not in text

    def test_a_hint_costs_no_time(self) -> None:
        """Among thousands of names only the neighbours are compared."""
        names = [f"line{number}/start_motor" for number in range(3000)]
        begin = time.perf_counter()
        difflib.get_close_matches("line1/start_motir", names, n=1)
        all_compared = time.perf_counter() - begin
        begin = time.perf_counter()
        assert "'line1/start_motor'" in dispatch._nearest("line1/start_motir", names, bool)
        assert time.perf_counter() - begin < all_compared / 4

    def test_lists_leave_out_what_may_not_be_seen(self, rig: Rig) -> None:
        """Handlers, what runs, what waits, and problems with their files."""
        policy = RulePolicy([Permission(allow=False, handlers=("SECRET/*",), actions=("see",))])
        scripts = {"ACME/hold": rig.HOLD, "SECRET/hold": rig.HOLD}
        broken = {"ACME/bad": "def (", "SECRET/bad": "def ("}
        hub = rig.gateway({**scripts, **broken}, policy=policy)
        client = rig.client(hub)
        for project in ("ACME", "SECRET"):
            client.request(project, "hold", {})
            hub.globals["running"].get(timeout=20)
        asked = {name: client.request("@gateway", name).get() for name in ("handlers", "problems")}
        asked["ps"] = client.request("@gateway", "ps").get()["running"]
        assert {name: [row["project"] for row in rows] for name, rows in asked.items()} == {
            "handlers": ["ACME"],
            "problems": ["ACME"],
            "ps": ["ACME"],
        }
        assert len(hub.problems) == len(hub.running()["running"]) == 2
        hub.globals["go"].set()


PASSWORD = "correct horse"


class TestWhoElseIsAtWork:
    """Other people, and the gateway's folders, are for those who may administer it."""

    @pytest.fixture
    def hub(self, rig: Rig) -> headgate.Gateway:
        """A gateway with the user ben."""
        scripts = {
            "ACME/bad": "raise OSError('at ' + __file__)",
            "ACME/hold": rig.HOLD,
            "ACME/outer": "def handleMessage(p): system.util.sendRequest('SECRET', 'hold', p)",
            "SECRET/hold": rig.HOLD,
        }
        rules = [Permission(allow=False, handlers=("SECRET/*",), actions=("see",))]
        hub = rig.gateway(scripts, policy=RulePolicy(rules))
        order = {"name": "ben", "password": PASSWORD}
        rig.client(hub).request("@gateway", "user_add", order).get()
        return hub

    def at_work(self, rig: Rig, hub: headgate.Gateway) -> dict[str, headgate.Client]:
        """The owner and ben, who both have a run of ACME/hold."""
        clients = {
            "owner": rig.client(hub, host_name="panel-7"),
            "ben": rig.client(hub, host_name="desk-1", username="ben", password=PASSWORD),
        }
        for client in clients.values():
            client.request("ACME", "hold", {})
            hub.globals["running"].get(timeout=20)
        return clients

    def test_runs_of_others_have_no_names(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Whoever may not administer sees that they run, and its own ones whole."""
        clients = self.at_work(rig, hub)
        clients["owner"].request("ACME", "outer", {})
        hub.globals["running"].get(timeout=20)
        told = {who: c.request("@gateway", "ps").get()["running"] for who, c in clients.items()}
        assert {(r["handler"], r["host"]) for r in told["owner"]} == {
            *(("hold", "panel-7"), ("hold", "desk-1"), ("outer", "panel-7"))
        }
        assert all(row["user"] and row["session"] and row["id"] for row in told["owner"])
        (own,) = [row for row in told["ben"] if row["user"]]
        (same,) = [row for row in told["owner"] if row["user"] == "ben"]
        assert own.items() >= {k: v for k, v in same.items() if "seconds" not in k}.items()
        others = [row for row in told["ben"] if not row["user"]]
        assert sorted(row["handler"] for row in others) == ["hold", "outer"]
        session = clients["owner"].session_id
        for secret in ("panel-7", f"'{own_user()}'", str(session), "SECRET"):
            assert secret not in str(others)
        hub.globals["go"].set()

    def test_folders_are_not_told(self, rig: Rig, hub: headgate.Gateway) -> None:
        """In lists, problems and hints others get names of files alone; who administers, paths."""
        clients = {
            "owner": rig.client(hub),
            "ben": rig.client(hub, username="ben", password=PASSWORD),
        }
        folder = str(rig.folder)
        for who, client in clients.items():
            told = {
                "handlers": client.request("@gateway", "handlers").get(),
                "problems": client.request("@gateway", "problems").get(),
                "hint": str(client.request("ACME", "none").getError()),
                "broken": str(client.request("ACME", "bad").getError()),
            }
            for name, value in told.items():
                assert (folder in str(value)) is (who == "owner"), (who, name, value)
            files = [Path(row["file"]).name for row in told["handlers"]]
            assert files == ["hold.py", "outer.py"]
            (problem,) = told["problems"]
            assert Path(problem["file"]).name == "bad.py"
            assert "OSError" in problem["what"]
            assert "bad.py" in told["broken"]

    def test_a_rule_gives_it(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Whoever may administer the list it asks for sees all of it, and no other one."""
        rule = {"allow": True, "users": ["ben"], "actions": ["administer"]}
        order = {**rule, "handlers": ["@gateway/ps"]}
        rig.client(hub).request("@gateway", "permission_add", order).get()
        ben = self.at_work(rig, hub)["ben"]
        running = ben.request("@gateway", "ps").get()["running"]
        assert {row["host"] for row in running} == {"panel-7", "desk-1"}
        assert str(rig.folder) not in str(ben.request("@gateway", "handlers").get())
        hub.globals["go"].set()


OWN = """
    import headgate

    @headgate.handler(roles={roles}, zones={zones})
    {kind}def handleMessage(payload):
        system.util.globals["ran"] = True
    """


ZONES = {"here": Zone(addresses=("127.0.0.0/8", "::1")), "there": Zone(hosts=("panel-*",))}


class TestAHandlersOwnSettings:
    @pytest.mark.parametrize("kind", ["", "async "])
    @pytest.mark.parametrize(
        ("roles", "zones"),
        [(["operator"], ["here"]), (["owner"], ["there"]), (["owner"], ["none"])],
    )
    def test_they_narrow(
        self, rig: Rig, records: Records, roles: Any, zones: Any, kind: str
    ) -> None:
        """Whom the rules allow, the owner too, the handler's settings may refuse; recorded."""
        script = OWN.format(roles=roles, zones=zones, kind=kind)
        policy = RulePolicy([], ZONES)
        hub = rig.gateway({"ACME/test": script}, policy=policy, recorder=records)
        client = rig.client(hub)
        assert error_of(client.request("ACME", "test")) == ("PermissionDenied", False)
        (line,) = client.message("ACME", "test", scope="G").get()
        assert line.endswith("DENIED")
        assert error_of(hub.scope("").request("ACME", "test")) == ("PermissionDenied", False)
        assert "ran" not in hub.globals
        assert sum(record.event == "refused" for record in records.records) == 3

    def test_they_let_pass_whom_they_name(self, rig: Rig) -> None:
        """One of the roles is enough, and lists in project.toml are as good as in the script."""
        hub = rig.gateway(
            {
                "ACME/test": OWN.replace(", zones={zones}", "").format(
                    roles=["operator", "owner"], kind=""
                ),
                "ACME/other": f"def {BODY}",
                "ACME/third": f"def {BODY}",
                "ACME/project.toml": """
                    [defaults]
                    roles = ["operator"]
                    [handlers.other]
                    roles = ["owner"]
                    """,
            }
        )
        client = rig.client(hub)
        asked = {
            name: error_of(client.request("ACME", name)) for name in ("test", "other", "third")
        }
        assert asked == {"test": None, "other": None, "third": ("PermissionDenied", False)}

    @pytest.mark.parametrize("kind", ["", "async "])
    def test_a_reload_takes_them_and_takes_them_back(self, rig: Rig, kind: str) -> None:
        """Whom a handler refuses is what its file says now, also for who was let in before."""
        free = f"{kind}def {BODY}"
        hub = rig.gateway({"ACME/test": free})
        client = rig.client(hub)
        assert error_of(client.request("ACME", "test")) is None
        for script, error in (
            (OWN.format(roles=["operator"], zones=["none"], kind=kind), "PermissionDenied"),
            (free, None),
            (OWN.replace(", zones={zones}", "").format(roles=["x"], kind=kind), "PermissionDenied"),
        ):
            rig.projects({"ACME/test": script})
            hub.reload()
            found = error_of(client.request("ACME", "test"))
            assert (found and found[0]) == error

    def test_they_widen_nothing(self, rig: Rig) -> None:
        """Whom no rule allows is refused, whatever the handler says."""
        script = OWN.replace(", zones={zones}", "").format(roles=["owner"], kind="")
        hub = rig.gateway({"ACME/test": script}, policy=RulePolicy([NOTHING]))
        assert error_of(rig.client(hub).request("ACME", "test")) == ("PermissionDenied", False)
        assert "ran" not in hub.globals

    def test_an_unknown_zone_is_a_problem_until_it_is_there(self, rig: Rig) -> None:
        """It is shown with the handler, the nearest zone and the cure; live, both ways."""
        script = OWN.replace("roles={roles}, ", "").format(zones=["hre"], kind="")
        policy = RulePolicy([], ZONES)
        hub = rig.gateway({"ACME/test": script}, policy=policy)
        (problem,) = rig.client(hub).request("@gateway", "problems").get()
        assert (problem["project"], problem["handler"]) == ("ACME", "test")
        assert "zone 'hre'" in problem["what"]
        assert "Did you mean 'here'?" in problem["cure"]
        assert problem["file"].endswith("test.py")
        policy.configure([], {**ZONES, "hre": Zone()})
        assert hub.problems == []
        policy.configure([], {})
        assert len(hub.problems) == 1

    @pytest.mark.parametrize("value", ["'operator'", "[]", "[1]", "['']", "{'a': 1}"])
    @pytest.mark.parametrize("name", ["roles", "zones"])
    def test_they_are_lists_of_names(self, rig: Rig, name: str, value: str) -> None:
        """Anything else is refused when the project is loaded: never taken for no limit."""
        script = f"import headgate\n@headgate.handler({name}={value})\ndef {BODY}"
        hub = rig.gateway({"ACME/test": script})
        (problem,) = hub.problems
        assert f"{name} cannot be" in problem.what
        assert "list of names" in problem.cure
