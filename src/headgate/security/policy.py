"""May this caller do this? Asked around every endpoint, message and administrative call."""

from __future__ import annotations

from typing import Literal, Protocol

from headgate.errors import PermissionDenied
from headgate.invocation import Caller
from headgate.security.identity import OWNER_ROLE

__all__ = ["Action", "OwnerPolicy", "Policy"]

Action = Literal["request", "message", "see", "administer", "host"]
"""What a caller wants to do with a target."""


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
