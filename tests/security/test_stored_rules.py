"""Rules in the database: changed while the gateway runs, remembered, undone."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import ConfigurationError, HandlerNotFound, PayloadError, PermissionDenied
from headgate.invocation import Caller
from headgate.security import rules as stored
from headgate.security.identity import owner
from headgate.security.policy import Permission, RulePolicy
from headgate.security.zones import Zone
from headgate.store import Store

if TYPE_CHECKING:
    from conftest import Records, Rig

REFUSE = {"allow": False, "handlers": ["ACME/*"]}
ALLOW = {"allow": True, "handlers": ["ACME/*"], "actions": ["request"]}


def administer(client: headgate.Client, action: str, payload: Any = None) -> Any:
    """Administer the rules of a running gateway."""
    return client.request("@gateway", f"permission_{action}", payload).get()


def may(client: headgate.Client) -> bool:
    """Whether the owner may ask ACME/echo at this moment."""
    error = client.request("ACME", "echo").getError()
    assert error is None or isinstance(error, PermissionDenied)
    return error is None


def places(client: headgate.Client) -> list[str]:
    """Where the rules in the database stand, in their order."""
    found = [rule["where"] for rule in administer(client, "list")["rules"]]
    return [where.removeprefix("database, rule ") for where in found if "database" in where]


@pytest.fixture
def hub(rig: Rig, records: Records) -> headgate.Gateway:
    """A gateway with a zone, and a rule in its configuration that comes first."""
    rule = Permission(allow=True, actions=("administer", "see"), roles=("owner",))
    policy = RulePolicy([rule], {"plant": Zone(addresses=("10.1.0.0/16",))})
    return rig.gateway({"ACME/echo": rig.ECHO}, policy=policy, recorder=records)


@pytest.fixture
def client(rig: Rig, hub: headgate.Gateway) -> headgate.Client:
    """The owner."""
    return rig.client(hub)


class TestChanges:
    def test_they_take_effect_at_once(self, rig: Rig, hub: Any, client: headgate.Client) -> None:
        """The next request of a session that was there before is decided by the new rules."""
        other = rig.client(hub)
        assert may(other)
        assert administer(client, "add", REFUSE)["rule"] == 1
        assert not may(other)
        assert administer(client, "add", {**ALLOW, "before": 1})["rule"] == 2
        assert may(other)
        administer(client, "remove", {"rule": 2})
        assert not may(other)
        administer(client, "remove", {"rule": 1})
        assert may(other)

    def test_they_outlive_the_gateway(self, rig: Rig, hub: Any, client: headgate.Client) -> None:
        """They are in the database, with their numbers, their order and their history."""
        administer(client, "add", REFUSE)
        administer(client, "add", {**ALLOW, "before": 1})
        administer(client, "add", {"allow": False, "zones": ["plant"]})
        before = administer(client, "list"), administer(client, "history")
        hub.stop()
        hub.start()
        again = rig.client(hub)
        assert (administer(again, "list"), administer(again, "history")) == before
        assert places(again) == ["2", "1", "3"]
        assert may(again)

    def test_all_rules_are_listed(self, client: headgate.Client) -> None:
        """Those of the configuration first, then of the database, then the built-in ones."""
        administer(client, "add", REFUSE)
        listed = administer(client, "list")["rules"]
        assert [rule["where"].partition(":")[0] for rule in listed] == [
            "headgate.toml, permission 1",
            "database, rule 1",
            *["built-in"] * 3,
        ]
        empty: dict[str, Any] = {"users": [], "roles": [], "zones": [], "gateways": []}
        assert listed[1] == {"where": "database, rule 1", **empty, **REFUSE, "actions": []}

    def test_a_place_is_kept(self, client: headgate.Client) -> None:
        """A rule that comes back stands where it stood, whatever came and went meanwhile."""
        for before in (None, None, 2, 1):
            administer(client, "add", {**ALLOW, "before": before})
        assert places(client) == ["4", "1", "3", "2"]
        removed = administer(client, "remove", {"rule": 3})["number"]
        administer(client, "add", {**ALLOW, "before": 2})
        administer(client, "remove", {"rule": 1})
        assert places(client) == ["4", "5", "2"]
        administer(client, "undo", {"change": removed})
        assert places(client) == ["4", "3", "5", "2"]

    @pytest.mark.parametrize(
        ("action", "payload", "told"),
        [
            ("add", {}, "required field `allow`"),
            ("add", None, "required field `allow`"),
            ("add", [1], "Expected `object`"),
            ("add", {"allow": True, "user": ["x"]}, "unknown field `user`"),
            ("add", {"allow": True, "users": "x"}, "Expected `array`"),
            ("add", {"allow": True, "zones": ["plnt"]}, "Did you mean 'plant'?"),
            ("add", {"allow": True, "actions": ["reqest"]}, "Did you mean 'request'?"),
            ("add", {"allow": True, "actions": [7]}, "actions cannot be"),
            ("add", {"allow": True, "handlers": ["ACME"]}, "'ACME/*'"),
            ("add", {**ALLOW, "before": 7}, "no rule 7"),
            ("remove", {"rule": 7}, "no rule 7"),
            ("remove", {"rule": "1"}, "Expected `int`"),
            ("undo", {"change": 7}, "no change 7"),
            ("undo", {}, "no change that could be undone"),
        ],
    )
    def test_a_mistake_changes_nothing(
        self, client: headgate.Client, records: Records, action: str, payload: Any, told: str
    ) -> None:
        """The error says what is wrong; nothing is stored, and nothing is recorded as done."""
        error = client.request("@gateway", f"permission_{action}", payload).getError()
        assert isinstance(error, PayloadError)
        assert error.started is False
        assert told in str(error)
        assert places(client) == []
        assert administer(client, "history") == {"changes": []}
        outcomes = {r.outcome for r in records.records if r.event == "administered"}
        assert outcomes == {"payload"}

    def test_there_is_an_end(
        self, client: headgate.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither rules nor their history grow without bound; numbers are never given twice."""
        monkeypatch.setattr(stored, "MOST_RULES", 2)
        monkeypatch.setattr(stored, "MOST_CHANGES", 4)
        for _ in range(2):
            administer(client, "add", ALLOW)
        error = client.request("@gateway", "permission_add", ALLOW).getError()
        assert "2 rules already" in str(error)
        for number in (2, 3, 4, 5):
            administer(client, "remove", {"rule": number})
            assert administer(client, "add", ALLOW)["rule"] == number + 1
        assert [each["number"] for each in administer(client, "history")["changes"]] == [
            10,
            9,
            8,
            7,
        ]
        assert places(client) == ["1", "6"]

    def test_many_at_once(self, rig: Rig, hub: Any, client: headgate.Client) -> None:
        """Changes of several administrators come one after the other; the last one's list holds."""
        barrier = threading.Barrier(4)

        def add(each: headgate.Client) -> None:
            barrier.wait(10)
            for _ in range(10):
                administer(each, "add", ALLOW)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, [rig.client(hub) for _ in range(4)]))
        assert places(client) == [str(number) for number in range(1, 41)]


class TestHistory:
    def test_it_tells_who_did_what_and_when(
        self, client: headgate.Client, records: Records
    ) -> None:
        """Each change stands there with its user, its time and its rule; and in the audit."""
        begin = datetime.now(UTC) - timedelta(seconds=1)
        administer(client, "add", {**REFUSE, "roles": ["operator"]})
        administer(client, "remove", {"rule": 1})
        last, first = administer(client, "history")["changes"]
        text = "refuse roles=operator handlers=ACME/*"
        user = owner(host="", session="").user
        for change, kind in ((first, "added"), (last, "removed")):
            assert (change["kind"], change["rule"], change["text"]) == (kind, 1, text)
            assert change["user"] == user
            assert begin <= datetime.fromisoformat(change["at"]) <= datetime.now(UTC)
        told = [record for record in records.records if record.event == "administered"]
        assert [(r.target, r.outcome, r.detail) for r in told] == [
            ("database, rule 1", "added", f"change 1: {text}"),
            ("database, rule 1", "removed", f"change 2: {text}"),
        ]
        assert all(record.user == user and record.session for record in told)


class TestUndo:
    def test_the_last_changes_are_undone_one_after_the_other(self, client: headgate.Client) -> None:
        """Without a number it is the last one that was not undone, and no undo."""
        administer(client, "add", REFUSE)
        administer(client, "add", ALLOW)
        administer(client, "remove", {"rule": 1})
        assert [administer(client, "undo")["undoes"] for _ in range(3)] == [3, 2, 1]
        assert places(client) == []
        assert "no change" in str(client.request("@gateway", "permission_undo").getError())
        history = administer(client, "history")["changes"]
        assert [change["undoes"] for change in history] == [1, 2, 3, None, None, None]

    def test_it_takes_effect_at_once(self, client: headgate.Client) -> None:
        """What the change has taken, undoing gives back."""
        administer(client, "add", REFUSE)
        assert not may(client)
        administer(client, "undo")
        assert may(client)

    def test_what_cannot_be_undone(self, client: headgate.Client) -> None:
        """Each reason is told: done already, an undo itself, a later change against it."""
        administer(client, "add", REFUSE)
        administer(client, "undo", {"change": 1})
        administer(client, "add", ALLOW)
        administer(client, "remove", {"rule": 2})
        for number, told in (
            (1, "undone already, by change 2"),
            (2, "undid change 1"),
            (3, "no rule 2"),
        ):
            error = client.request("@gateway", "permission_undo", {"change": number}).getError()
            assert told in str(error)
        assert places(client) == []


class TestLockingOneselfOut:
    def test_whoever_could_not_undo_it_is_kept_from_it(self, rig: Rig) -> None:
        """To add, to remove and to undo; with a rule for the owner before it, it is done."""
        client = rig.client(rig.gateway({"ACME/echo": rig.ECHO}))
        refused = [client.request("@gateway", "permission_add", {"allow": False}).getError()]
        everything = {"allow": True, "roles": ["owner"], "actions": ["request", "administer"]}
        first = administer(client, "add", everything)
        administer(client, "add", {"allow": False})
        rule, undo = {"rule": first["rule"]}, {"change": first["number"]}
        refused.append(client.request("@gateway", "permission_remove", rule).getError())
        refused.append(client.request("@gateway", "permission_undo", undo).getError())
        for error in refused:
            assert isinstance(error, PayloadError)
            assert re.search(r"could not undo this: database, rule \d would refuse it", str(error))
        assert len(places(client)) == 2
        assert may(client)

    def test_an_administrator_does_not_lock_the_owner_out(
        self, tmp_path: Path, records: Records
    ) -> None:
        """Who may change the rules cannot take that from the owner."""
        policy = RulePolicy([Permission(allow=True, users=("eve",), actions=("administer",))])
        with Store(tmp_path / "data") as store:
            rules = stored.Rules(store, policy, records)
            rules.load()
            eve = Caller(user="eve", method="password")
            with pytest.raises(PayloadError, match="could not undo this: database, rule 1"):
                asyncio.run(rules.add(Permission(allow=False, roles=("owner",)), by=eve))
            asyncio.run(rules.add(Permission(allow=False, roles=("operator",)), by=eve))


def test_a_rule_whose_zone_is_gone_keeps_the_gateway_from_starting(
    rig: Rig, hub: headgate.Gateway, client: headgate.Client
) -> None:
    """The error names rule and zone: to start without the rule could allow too much."""
    administer(client, "add", {"allow": False, "zones": ["plant"]})
    hub.stop()
    again = headgate.Gateway("hub", projects=rig.folder / "hub/projects", port=0, data=hub.data)
    with pytest.raises(ConfigurationError, match="database, rule 1: there is no zone 'plant'"):
        again.start()


def test_another_policy_has_no_rules(rig: Rig) -> None:
    """A gateway whose policy is a program's own has nothing to administer them with."""

    class Open:
        def authorise(self, *question: Any) -> None:
            """Let everybody pass."""

    client = rig.client(rig.gateway({}, policy=Open()))
    error = client.request("@gateway", "permission_list").getError()
    assert isinstance(error, HandlerNotFound)
