"""Callers, as logins make them."""

from __future__ import annotations

import getpass

from headgate.invocation import Caller

__all__ = ["ANONYMOUS", "OWNER_ROLE", "gateway_itself", "is_own", "is_owner", "own_user", "owner"]

ANONYMOUS = "anonymous"
"""Name of the user, and of the way to log in, of whoever comes without a name."""

OWNER_ROLE = "owner"
"""The role of the user that the gateway runs as."""


def owner(*, host: str, session: str) -> Caller:
    """Return the caller of a session that has proven to be the gateway's own user."""
    return Caller(user=own_user(), roles=frozenset({OWNER_ROLE}), host=host, session=session)


def gateway_itself(name: str) -> Caller:
    """Return the caller of what the gateway's own process asks for, outside of any request."""
    return Caller(user=f"gateway:{name}", roles=frozenset({OWNER_ROLE}))


def is_owner(caller: Caller) -> bool:
    """Whether a caller is an owner of this gateway, and not of another one that asks for it."""
    return OWNER_ROLE in caller.roles and not caller.gateway


def is_own(made: Caller, caller: Caller) -> bool:
    """
    Whether a request is a caller's own: by the user's name, of anonymous callers by the session.

    The sessions of another gateway are not known here: what its anonymous callers ask for is
    nobody's own.

    Args:
        made: Who made the request.
        caller: Who asks for it now.
    """
    if caller.method == ANONYMOUS and (caller.gateway or made.session != caller.session):
        return False
    return made.user == caller.user and made.gateway == caller.gateway


def own_user() -> str:
    """Return the name of the operating system's user that this process runs as."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "owner"
