"""Rules: which one decides about whom, from where and for what."""

from __future__ import annotations

import fnmatch
import ipaddress
import random
from typing import Any

import pytest

from headgate.errors import ConfigurationError, PermissionDenied
from headgate.invocation import Caller
from headgate.security import policy as policies
from headgate.security.identity import gateway_itself, owner
from headgate.security.policy import BUILT_IN, Permission, Rule, RulePolicy, permission_text
from headgate.security.zones import Networks, Zone, Zones

ACTIONS = ("request", "message", "see", "administer", "host")
ZONES = {
    "plant": Zone(addresses=("10.1.0.0/16",), hosts=("panel-*",)),
    "office": Zone(addresses=("10.2.0.0/16", "fd00::/8")),
}

ANNA = Caller("anna", frozenset({"operator"}), address="10.1.2.3", method="password")
THERE = Caller("anna", frozenset({"operator"}), gateway=("Hub",), address="10.1.2.3")
FURTHER = Caller("anna", frozenset({"operator"}), gateway=("mill", "hub"))
NOBODY = Caller("anonymous", address="10.1.2.3", method="anonymous")
SCOPED = Caller("anna", frozenset({"owner"}), method="token", only=("ACME/t*", "B/x"))


def changed(caller: Caller, **fields: Any) -> Caller:
    """Return a caller with other fields."""
    return Caller(**{name: getattr(caller, name) for name in caller.__struct_fields__} | fields)


def may(policy: RulePolicy, caller: Caller, action: Any, target: str) -> bool:
    """Ask twice, as it is decided and as it is remembered, and ask for the reason."""
    project, _, handler = target.partition("/")
    answers = set()
    for _ in range(2):
        try:
            policy.authorise(caller, action, project, handler)
            answers.add(True)
        except PermissionDenied:
            answers.add(False)
    answers.add(policy.decide(caller, action, project, handler).allow)
    (answer,) = answers
    return answer


class TestBuiltIn:
    @pytest.mark.parametrize("action", ACTIONS)
    def test_the_owner_may_everything(self, action: str) -> None:
        """The gateway's own user, and the gateway itself, pass where no rule says otherwise."""
        for caller in (owner(host="h", session="s"), gateway_itself("hub")):
            assert may(RulePolicy(), caller, action, "ACME/test")

    @pytest.mark.parametrize("action", ACTIONS)
    def test_others_may_what_is_not_dangerous(self, action: str) -> None:
        """Whoever is signed in here may request, message and see; others may nothing."""
        allowed = action in ("request", "message", "see")
        assert may(RulePolicy(), ANNA, action, "ACME/test") is allowed
        for caller in (THERE, FURTHER, NOBODY, changed(THERE, roles=frozenset({"owner"}))):
            assert not may(RulePolicy(), caller, action, "ACME/test")

    def test_they_are_shown_with_the_others(self) -> None:
        """All rules are listed, in the order in which they are looked at, with their place."""
        policy = RulePolicy([Permission(allow=False)])
        policy.replace_stored([Rule("database, rule 7", Permission(allow=True))])
        assert [rule.where for rule in policy.rules] == [
            "headgate.toml, permission 1",
            "database, rule 7",
            *(rule.where for rule in BUILT_IN),
        ]
        assert all(rule.where.startswith("built-in: ") for rule in BUILT_IN)


class TestAdminister:
    @pytest.mark.parametrize("action", ACTIONS)
    @pytest.mark.parametrize("named", [(), ("administer",), ("see", "host")])
    def test_only_a_rule_that_names_it_allows_it(self, named: Any, action: str) -> None:
        """A rule without actions allows all others; what it allows nobody reads as every right."""
        policy = RulePolicy([Permission(allow=True, users=("anna",), actions=named)])
        if action in ("request", "message", "see"):
            assert may(policy, ANNA, action, "@gateway/user_add")
        else:
            expected = action in named if named else action != "administer"
            assert may(policy, ANNA, action, "@gateway/user_add") is expected

    @pytest.mark.parametrize("action", ACTIONS)
    def test_a_rule_without_actions_refuses_it(self, action: str) -> None:
        """What refuses everything refuses that, too: the owner's built-in rule comes too late."""
        policy = RulePolicy([Permission(allow=False, users=("anna",))])
        anna = changed(ANNA, roles=frozenset({"owner"}))
        assert not may(policy, anna, action, "@gateway/user_add")

    def test_the_owner_keeps_it_behind_a_rule_that_allows_the_rest(self) -> None:
        """An allowing rule for all does not decide about it: the next ones do."""
        policy = RulePolicy([Permission(allow=True)])
        assert may(policy, owner(host="", session="s"), "administer", "@gateway/user_add")
        assert not may(policy, ANNA, "administer", "@gateway/user_add")


def rule(**conditions: Any) -> Permission:
    """A rule that allows."""
    return Permission(allow=True, actions=("host",), **conditions)


# Whether the rule alone lets the caller host ACME/test, which nobody else may.
MATCHES = [
    (rule(), ANNA, True),
    (rule(users=("ANNA",)), ANNA, True),
    (rule(users=("a??a",)), ANNA, True),
    (rule(users=("a*",)), changed(ANNA, user="Ärne"), False),
    (rule(users=("är*",)), changed(ANNA, user="ÄRNE"), True),
    (rule(users=("ann",)), ANNA, False),
    (rule(users=("ben", "anna")), ANNA, True),
    (rule(users=("a[mn]na",)), ANNA, False),
    (rule(users=("a[n]",)), changed(ANNA, user="A[N]"), True),
    (rule(users=("*",)), changed(ANNA, user="two\nlines"), True),
    (rule(users=("anna",)), changed(ANNA, user="anna\n"), False),
    (rule(roles=("engineer", "operator")), ANNA, True),
    (rule(roles=("Operator",)), ANNA, False),
    (rule(roles=("oper*",)), ANNA, False),
    (rule(zones=("plant",)), ANNA, True),
    (rule(zones=("office",)), ANNA, False),
    (rule(zones=("office", "plant")), ANNA, True),
    (rule(zones=("plant",)), changed(ANNA, address="::ffff:10.1.2.3"), True),
    (rule(zones=("office",)), changed(ANNA, address="fd12::1"), True),
    (rule(zones=("office",)), changed(ANNA, address="fd12::1%eth0"), True),
    (rule(zones=("plant",)), changed(ANNA, address=""), False),
    (rule(zones=("plant",)), changed(ANNA, address="10.1.2"), False),
    (rule(zones=("plant",)), changed(ANNA, address="", verified_host="PANEL-7"), True),
    (rule(zones=("plant",)), changed(ANNA, address="", verified_host="my-panel-7"), False),
    # A claimed host name selects, it never authorises.
    (rule(zones=("plant",)), changed(ANNA, address="", host="panel-7"), False),
    (rule(handlers=("ACME/*",)), ANNA, True),
    (rule(handlers=("ACME/te?t",)), ANNA, True),
    (rule(handlers=("acme/*",)), ANNA, False),
    (rule(handlers=("*/test",)), ANNA, True),
    (rule(handlers=("AC*",)), ANNA, True),
    (rule(handlers=("ACME/tes",)), ANNA, False),
    (rule(users=("anna",), roles=("engineer",)), ANNA, False),
    (rule(), THERE, False),
    (rule(users=("anna",)), THERE, False),
    (rule(roles=("operator",)), THERE, False),
    (rule(roles=("operator@hub",)), THERE, False),
    (rule(gateways=("*",)), ANNA, False),
    (rule(gateways=("hUB",)), THERE, True),
    (rule(gateways=("h*",)), THERE, True),
    (rule(gateways=("mill",)), THERE, False),
    (rule(gateways=("hub",), users=("anna",)), THERE, True),
    (rule(gateways=("hub",), roles=("operator",)), THERE, False),
    (rule(gateways=("*",), roles=("operator@HUB",)), THERE, True),
    (rule(gateways=("*",), roles=("operator@mill",)), THERE, False),
    (rule(gateways=("*",), roles=("Operator@hub",)), THERE, False),
    # The last gateway is proven; what the first one says of its users is the last one's word.
    (rule(gateways=("hub",)), FURTHER, True),
    (rule(gateways=("mill",)), FURTHER, False),
    (rule(gateways=("*",), roles=("operator@hub",)), FURTHER, False),
    (rule(gateways=("*",), roles=("operator@mill",)), FURTHER, False),
    (rule(gateways=("*",), roles=("operator@mill@hub",)), FURTHER, True),
    (rule(gateways=("hub",), users=("anna",)), FURTHER, False),
    (rule(gateways=("hub",), users=("anna@mill",)), FURTHER, True),
    (rule(), NOBODY, False),
    (rule(users=("*",)), NOBODY, False),
    (rule(users=("anonym?us",)), NOBODY, False),
    (rule(users=("Anonymous",)), NOBODY, True),
    (rule(users=("anonymous",), zones=("office",)), NOBODY, False),
]


@pytest.mark.parametrize(
    ("permission", "caller", "expected"),
    MATCHES,
    ids=[f"{permission_text(r)[6:]}-{c.user!a}{c.gateway}{c.address}" for r, c, _ in MATCHES],
)
def test_a_rule_matches(permission: Permission, caller: Caller, expected: bool) -> None:
    """Every condition that a rule has must hold, and only those."""
    policy = RulePolicy([permission], ZONES)
    assert may(policy, caller, "host", "ACME/test") is expected


@pytest.mark.parametrize(
    ("pattern", "target", "expected"),
    [
        ("ACME/*", "ACME/line/3/start", True),
        ("ACME/*", "ACME/", True),
        ("ACME/*", "ACME2/test", False),
        ("ACME/line/*", "ACME/line", False),
        ("ACME/[default]", "ACME/[default]", True),
        ("ACME/[default]", "ACME/d", False),
        ("ACME/[!x]*", "ACME/[!x]y", True),
        ("ACME/a.b", "ACME/axb", False),
        ("ACME/a|B/b", "B/b", False),
        ("@gateway/user_*", "@gateway/user_add", True),
        ("*", "ACME/test", True),
    ],
)
def test_a_pattern_covers(pattern: str, target: str, expected: bool) -> None:
    """Only * and ? are special; * covers slashes, too."""
    assert may(RulePolicy([rule(handlers=(pattern,))]), ANNA, "host", target) is expected


def test_no_name_makes_a_pattern_slow() -> None:
    """A pattern with many stars does not go back and forth in a name that was made for it."""
    policy = RulePolicy([rule(handlers=("*a*a*a*a*a*a*a*a*a*a*b",))])
    assert not may(policy, ANNA, "host", "ACME/" + "a" * 5000)


class TestOrder:
    def test_the_first_rule_that_matches_decides(self) -> None:
        """Configuration, database, built-in: each is looked at only if none before it matches."""
        policy = RulePolicy(
            [
                Permission(allow=False, handlers=("ACME/secret",)),
                Permission(allow=True, roles=("operator",), handlers=("ACME/*",)),
            ]
        )
        policy.replace_stored([Rule("database, rule 3", Permission(allow=False, users=("anna",)))])
        told = {
            target: policy.decide(ANNA, "request", *target.split("/"))
            for target in ("ACME/secret", "ACME/test", "B/test")
        }
        assert [(d.allow, d.where) for d in told.values()] == [
            (False, "headgate.toml, permission 1"),
            (True, "headgate.toml, permission 2"),
            (False, "database, rule 3"),
        ]
        assert told["B/test"].rule == Permission(allow=False, users=("anna",))
        other = policy.decide(changed(ANNA, user="ben"), "request", "B", "test")
        assert other.where == "built-in: signed-in local users may request, message, see"
        assert policy.decide(NOBODY, "see", "B", "test").where == BUILT_IN[-1].where

    def test_a_rule_stands_before_the_owner(self) -> None:
        """The configuration comes first: it can keep the owner from something, too."""
        policy = RulePolicy([Permission(allow=False, handlers=("ACME/*",))])
        caller = owner(host="", session="s")
        assert not may(policy, caller, "request", "ACME/test")
        assert may(policy, caller, "request", "B/test")


class TestScopeOfAToken:
    @pytest.mark.parametrize(
        ("action", "target", "expected"),
        [
            ("request", "ACME/test", True),
            ("request", "ACME/other", False),
            ("message", "B/x", True),
            ("message", "B/y", False),
            ("administer", "@gateway/user_add", False),
            ("host", "C/z", False),
            ("see", "@gateway/handlers", True),
        ],
    )
    def test_it_narrows(self, action: str, target: str, expected: bool) -> None:
        """A token that is limited to some handlers may not use the other rights of its user."""
        assert may(RulePolicy(), SCOPED, action, target) is expected
        if not expected:
            decision = RulePolicy().decide(SCOPED, action, *target.split("/"))  # type: ignore[arg-type]
            assert (decision.rule, decision.where) == (None, "the token's scope: ACME/t*, B/x")

    def test_it_widens_nothing(self) -> None:
        """What no rule allows is refused within the scope, too, and the rule is named."""
        decision = RulePolicy([Permission(allow=False)]).decide(SCOPED, "request", "ACME", "test")
        assert (decision.allow, decision.where) == (False, "headgate.toml, permission 1")


class TestMistakes:
    @pytest.mark.parametrize(
        ("permission", "told"),
        [
            (Permission(allow=True, zones=("plnt",)), "no zone 'plnt'. Did you mean 'plant'?"),
            (Permission(allow=True, handlers=("ACME",)), "'ACME'. Write 'ACME/*'"),
            (Permission(allow=True, actions=("reqest",)), "Did you mean 'request'?"),  # type: ignore[arg-type]
            (Permission(allow=True, users="anna"), "users cannot be 'anna'"),  # type: ignore[arg-type]
            (Permission(allow=True, roles=("",)), "roles cannot be"),
            (Permission(allow=True, zones=("plant",), gateways=("a",)), "never match"),
        ],
    )
    def test_a_wrong_rule_is_named(self, permission: Permission, told: str) -> None:
        """The error names the rule, what is wrong with it, and the cure; nothing changes."""
        policy = RulePolicy([Permission(allow=False)], ZONES)
        with pytest.raises(ConfigurationError) as caught:
            policy.configure([Permission(allow=True), permission], ZONES, file="here.toml")
        assert told in str(caught.value)
        assert "here.toml, permission 2" in str(caught.value)
        with pytest.raises(ConfigurationError, match="database, rule 4"):
            policy.replace_stored([Rule("database, rule 4", permission)])
        with pytest.raises(ConfigurationError, match="database, rule 4"):
            policy.check([Rule("database, rule 4", permission)])
        assert not may(policy, ANNA, "request", "ACME/test")
        assert len(policy.rules) == 1 + len(BUILT_IN)

    def test_a_zone_that_a_stored_rule_names_cannot_go(self) -> None:
        """A reload that would take a rule's zone away is refused, and all stays."""
        policy = RulePolicy([], ZONES)
        policy.replace_stored([Rule("database, rule 1", rule(zones=("plant",)))])
        with pytest.raises(ConfigurationError, match="database, rule 1: there is no zone 'plant'"):
            policy.configure([], {})
        assert may(policy, ANNA, "host", "ACME/test")

    @pytest.mark.parametrize(
        ("address", "cure"),
        [
            ("10.1.4.7/16", "Write 10.1.0.0/16 for the whole network, or 10.1.4.7"),
            ("panel-7", "such as 10.1.0.0/16"),
            ("10.1.0.0/99", "such as 10.1.0.0/16"),
        ],
    )
    def test_a_wrong_address_is_named(self, address: str, cure: str) -> None:
        """The error names the zone and the address, and how it is written."""
        with pytest.raises(ConfigurationError) as caught:
            Zones({"plant": Zone(addresses=(address,))})
        assert f"Zone 'plant': {address!r}" in str(caught.value)
        assert cure in str(caught.value)

    def test_mapped_networks_are_those_of_ipv4(self) -> None:
        """Either way of writing an IPv4 address is the same address."""
        for networks in (
            Networks(["::ffff:10.1.0.0/112"], of=""),
            Networks(["10.1.0.0/16"], of=""),
        ):
            assert "10.1.2.3" in networks
            assert "::ffff:10.1.2.3" in networks
            assert "10.2.2.3" not in networks
            assert "::10.1.2.3" not in networks


class TestMemory:
    def test_a_change_takes_effect_at_once(self) -> None:
        """What was decided under other rules is forgotten with them."""
        policy = RulePolicy()
        assert may(policy, ANNA, "request", "ACME/test")
        policy.configure([Permission(allow=False, zones=("plant",))], ZONES)
        assert not may(policy, ANNA, "request", "ACME/test")
        policy.configure([Permission(allow=False, zones=("plant",))], {"plant": Zone()})
        assert may(policy, ANNA, "request", "ACME/test")
        policy.replace_stored([Rule("database, rule 1", Permission(allow=False))])
        assert not may(policy, ANNA, "request", "ACME/test")
        policy.replace_stored([])
        assert may(policy, ANNA, "request", "ACME/test")

    @pytest.mark.parametrize("callers", [1, 200])
    def test_it_is_bounded(self, monkeypatch: pytest.MonkeyPatch, callers: int) -> None:
        """Neither names nor callers nor scopes that somebody invents fill the memory."""
        monkeypatch.setattr(policies, "MOST_CALLERS", 20)
        monkeypatch.setattr(policies, "MOST_DECISIONS", 30)
        policy = RulePolicy([Permission(allow=False, handlers=("A/7*",))])
        for number in range(200):
            scope = ("A/*", str(number % callers))
            caller = changed(ANNA, session=str(number % callers), only=scope)
            expected = not str(number).startswith("7")
            assert may(policy, caller, "request", f"A/{number}") is expected
            assert not may(policy, caller, "request", "A/7" + "x" * 10_000)
            rules = policy._rules
            assert len(rules.standings) <= 20
            assert len(rules._made) <= 20
            assert len(rules.decisions) <= 30
            assert all(len(key[3]) <= policies.LONGEST_NAMES for key in rules.decisions)

    def test_a_change_makes_no_pattern_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It happens on the event loop, and there may be a thousand rules."""
        rules = [
            Rule(f"database, rule {number}", Permission(allow=False, handlers=(f"P{number}/*",)))
            for number in range(100)
        ]
        policy = RulePolicy()
        policy.replace_stored(rules)
        monkeypatch.setattr(fnmatch, "translate", None)
        policy.replace_stored(rules[1:])
        assert may(policy, ANNA, "request", "P0/test")
        assert not may(policy, ANNA, "request", "P1/test")

    def test_sessions_share_what_was_decided(self) -> None:
        """Thousands of sessions of equal users do not ask the rules again."""
        policy = RulePolicy()
        for number in range(1000):
            assert may(policy, changed(ANNA, session=str(number)), "request", "ACME/test")
        assert len(policy._rules.decisions) == 1


class TestNarrow:
    @pytest.mark.parametrize(
        ("caller", "roles", "zones", "expected"),
        [
            (ANNA, (), (), True),
            (ANNA, ("operator", "engineer"), (), True),
            (ANNA, ("engineer",), (), False),
            (ANNA, (), ("plant",), True),
            (ANNA, (), ("office",), False),
            (ANNA, (), ("none",), False),
            (ANNA, ("operator",), ("office",), False),
            (THERE, ("operator",), (), False),
            (THERE, ("operator@Hub",), (), True),
            (THERE, (), ("plant",), False),
            (FURTHER, ("operator@hub",), (), False),
            (owner(host="", session="s"), ("operator",), (), False),
            (gateway_itself("hub"), ("operator",), (), False),
            (gateway_itself("hub"), ("operator", "owner"), (), True),
        ],
    )
    def test_a_handler_narrows(
        self, caller: Caller, roles: Any, zones: Any, expected: bool
    ) -> None:
        """One of the roles and one of the zones is needed; nobody is exempt."""
        policy = RulePolicy([], ZONES)
        try:
            policy.narrow(caller, "ACME", "test", roles=roles, zones=zones)
            assert expected
        except PermissionDenied:
            assert not expected


# --- the same, ten lines long --------------------------------------------------------------------


def covered(patterns: Any, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


def reference(rules: list[Permission], c: Caller, action: str, target: str) -> bool:
    via, lower = [g.lower() for g in c.gateway], lambda names: [n.lower() for n in names]
    roles = {"@".join([r, *via]) for r in c.roles}
    user = "@".join([c.user, *via[:-1]]).lower()
    owners = Permission(True, roles=("owner",), actions=ACTIONS)  # type: ignore[arg-type]
    for r in [*rules, owners, Permission(True, actions=ACTIONS[:3])]:  # type: ignore[arg-type]
        who = user in lower(r.users) if c.method == "anonymous" else covered(lower(r.users), user)
        if not (who or (not r.users and c.method != "anonymous")):
            continue
        nets = [ipaddress.ip_network(a) for z in r.zones for a in ZONES[z].addresses]
        inside = c.address and any(ipaddress.ip_address(c.address) in net for net in nets)
        inside = inside or ("plant" in r.zones and c.verified_host.lower().startswith("panel-"))
        if (
            (
                covered(lower(r.gateways), via[-1])
                if via and r.gateways
                else not via and not r.gateways
            )
            and (not r.roles or roles & set(r.roles))
            and (not r.zones or inside)
            and (not r.handlers or covered(r.handlers, target))
            and (action in r.actions if r.actions else action != "administer" or not r.allow)
        ):
            return r.allow and (action == "see" or not c.only or covered(c.only, target))
    return False


class Drawn:
    """Random rules and callers, from few words, so that they often meet."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def some(self, *words: str, often: float = 0.4) -> tuple[str, ...]:
        if self.random.random() > often:
            return ()
        return tuple(self.random.sample(words, self.random.randint(1, 2)))

    def permission(self) -> Permission:
        gateways = self.some("hub", "MILL", "m*", "*", often=0.3)
        return Permission(
            allow=self.random.random() < 0.5,
            users=self.some("anna", "B*", "*", "a??a", "Anonymous", "*@*"),
            roles=self.some(
                *("operator", "owner", "operator@hub", "owner@mill", "operator@hub@mill")
            ),
            zones=() if gateways else self.some("plant", "office"),
            gateways=gateways,
            handlers=self.some("ACME/*", "*/t?st", "ACME/a/b", "*[*", "B/test", "acme/*"),
            actions=self.some(*ACTIONS),  # type: ignore[arg-type]
        )

    def caller(self) -> Caller:
        pick = self.random.choice
        return Caller(
            pick(["anna", "Ben", "ANNA", "anonymous"]),
            frozenset(self.some("operator", "owner", "operator@hub", often=0.8)),
            gateway=pick([(), (), ("Hub",), ("mill",), ("hub", "mill"), ("mill", "HUB")]),
            address=pick(["", "10.1.2.3", "10.2.0.1", "192.0.2.1", "fd00::7"]),
            verified_host=pick(["", "Panel-7", "desk-1"]),
            host="panel-7",
            method=pick(["password", "token", "anonymous"]),
            only=self.some("ACME/*", "*/test", often=0.2),
        )

    def target(self) -> str:
        return self.random.choice(
            ["ACME/test", "ACME/a/b", "ACME/[x]", "B/test", "B/a", "@gateway/ps"]
        )


def test_it_decides_as_ten_lines_do() -> None:
    """Over 10,000 random rule sets and callers, rules and reference agree on every question."""
    drawn = Drawn(10_000)
    allowed = 0
    for number in range(10_000):
        rules = [drawn.permission() for _ in range(drawn.random.randint(0, 6))]
        stored = drawn.random.randint(0, len(rules))
        policy = RulePolicy(rules[:stored], ZONES)
        policy.replace_stored([Rule(f"rule {n}", r) for n, r in enumerate(rules[stored:])])
        caller, target = drawn.caller(), drawn.target()
        action: Any = drawn.random.choice(ACTIONS)
        expected = reference(rules, caller, action, target)
        told = policy.decide(caller, action, *target.split("/", 1))
        assert told.allow is expected, (number, rules, caller, action, target, told)
        allowed += expected
    assert 1_000 < allowed < 9_000
