"""check --user: may somebody do this, and which rule says so? Without a running gateway."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from headgate.cli.administer import folder_of
from headgate.cli.config import load
from headgate.cli.ends import ExitCode, reporting, server_parts
from headgate.cli.options import Place
from headgate.cli.output import print_document
from headgate.errors import ConfigurationError, PermissionDenied
from headgate.scope import GATEWAY_PROJECT

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from headgate.gateway.config import Configuration
    from headgate.invocation import Caller
    from headgate.security.policy import Decision, Rule, RulePolicy

__all__ = ["Asked", "check_access"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Who asks for what, and from where."""

    user: str
    address: str | None
    host: str | None
    """The verified host name."""
    roles: list[str] | None
    """Names of roles; None for those that the database has."""
    gateways: list[str]
    """The gateways that the request comes through."""
    action: str
    target: str
    """As ``project/handler``."""


def check_access(asked: Asked, place: Place, *, as_json: bool) -> None:
    """Show what would be decided, and why; the exit code tells it, too."""
    with reporting(as_json=as_json):
        caller, decision = _decided(asked, place)
    with server_parts():
        from headgate.security.policy import permission_fields, permission_text
    if as_json:
        rule = None if decision.rule is None else permission_fields(decision.rule)
        roles = sorted(caller.roles)
        print_document(
            {"allow": decision.allow, "where": decision.where, "rule": rule, "roles": roles}
        )
    else:
        may = "may" if decision.allow else "may not"
        print(f"{asked.user} {may} {asked.action} {asked.target}")
        print(f"  by     {decision.where}")
        if decision.rule is not None:
            print(f"  rule   {permission_text(decision.rule)}")
        print(f"  roles  {', '.join(sorted(caller.roles)) or 'none'}")
    raise typer.Exit(ExitCode.FINE if decision.allow else ExitCode.DENIED)


def _decided(asked: Asked, place: Place) -> tuple[Caller, Decision]:
    with server_parts():
        from headgate.security.policy import RulePolicy
        from headgate.store import read_folder
    project, slash, handler = asked.target.partition("/")
    if not (project and slash and handler):
        raise ConfigurationError(
            f"{asked.target!r} is no handler", cure="Write it as PROJECT/HANDLER, such as ACME/test"
        )
    configuration = load(place.config)
    settings, file = configuration.settings, configuration.file
    policy = RulePolicy()
    # Without a file there may be rules in the environment.
    place_of_rules = "the configuration" if file is None else file.name
    policy.configure(settings.permission, settings.zones, file=place_of_rules)
    folder = folder_of(place)
    assert folder is not None  # without a URL there is always one
    found = read_folder(folder, lambda c: _stored(c, asked.user))
    rules, roles = found or ([], frozenset())
    policy.replace_stored(rules)
    caller = _caller(asked, frozenset() if asked.gateways else roles)
    action: Any = asked.action
    decision = policy.decide(caller, action, project, handler)
    if decision.allow and action in ("request", "message") and project != GATEWAY_PROJECT:
        decision = _narrowed(policy, caller, project, handler, configuration) or decision
    return caller, decision


def _stored(connection: Connection, user: str) -> tuple[list[Rule], frozenset[str]]:
    """Read the rules, and the roles of a user, from a database that may be an older one."""
    from sqlalchemy import inspect

    from headgate.security.accounts import Accounts
    from headgate.security.patterns import folded
    from headgate.security.rules import stored_rules

    tables = inspect(connection).get_table_names()
    rules = stored_rules(connection) if "permissions" in tables else []
    accounts = Accounts.read(connection) if "users" in tables else Accounts()
    known = accounts.users.get(folded(user))
    return rules, frozenset() if known is None else known.roles


def _caller(asked: Asked, roles: frozenset[str]) -> Caller:
    from headgate.invocation import Caller
    from headgate.security.identity import ANONYMOUS
    from headgate.security.patterns import folded

    try:
        address = "" if asked.address is None else str(ip_address(asked.address))
    except ValueError:
        raise ConfigurationError(
            f"{asked.address!r} is no IP address", cure="Write one such as 10.1.2.3"
        ) from None
    return Caller(
        asked.user,
        roles if asked.roles is None else frozenset(asked.roles),
        gateway=tuple(asked.gateways),
        address=address,
        verified_host=asked.host or "",
        method="anonymous" if folded(asked.user) == ANONYMOUS else "password",
    )


def _narrowed(
    policy: RulePolicy,
    caller: Caller,
    project: str,
    handler: str,
    configuration: Configuration,
) -> Decision | None:
    """Return the refusal of the handler's own settings, if there is such a handler and it does."""
    from headgate.gateway.loading import read_sources, settings_of
    from headgate.security.policy import Decision

    try:
        sources, _ = read_sources(_projects(configuration))
        own = settings_of(project, handler, sources)
    except ConfigurationError:
        # It cannot be loaded: `headgate check` without a user tells why.
        return None
    if own is None:
        return None
    try:
        policy.narrow(caller, project, handler, roles=own.roles, zones=own.zones)
    except PermissionDenied:
        stated = {"roles": own.roles, "zones": own.zones}
        text = " ".join(f"{name}={','.join(values)}" for name, values in stated.items() if values)
        return Decision(False, None, f"the handler's own settings: {text}")
    return None


def _projects(configuration: Configuration) -> dict[str, Path]:
    """Where the projects are, as far as the configuration tells."""
    from headgate.projects.source import ProjectFolders

    folder = configuration.folder_of_projects()
    named = configuration.named_projects()
    return ProjectFolders(folder if folder and folder.is_dir() else None, named).find()
