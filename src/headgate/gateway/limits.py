"""What clients may have and do at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """The section ``[limits]`` of the configuration."""

    requests_per_second: Annotated[float, Ge(0)] = 0.0
    """Requests and messages a second that a session may send, on average; 0 for no limit."""

    burst: Annotated[float, Ge(0)] = 0.0
    """Requests that a session may send at once above its rate; 0 for what a second allows."""

    user_requests_per_second: Annotated[float, Ge(0)] = 0.0
    """The same for all sessions of a user together; 0 for no limit."""

    user_burst: Annotated[float, Ge(0)] = 0.0
    """Requests that a user may send at once above the rate; 0 for what a second allows."""

    in_flight: Annotated[int, Ge(1)] = 4096
    """Requests that a session may have in flight."""

    sessions: Annotated[int, Ge(1)] = 12_000
    """Sessions of the gateway."""

    sessions_per_user: Annotated[int, Ge(0)] = 0
    """Sessions of a user; 0 for no limit of its own."""

    sessions_per_address: Annotated[int, Ge(0)] = 0
    """Sessions from an IP address that is not loopback; 0 for no limit of its own."""

    connections_per_address: Annotated[int, Ge(1)] = 256
    """Connections from an IP address, loopback too, that are not logged in yet."""

    name_length: Annotated[int, Ge(1)] = 256
    """Characters of a project's, a handler's, a user's or a host's name."""

    login_seconds: Annotated[float, Gt(0)] = 10.0
    """Seconds in which a login must be done."""
