"""What a gateway records, and what its audit log demands of requests."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import (
    CancellationException,
    HandlerError,
    Overloaded,
    PermissionDenied,
    RequestTimeout,
)
from headgate.gateway.config import Settings
from headgate.invocation import Caller
from headgate.security.audit import AuditLog, AuditSettings, log
from headgate.security.audit.journal import Places
from headgate.security.audit.verify import verify
from headgate.security.identities import Identities
from headgate.security.identity import own_user
from headgate.security.policy import Action

if TYPE_CHECKING:
    from conftest import Records, Rig

BAD = "def handleMessage(payload): raise ValueError('no')"


def audited(**settings: Any) -> Settings:
    """Return settings of a gateway with these in its section ``[audit]``."""
    return Settings(audit=AuditSettings(**settings))


def rows(rig: Rig, hub: headgate.Gateway, *events: str) -> list[dict[str, Any]]:
    """The rows that a gateway has on its disk, those of these events."""
    rig.until(lambda: not hub._audit.waiting)  # type: ignore[union-attr]
    files = sorted(Places(hub.data).segments.iterdir())
    found = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    return [row for row in found if not events or row["event"] in events]


class Forbidding:
    """Refuses everything but the project ``ACME``."""

    def authorise(self, caller: Caller, action: Action, project: str, handler: str) -> None:
        if project == "secret":
            raise PermissionDenied("no", started=False)


class TestWhatIsRecorded:
    def test_a_life(self, rig: Rig) -> None:
        """From the start to the stop, with who it was; the log is signed to its end."""
        hub = rig.gateway({"ACME/bad": BAD, "ACME/echo": rig.ECHO})
        client = headgate.connect(hub.url, host_name="panel-7")
        client.request("ACME", "echo").get()
        error = client.request("ACME", "bad")
        assert error.block() is False
        client.close()
        rig.until(lambda: hub.stats()["sessions"] == 0)
        hub.stop()
        found = [row for row in rows(rig, hub) if row["event"] != "checkpoint"]
        assert [row["event"] for row in found] == [
            "started",
            "login",
            "failed",
            "logout",
            "stopped",
        ]
        row = found[2]
        assert (row["target"], row["outcome"], row["host"]) == (
            "ACME/bad",
            "handler_error",
            "panel-7",
        )
        assert row["request_id"] == error.request_id
        assert row["roles"] == ["owner"]
        assert row["session"] == found[1]["session"]
        assert 0 <= row["duration"] < 60
        report = verify(hub.data)
        assert report.key in found[0]["detail"]
        # The file may have been edited while nothing ran.
        assert "port: 0" in found[0]["detail"]
        assert "limits" not in found[0]["detail"]
        assert report.problems == []
        assert report.signed == report.last

    def test_requests_that_fail(self, rig: Rig) -> None:
        """A timeout, a cancellation and a refusal are one row each, and say how long it took."""
        hub = rig.gateway({"ACME/hold": rig.HOLD}, policy=Forbidding())
        client = rig.client(hub)
        late = client.request("ACME", "hold", timeout=0.1)
        assert isinstance(late.getError(), RequestTimeout)
        cancelled = client.request("ACME", "hold")
        hub.globals["running"].get(timeout=10)
        hub.globals["running"].get(timeout=10)
        cancelled.cancel()
        refused = client.request("secret", "hold")
        assert isinstance(refused.getError(), PermissionDenied)
        hub.globals["go"].set()
        rig.settle(hub)
        found = {row["request_id"]: row for row in rows(rig, hub, "failed", "refused")}
        assert len(found) == len(rows(rig, hub, "failed", "refused")) == 3
        assert found[late.request_id]["outcome"] == "timeout"
        assert found[late.request_id]["duration"] >= 0.09
        assert found[cancelled.request_id]["outcome"] == "cancelled"
        assert found[refused.request_id]["event"] == "refused"
        assert found[refused.request_id]["target"] == "secret/hold"
        assert found[refused.request_id]["action"] == "request"
        assert isinstance(cancelled.getError(), CancellationException)

    @pytest.mark.parametrize(
        ("requests", "events"),
        [("all", ["answered", "failed", "refused"]), ("failed", ["failed", "refused"])]
        + [("none", ["refused"])],
    )
    def test_by_setting(self, rig: Rig, requests: Any, events: list[str]) -> None:
        """Requests as the settings say, refusals always."""
        settings = AuditSettings(requests=requests)
        scripts = {"ACME/echo": rig.ECHO, "ACME/bad": BAD}
        hub = rig.gateway(scripts, policy=Forbidding(), config=Settings(audit=settings))
        scope = hub.scope("ACME")
        for project, handler in (("ACME", "echo"), ("ACME", "bad"), ("secret", "x")):
            scope.request(project, handler).block()
        assert [row["event"] for row in rows(rig, hub, "answered", "failed", "refused")] == events

    @pytest.mark.parametrize("payloads", [True, False])
    def test_payloads(self, rig: Rig, payloads: bool) -> None:
        """Only by setting, without secrets, and of a large one the size alone."""
        hub = rig.gateway({"ACME/bad": BAD}, config=audited(payloads=payloads))
        scope = hub.scope("")
        scope.request("ACME", "bad", {"level": 5, "token": "hunter2"}).block()
        scope.request("ACME", "bad", {"text": "x" * 100_000}).block()
        small, large = rows(rig, hub, "failed")
        if payloads:
            assert small["payload"] == {"level": 5, "token": "(left out)"}
            assert large["payload_bytes"] > 100_000
        assert ("payload" in small) == payloads
        assert "payload" not in large
        assert "hunter2" not in json.dumps(rows(rig, hub))

    @pytest.mark.parametrize("payloads", [True, False])
    def test_what_is_wrong_in_a_payload(self, rig: Rig, payloads: bool) -> None:
        """Its place alone: what checks annotations tells the value."""
        script = "from typing import Literal\n"
        script += "def handleMessage(payload: dict[str, Literal['open', 'shut']]): pass"
        hub = rig.gateway({"ACME/door": script}, config=audited(payloads=payloads))
        error = hub.scope("").request("ACME", "door", {"code": "4711"}).getError()
        assert "4711" in str(error)
        (row,) = rows(rig, hub, "failed")
        assert row["detail"] == (str(error) if payloads else "payload['code']")

    @pytest.mark.parametrize("payloads", [True, False])
    def test_what_a_handler_raised(
        self, rig: Rig, caplog: pytest.LogCaptureFixture, payloads: bool
    ) -> None:
        """Its type alone, since its text may hold the payload; the gateway's own log has both."""
        script = "def handleMessage(payload): raise ValueError('bad: ' + payload['iban'])"
        hub = rig.gateway({"ACME/pay": script}, config=audited(payloads=payloads))
        with caplog.at_level("INFO"):
            hub.scope("").request("ACME", "pay", {"iban": "DE00-1234"}).block()
        (row,) = rows(rig, hub, "failed")
        assert row["detail"] == ("ValueError: bad: DE00-1234" if payloads else "ValueError")
        assert ("DE00-1234" in json.dumps(rows(rig, hub))) == payloads
        told = {record.name for record in caplog.records if "DE00-1234" in record.getMessage()}
        assert "headgate.handlers" in told
        assert ("headgate.audit" in told) == payloads

    @pytest.mark.parametrize(
        ("audit", "summed"),
        [({}, True), ({"requests": "none"}, True), ({"requests": "all"}, False)]
        + [({"strict": True}, False)],
    )
    def test_a_flood_of_one_user(self, rig: Rig, audit: dict[str, Any], summed: bool) -> None:
        """Beyond a number its refused requests are added up, and none is missing."""
        hub = rig.gateway({}, policy=Forbidding(), config=audited(**audit))
        client = rig.client(hub)
        handles = [client.request("secret", "x") for _ in range(1_500)]
        assert all(isinstance(handle.getError(), PermissionDenied) for handle in handles)
        hub.stop()
        refused = len(rows(rig, hub, "refused"))
        sums = rows(rig, hub, "limited")
        assert refused + sum(int(row["detail"].split()[0]) for row in sums) == 1_500
        assert (1_000 <= refused < 1_500) if summed else refused == 1_500
        for row in sums:
            assert (row["outcome"], row["user"]) == ("failures", own_user())
        assert hub.counters()["failures"] == 1_500 - refused

    def test_messages(self, rig: Rig) -> None:
        """A message is told from a request."""
        hub = rig.gateway({"ACME/bad": BAD})
        hub.scope("").message("ACME", "bad").get()
        rig.settle(hub)
        (row,) = rows(rig, hub, "failed")
        assert row["action"] == "message"

    def test_administration(self, rig: Rig) -> None:
        """One row with what was changed, once it is done, whatever the settings; no secrets."""
        hub = rig.gateway({"ACME/echo": rig.ECHO}, config=audited(requests="all"))
        client = rig.client(hub)
        client.request("@gateway", "reload", {"everything": True, "password": "hunter2"}).get()
        client.request("@gateway", "stack", {"id": "nothing"}).block()
        done, failed = rows(rig, hub, "administered")
        assert (done["target"], done["outcome"]) == ("@gateway/reload", "ok")
        assert json.loads(done["detail"]) == {"everything": True, "password": "(left out)"}
        assert done["user"]
        assert (failed["target"], failed["outcome"]) == ("@gateway/stack", "handler_not_found")
        assert rows(rig, hub, "answered") == []

    def test_a_recorder_of_its_own(self, rig: Rig, records: Records) -> None:
        """A program's recorder takes the place of the log: nothing is written."""
        hub = rig.gateway({}, recorder=records)
        assert not Places(hub.data).segments.exists()

    def test_administration_that_outlives_the_stop(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What changed while the gateway stopped is recorded, although nobody got the answer."""
        begun, go_on = threading.Event(), threading.Event()
        change = Identities.change

        async def slow(self: Identities, function: Any) -> Any:
            begun.set()
            await asyncio.to_thread(go_on.wait, 20)
            return await change(self, function)

        monkeypatch.setattr(Identities, "change", slow)
        hub = rig.gateway({})
        rig.client(hub).request("@gateway", "user_add", {"name": "ada"})
        assert begun.wait(20)
        threading.Timer(0.2, go_on.set).start()
        hub.stop(0.0)
        told = [row.get("detail", "") for row in rows(rig, hub, "administered")]
        assert any(text.startswith("user 'ada'") for text in told)

    def test_again(self, rig: Rig) -> None:
        """A gateway that starts again goes on with its log."""
        hub = rig.gateway({})
        hub.stop()
        hub.start()
        hub.stop()
        assert [row["event"] for row in rows(rig, hub, "started", "stopped")] == [
            "started",
            "stopped",
        ] * 2
        assert verify(hub.data).problems == []


class TestStrict:
    LOOK = """
        import pathlib
        def handleMessage(payload, context):
            files = sorted(pathlib.Path(payload).glob("*.jsonl"))
            text = b"".join(file.read_bytes() for file in files)
            return context.request_id.encode() in text
        """

    def test_the_row_is_there_before_the_handler_begins(self, rig: Rig) -> None:
        """The handler itself finds its request in the file, from a client and inside."""
        hub = rig.gateway({"ACME/look": self.LOOK}, config=audited(strict=True))
        folder = str(Places(hub.data).segments)
        for caller in (rig.client(hub), hub.scope("")):
            handles = [caller.request("ACME", "look", folder) for _ in range(20)]
            assert [handle.get() for handle in handles] == [True] * 20
        assert len(rows(rig, hub, "begun")) == 40

    def test_a_cancelled_one_never_begins(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        """While its row is written, a request can be cancelled or be too late."""
        held: list[Any] = []
        monkeypatch.setattr(AuditLog, "commit", lambda _, record, done: held.append((record, done)))
        hub = rig.gateway({"ACME/hold": rig.HOLD}, config=audited(strict=True))
        client = rig.client(hub)
        cancelled = client.request("ACME", "hold")
        rig.until(lambda: held)
        cancelled.cancel()
        assert cancelled.wait_fate(10) == "not started"
        late = client.request("ACME", "hold", timeout=0.05)
        error = late.getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is False
        for _, done in held:
            done(True)
        rig.settle(hub)
        assert hub.globals["running"].empty()

    def test_refusals_need_no_row_first(self, rig: Rig) -> None:
        """What is refused is refused at once, and so is what nobody hosts."""
        audit = AuditSettings(strict=True)
        hub = rig.gateway({"ACME/bad": BAD}, config=Settings(audit=audit), policy=Forbidding())
        scope = hub.scope("")
        scope.request("secret", "x").block()
        scope.request("ACME", "nobody").block()
        scope.request("ACME", "bad").block()
        assert [row["target"] for row in rows(rig, hub, "begun")] == ["ACME/bad"]

    def test_messages_and_nested_requests(self, rig: Rig) -> None:
        """They are held, too, and go on."""
        scripts = {
            "ACME/echo": rig.ECHO,
            "ACME/outer": """
                def handleMessage(payload):
                    system.util.sendMessage("ACME", "note", {"n": 1})
                    return system.util.sendRequest("ACME", "echo", {"n": 2})
                """,
            "ACME/note": "def handleMessage(p): system.util.globals['running'].put(p)",
        }
        hub = rig.gateway(scripts, config=audited(strict=True))
        assert rig.client(hub).request("ACME", "outer").get() == {"n": 2}
        assert hub.globals["running"].get(timeout=10) == {"n": 1}
        assert len(rows(rig, hub, "begun")) == 3


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A disk on which no segment can be written while the list holds something."""
    is_full: list[bool] = []
    write = os.write

    def fail(descriptor: int, data: Any) -> int:
        if is_full and bytes(data[:6]) == b'{"seq"':
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", fail)
    monkeypatch.setattr(log, "RETRY_SECONDS", 0.01)
    yield is_full
    is_full.clear()


class TestFullDisk:
    @pytest.mark.parametrize("strict", [False, True])
    def test_refuse(self, rig: Rig, full: list[bool], strict: bool) -> None:
        """Requests end with Overloaded before their handlers begin, until there is room again."""
        audit = AuditSettings(on_full="refuse", strict=strict)
        hub = rig.gateway({"ACME/echo": rig.ECHO, "ACME/bad": BAD}, config=Settings(audit=audit))
        client = rig.client(hub)
        assert client.request("ACME", "echo", 1).get() == 1
        full.append(True)
        client.request("ACME", "bad").block()
        rig.until(lambda: hub._audit.failing)  # type: ignore[union-attr]
        error = client.request("ACME", "echo", 2).getError()
        assert isinstance(error, Overloaded)
        assert "audit log" in str(error)
        assert str(hub.data) not in str(error)
        assert error.started is False
        assert error.retry_after
        # Whoever is to cure it can still get in and look.
        assert client.request("@gateway", "ps").get()["running"] == []
        assert not client.request("@gateway", "reload").get()["problems"]
        full.clear()
        rig.until(lambda: not hub._audit.failing)  # type: ignore[union-attr]
        assert client.request("ACME", "echo", 3).get() == 3

    @pytest.mark.parametrize("strict", [False, True])
    def test_go_on(self, rig: Rig, full: list[bool], strict: bool) -> None:
        """Requests go on; their rows are there once there is room."""
        hub = rig.gateway({"ACME/bad": BAD}, config=audited(strict=strict))
        full.append(True)
        for _ in range(3):
            error = hub.scope("").request("ACME", "bad").getError()
            assert isinstance(error, HandlerError)
        rig.until(lambda: hub._audit.failing)  # type: ignore[union-attr]
        full.clear()
        rig.until(lambda: not hub._audit.failing)  # type: ignore[union-attr]
        assert len(rows(rig, hub, "failed")) == 3
        assert verify(hub.data).problems == []
