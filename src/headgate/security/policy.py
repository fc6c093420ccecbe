"""
May this caller do this? Asked around every endpoint, message and administrative call.

Rules are looked at in their order, and the first one that matches decides: those of the
configuration, then those of the database, then `BUILT_IN`. What was decided is remembered until
the rules change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from headgate.errors import ConfigurationError, PermissionDenied
from headgate.handler import known_names
from headgate.invocation import Caller
from headgate.security.identity import ANONYMOUS, OWNER_ROLE
from headgate.security.patterns import folded, matcher
from headgate.security.zones import Zone, Zones

__all__ = [
    "BUILT_IN",
    "Action",
    "Decision",
    "Permission",
    "Policy",
    "Rule",
    "RulePolicy",
    "allows",
    "permission_fields",
    "permission_text",
]

Action = Literal["request", "message", "see", "administer", "host"]
"""What a caller wants to do with a target."""

_ACTIONS: frozenset[str] = frozenset(get_args(Action))

MOST_CALLERS = 16_384
"""Callers whose rules are remembered."""

MOST_DECISIONS = 8_192
"""Decisions that are remembered."""

LONGEST_NAMES = 512
"""Characters of project and handler above which a decision is not remembered."""


@dataclass(frozen=True)
class Permission:
    """
    One rule, a ``[[permission]]`` of the configuration or a row of the database.

    A condition that is left out, or empty, matches all; but a rule without `gateways` matches
    local callers only, an anonymous caller only matches where `users` names it, and a rule without
    `actions` that allows does not allow ``administer``.

    In patterns ``*`` stands for any text, also with slashes, and ``?`` for one character; all
    else, such as ``[``, for itself. Names of users, hosts and gateways are compared without case,
    those of roles, zones, projects and handlers with it.
    """

    allow: bool
    """Whether the callers that match may, or may not."""

    users: tuple[str, ...] = ()
    """
    Patterns of users' names; an anonymous caller is named by its whole name only. A user of a
    gateway that asked through another one is ``user@gateway``.
    """

    roles: tuple[str, ...] = ()
    """
    Names of roles, of which the caller has one; ``role@gateway`` for those of other gateways,
    ``role@first@second`` for those of a first one that asked through a second one.
    """

    zones: tuple[str, ...] = ()
    """Names of zones, of which the caller is in one; not together with `gateways`."""

    gateways: tuple[str, ...] = ()
    """Patterns of the names of other gateways, from which the caller asks."""

    handlers: tuple[str, ...] = ()
    """Patterns of ``project/handler``."""

    actions: tuple[Action, ...] = ()
    """What the caller wants to do; only rules that name ``administer`` here allow it."""


@dataclass(frozen=True)
class Rule:
    """A rule and where it stands."""

    where: str
    """Such as ``headgate.toml, permission 3`` or ``database, rule 7``."""

    permission: Permission
    """The rule."""


BUILT_IN = (
    Rule(
        "built-in: the owner may everything",
        Permission(allow=True, roles=(OWNER_ROLE,), actions=get_args(Action)),
    ),
    Rule(
        "built-in: signed-in local users may request, message, see",
        Permission(allow=True, actions=("request", "message", "see")),
    ),
    Rule("built-in: everything else is refused", Permission(allow=False)),
)
"""The last rules. The very last one also stands for anonymous callers and other gateways."""


@dataclass(frozen=True)
class Decision:
    """What a policy decided, and why."""

    allow: bool
    """Whether the caller may."""

    rule: Permission | None
    """The rule that decided; None if something beside the rules did."""

    where: str
    """Where the rule stands, or what else decided."""


class Policy(Protocol):
    """Decides on names alone, before anything is looked up."""

    def authorise(self, caller: Caller, action: Action, project: str, handler: str) -> None:
        """
        Let the caller pass, or not.

        Raises:
            PermissionDenied: The caller may not; the text does not tell whether the target exists.
        """

    def narrow(
        self,
        caller: Caller,
        project: str,
        handler: str,
        *,
        roles: Collection[str],
        zones: Collection[str],
    ) -> None:
        """
        Let the caller pass a handler's own settings, or not; asked after `authorise`.

        Args:
            caller: Who asks.
            project: The handler's project.
            handler: The handler's name.
            roles: Roles of which the caller must have one; empty for any.
            zones: Zones of which the caller must be in one; empty for any.

        Raises:
            PermissionDenied: The caller may not.
        """


def allows(policy: Policy, caller: Caller, action: Action, project: str, handler: str) -> bool:
    """Whether a policy lets a caller do something: for what is shown to it, or left out."""
    try:
        policy.authorise(caller, action, project, handler)
    except PermissionDenied:
        return False
    return True


class RulePolicy:
    """
    Decides by rules: first those of the configuration, then of the database, then `BUILT_IN`.

    It belongs to the gateway's event loop. A change of the rules takes effect with the next
    question, at once and as a whole.

    Args:
        permissions: The rules of the configuration.
        zones: The zones that rules and handlers name.

    Raises:
        ConfigurationError: A rule or a zone is wrong.
    """

    def __init__(
        self, permissions: Iterable[Permission] = (), zones: Mapping[str, Zone] | None = None
    ) -> None:
        self._configured: tuple[Rule, ...] = ()
        self._stored: tuple[Rule, ...] = ()
        self._zones = Zones({})
        self.configure(permissions, zones or {})

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules in the order in which they are looked at, the built-in ones too."""
        return (*self._configured, *self._stored, *BUILT_IN)

    @property
    def names_anonymous(self) -> bool:
        """Whether a rule names anonymous callers to allow them something."""
        rules = (rule.permission for rule in (*self._configured, *self._stored))
        return any(ANONYMOUS in map(folded, rule.users) for rule in rules if rule.allow)

    @property
    def zones(self) -> Collection[str]:
        """The names of the zones."""
        return self._zones.names

    def configure(
        self,
        permissions: Iterable[Permission],
        zones: Mapping[str, Zone],
        *,
        file: str = "headgate.toml",
    ) -> None:
        """
        Replace the rules of the configuration, and the zones.

        Args:
            permissions: The rules.
            zones: The zones by name; the rules of the database name them, too.
            file: Where they stand.

        Raises:
            ConfigurationError: A rule or a zone is wrong; then all stays as it was.
        """
        configured = tuple(
            Rule(f"{file}, permission {number}", permission)
            for number, permission in enumerate(permissions, 1)
        )
        compiled = Zones(zones)
        rules = _RuleSet((*configured, *self._stored, *BUILT_IN), compiled)
        self._configured, self._zones, self._rules = configured, compiled, rules

    def replace_stored(self, rules: Sequence[Rule]) -> None:
        """
        Replace the rules of the database.

        Raises:
            ConfigurationError: A rule is wrong; then all stays as it was.
        """
        self._rules = _RuleSet((*self._configured, *rules, *BUILT_IN), self._zones)
        self._stored = tuple(rules)

    def with_stored(self, rules: Sequence[Rule]) -> RulePolicy:
        """
        Return what this policy would be with these rules of the database; on any thread.

        Raises:
            ConfigurationError: A rule is wrong.
        """
        other = copy.copy(self)
        other.replace_stored(rules)
        return other

    def check(self, rules: Iterable[Rule]) -> None:
        """Check rules as `replace_stored` does, and change nothing; on any thread."""
        for rule in rules:
            _Compiled(rule, self._zones)

    def authorise(self, caller: Caller, action: Action, project: str, handler: str) -> None:
        """Let the caller pass, or raise PermissionDenied."""
        rules = self._rules
        standing = rules.standings.get(caller) or rules.standing(caller)
        decision = rules.decisions.get((standing, action, project, handler))
        if decision is None:
            decision = rules.decide(standing, action, project, handler)
        if not decision.allow:
            raise _refusal(caller, project, handler)

    def decide(self, caller: Caller, action: Action, project: str, handler: str) -> Decision:
        """Return whether a caller may do something, and which rule says so."""
        return self._rules.decide(self._rules.standing(caller), action, project, handler)

    def narrow(
        self,
        caller: Caller,
        project: str,
        handler: str,
        *,
        roles: Collection[str],
        zones: Collection[str],
    ) -> None:
        """Let the caller pass a handler's own settings, or raise PermissionDenied."""
        standing = self._rules.standings.get(caller) or self._rules.standing(caller)
        if roles and standing.roles.isdisjoint(map(_role, roles) if caller.gateway else roles):
            raise _refusal(caller, project, handler)
        if zones and standing.zones.isdisjoint(zones):
            raise _refusal(caller, project, handler)


class _Standing:
    """What the rules make of a caller, whatever it asks for; equal ones are one object."""

    __slots__ = ("only", "roles", "rules", "scope", "zones")

    def __init__(
        self,
        rules: tuple[_Compiled, ...],
        only: tuple[str, ...],
        roles: frozenset[str],
        zones: frozenset[str],
    ) -> None:
        self.rules = rules
        """The rules that match the caller, in their order."""
        self.scope = only
        self.only = matcher(only, fold=False) if only else None
        """Whether a target is within the scope of the caller's token."""
        self.roles = roles
        self.zones = zones


class _RuleSet:
    """Rules that do not change any more, and what they decided."""

    def __init__(self, rules: Iterable[Rule], zones: Zones) -> None:
        self._rules = tuple(_Compiled(rule, zones) for rule in rules)
        self._zones = zones
        self.standings: dict[Caller, _Standing] = {}
        self.decisions: dict[tuple[_Standing, str, str, str], Decision] = {}
        self._made: dict[object, _Standing] = {}

    def standing(self, caller: Caller) -> _Standing:
        """Return a caller's standing."""
        subject = _Subject.of(caller, self._zones)
        rules = tuple(rule for rule in self._rules[:-1] if rule.is_about(subject))
        key = (rules, caller.only, subject.roles, subject.zones)
        standing = self._made.get(key)
        if len(self.standings) >= MOST_CALLERS or len(self._made) >= MOST_CALLERS:
            self.standings.clear()
            self._made.clear()
            self.decisions.clear()
        if standing is None:
            standing = _Standing((*rules, self._rules[-1]), *key[1:])
        self.standings[caller] = self._made[key] = standing
        return standing

    def decide(self, standing: _Standing, action: str, project: str, handler: str) -> Decision:
        """Return what the rules say."""
        target = f"{project}/{handler}"
        rule = next(rule for rule in standing.rules if rule.covers(action, target))
        decision = rule.decision
        outside = standing.only is not None and action != "see" and not standing.only(target)
        if decision.allow and outside:
            decision = Decision(False, None, f"the token's scope: {', '.join(standing.scope)}")
        if len(target) <= LONGEST_NAMES:
            # Names are the sender's choice: whoever invents many must not fill the memory.
            if len(self.decisions) >= MOST_DECISIONS:
                self.decisions.clear()
            self.decisions[standing, action, project, handler] = decision
        return decision


@dataclass(frozen=True)
class _Subject:
    """A caller as rules see it."""

    user: str
    roles: frozenset[str]
    zones: frozenset[str]
    gateway: str
    """The gateway that vouches for it; empty for a local caller."""
    anonymous: bool

    @staticmethod
    def of(caller: Caller, zones: Zones) -> _Subject:
        user, anonymous = folded(caller.user), caller.method == ANONYMOUS
        if not caller.gateway:
            here = zones.of(caller.address, caller.verified_host)
            return _Subject(user, caller.roles, here, "", anonymous)
        # The last gateway is proven; all else is its word, and it vouches for its own users only.
        *others, last = (folded(name) for name in caller.gateway)
        roles = frozenset(_role("@".join((role, *others, last))) for role in caller.roles)
        return _Subject("@".join((user, *others)), roles, frozenset(), last, anonymous)


class _Compiled:
    """A rule, made ready to be asked."""

    def __init__(self, rule: Rule, zones: Zones) -> None:
        permission = rule.permission
        _check(rule)
        zones.require(permission.zones, where=rule.where)
        self.decision = Decision(permission.allow, permission, rule.where)
        self._users = _matcher(permission.users, fold=True)
        self._names = frozenset(folded(name) for name in permission.users)
        fold = map(_role, permission.roles) if permission.gateways else permission.roles
        self._roles = frozenset(fold)
        self._zones = frozenset(permission.zones)
        self._gateways = _matcher(permission.gateways, fold=True)
        self._handlers = _matcher(permission.handlers, fold=False)
        # To administer is to be able to get every other right: nobody is given it in passing.
        unnamed = _ACTIONS - {"administer"} if permission.allow else _ACTIONS
        self._actions = frozenset(permission.actions) or unnamed

    def is_about(self, subject: _Subject) -> bool:
        """Whether the caller matches."""
        if self._gateways is None or not subject.gateway:
            from_there = self._gateways is None and not subject.gateway
        else:
            from_there = bool(self._gateways(subject.gateway))
        if subject.anonymous:
            named = subject.user in self._names
        else:
            named = self._users is None or bool(self._users(subject.user))
        return (
            from_there
            and named
            and (not self._roles or not self._roles.isdisjoint(subject.roles))
            and (not self._zones or not self._zones.isdisjoint(subject.zones))
        )

    def covers(self, action: str, target: str) -> bool:
        """Whether what is asked for matches."""
        return action in self._actions and (self._handlers is None or bool(self._handlers(target)))


def permission_text(permission: Permission) -> str:
    """Return a rule as people read it: ``allow roles=operator handlers=ACME/*``."""
    conditions = [
        f"{name}={','.join(getattr(permission, name))}"
        for name in _CONDITIONS
        if getattr(permission, name)
    ]
    return " ".join(["allow" if permission.allow else "refuse", *conditions])


def permission_fields(permission: Permission) -> dict[str, Any]:
    """Return a rule's fields, as JSON has them."""
    conditions = {name: list(getattr(permission, name)) for name in _CONDITIONS}
    return {"allow": permission.allow, **conditions}


_CONDITIONS = ("users", "roles", "zones", "gateways", "handlers", "actions")


def _check(rule: Rule) -> None:
    """Refuse what matches nothing, or something else than it seems to."""
    permission = rule.permission
    for name in _CONDITIONS:
        values = getattr(permission, name)
        if isinstance(values, str) or not all(isinstance(v, str) and v for v in values):
            raise _wrong(rule, f"{name} cannot be {values!r}", "Write a list of texts")
    for action in permission.actions:
        if action not in get_args(Action):
            cure = known_names(action, get_args(Action))
            raise _wrong(rule, f"{action!r} is no action", cure)
    for pattern in permission.handlers:
        if not set(pattern) & set("/*?"):
            cure = f"Write {pattern + '/*'!r} for all handlers of the project"
            raise _wrong(rule, f"handlers are project/handler, not {pattern!r}", cure)
    if permission.zones and permission.gateways:
        raise _wrong(
            rule,
            "it would never match: callers from other gateways are in no zone of this one",
            "Write one rule with zones and another with gateways",
        )


def _wrong(rule: Rule, problem: str, cure: str) -> ConfigurationError:
    return ConfigurationError(f"{rule.where}: {problem}", cure=cure)


def _matcher(patterns: Collection[str], *, fold: bool) -> Callable[[str], object] | None:
    return matcher(patterns, fold=fold) if patterns else None


def _role(role: str) -> str:
    """Fold the gateways in a role's name, not the role itself."""
    name, separator, gateways = role.partition("@")
    return name + separator + folded(gateways)


def _refusal(caller: Caller, project: str, handler: str) -> PermissionDenied:
    # One text for everything: not even the action is named, which depends on what exists.
    return PermissionDenied(
        f"{caller.user} has no permission for {project}/{handler}; on the gateway, "
        "headgate check --user names the rule",
        started=False,
    )
