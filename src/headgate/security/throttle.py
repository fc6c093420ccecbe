"""Delay after wrong passwords: it slows guessing down and locks nobody out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

__all__ = ["LOOPBACK", "OF_ADDRESS", "OF_USER", "Curve", "Throttle", "network_of"]

LOOPBACK = "loopback"
"""All addresses of this machine's loopback, where clients are counted."""

LONGEST_NAME = 128
"""Characters by which users are told apart; no user has a name that is longer."""

MOST_ENTRIES = 10_000
"""
Entries that each table remembers; the longest untouched goes first.

One is of users at an address that failed, one of addresses, one of users known at an address.
"""

KNOWN_SECONDS = 30 * 86400.0
"""Seconds for which a user is known at an address after a right password."""


@dataclass(frozen=True)
class Curve:
    """How the delay grows."""

    free: int
    """Failures that cost nothing."""
    first: float
    """Seconds after the next one; each further one doubles them."""
    longest: float
    """Seconds at most."""
    forget: float
    """Seconds after which one failure is forgotten."""

    def seconds(self, failures: float) -> float:
        """Return the delay after so many failures."""
        beyond = failures - self.free
        return 0.0 if beyond <= 0 else min(self.first * 2.0 ** min(beyond - 1, 64.0), self.longest)


OF_USER = Curve(free=3, first=0.5, longest=30.0, forget=60.0)
"""For a user at an address: three slips are free, from the tenth on it is two guesses a minute."""

OF_ADDRESS = Curve(free=20, first=0.25, longest=4.0, forget=10.0)
"""For all users at an address: names that are tried one after the other."""


class Throttle:
    """
    Tells how long the next password for a user from an address has to wait.

    A right password for the same user from another address does not wait for the failures of this
    one. Failures are forgotten one after the other. Addresses count as `network_of` tells.

    Who shares an address with those who guess other names does not wait for them, once it was let
    in there: it is known.

    Args:
        of_user: How the delay grows for a user at an address.
        of_address: How it grows for an address.
        most: Entries that each of the three tables holds.
    """

    def __init__(
        self,
        *,
        of_user: Curve = OF_USER,
        of_address: Curve = OF_ADDRESS,
        most: int = MOST_ENTRIES,
    ) -> None:
        self._users = _Failures(of_user, most)
        self._addresses = _Failures(of_address, most)
        self._known: OrderedDict[Hashable, float] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._users) + len(self._addresses) + len(self._known)

    def is_known(self, user: str, address: str, now: float) -> bool:
        """Whether a user's password was right from this address within `KNOWN_SECONDS`."""
        since = self._known.get(_key(user, address), float("-inf"))
        return now - since <= KNOWN_SECONDS

    def delay(self, user: str, address: str, now: float) -> float:
        """Return the seconds from `now` until a password may be tried; 0 for at once."""
        until = self._users.until(_key(user, address))
        if not self.is_known(user, address, now):
            until = max(until, self._addresses.until(network_of(address)))
        return max(0.0, until - now)

    def failed(self, user: str, address: str, now: float) -> None:
        """Note that a password was wrong."""
        self._users.add(_key(user, address), now)
        self._addresses.add(network_of(address), now)

    def succeeded(self, user: str, address: str, now: float) -> None:
        """
        Note that a password was right: the user is known at the address.

        Its own failures there are forgotten; those of the address itself stay.
        """
        key = _key(user, address)
        self._users.remove(key)
        self._known[key] = now
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)


def _key(user: str, address: str) -> tuple[str, str]:
    return user[:LONGEST_NAME], network_of(address)


class _Failures:
    """Failures by key, the one touched last at the end."""

    def __init__(self, curve: Curve, most: int) -> None:
        self._curve = curve
        self._most = most
        self._entries: OrderedDict[Hashable, tuple[float, float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def until(self, key: Hashable) -> float:
        return self._entries.get(key, (0.0, 0.0, float("-inf")))[2]

    def add(self, key: Hashable, now: float) -> None:
        count, since, until = self._entries.pop(key, (0.0, now, now))
        count = 1.0 + max(0.0, count - (now - since) / self._curve.forget)
        until = max(until, now + self._curve.seconds(count))
        self._entries[key] = count, now, until
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def remove(self, key: Hashable) -> None:
        self._entries.pop(key, None)


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """
    Return the name under which clients from an address are counted.

    Whoever has one address of loopback, or of a /64 network of IPv6, can take as many of them as it
    likes: they count as one.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or found
    if found.is_loopback:
        return LOOPBACK
    if isinstance(found, IPv6Address):
        return str(ip_network((int(found), 64), strict=False))
    return str(found)
