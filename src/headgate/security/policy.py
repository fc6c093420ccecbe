"""May this caller do this? Asked around every endpoint, message and administrative call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from headgate.errors import PermissionDenied
from headgate.invocation import Caller
from headgate.security.identity import OWNER_ROLE

__all__ = ["Action", "OwnerPolicy", "Permission", "Policy"]

Action = Literal["request", "message", "see", "administer", "host"]
"""What a caller wants to do with a target."""


@dataclass(frozen=True)
class Permission:
    """
    One rule, a ``[[permission]]`` of the configuration or a row of the database.

    A condition that is left out, or empty, matches all; but a rule without `gateways` matches
    local callers only, and an anonymous caller only matches where `users` names it.
    """

    allow: bool
    """Whether the callers that match may, or may not."""

    users: tuple[str, ...] = ()
    """Patterns of users' names."""

    roles: tuple[str, ...] = ()
    """Names of roles, of which the caller has one; ``role@gateway`` for those of other gateways."""

    zones: tuple[str, ...] = ()
    """Names of zones, of which the caller is in one."""

    gateways: tuple[str, ...] = ()
    """Patterns of the names of other gateways, from which the caller asks."""

    handlers: tuple[str, ...] = ()
    """Patterns of ``project/handler``."""

    actions: tuple[Action, ...] = ()
    """What the caller wants to do."""


class Policy(Protocol):
    """Decides on names alone, before anything is looked up."""

    def authorise(self, caller: Caller, action: Action, project: str, handler: str) -> None:
        """
        Let the caller pass, or not.

        Raises:
            PermissionDenied: The caller may not; the text does not tell whether the target exists.
        """


class OwnerPolicy:
    """The gateway's owner may do everything, and nobody else anything."""

    def authorise(self, caller: Caller, action: Action, project: str, handler: str) -> None:
        """Let the owner pass; raises PermissionDenied for all others."""
        if OWNER_ROLE not in caller.roles:
            raise PermissionDenied(
                f"{caller.user} has no permission for the action {action!r} on {project}/{handler}",
                started=False,
            )
