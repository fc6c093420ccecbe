"""What clients may have and do at once, and who is over it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from time import monotonic
from typing import Annotated, get_type_hints

from annotated_types import Ge, Le

from headgate.errors import Overloaded, RequestError
from headgate.gateway.excess import Excess
from headgate.security.throttle import LOOPBACK, network_of
from headgate.wire.frames import Hello
from headgate.wire.session import MAX_NAME, Credit

__all__ = ["Admission", "Limiter", "Limits", "TokenBucket"]

OWNER_RESERVE = 8
"""Sessions that the owner may have when `sessions` or `sessions_per_user` is used up for others."""

SHORTEST_NAME = 32
"""Characters that names may have in any case: the gateway's own must be among them."""

MOST_IN_FLIGHT = Credit().in_flight
"""What `Limits.in_flight` may be at most: queues of answers are made for it."""

MAX_IDLE_USERS = 4096
"""Users without a session whose buckets are kept until they are full again, at most."""


@dataclass(frozen=True)
class Limits:
    """
    The section ``[limits]`` of the configuration.

    Raises:
        ValueError: A number is not one of those that a limit can be.
    """

    requests_per_second: Annotated[float, Ge(0)] = 0.0
    """Requests and messages a second that a session may send, on average; 0 for no limit."""

    burst: Annotated[float, Ge(0)] = 0.0
    """Requests and messages that a session may send at once; 0 for what a second allows."""

    user_requests_per_second: Annotated[float, Ge(0)] = 0.0
    """The same for all sessions of a user together; 0 for no limit."""

    user_burst: Annotated[float, Ge(0)] = 0.0
    """Requests and messages of a user at once; 0 for what a second allows."""

    in_flight: Annotated[int, Ge(1), Le(MOST_IN_FLIGHT)] = MOST_IN_FLIGHT
    """Requests that a session may have in flight, at most 4096; for sessions that begin later."""

    sessions: Annotated[int, Ge(1)] = 12_000
    """Sessions of the gateway; the owner may have 8 more."""

    sessions_per_user: Annotated[int, Ge(0)] = 0
    """Sessions of a user; 0 for no limit of its own. The owner may have 8 more."""

    sessions_per_address: Annotated[int, Ge(0)] = 0
    """Sessions from an IP address that is not loopback; 0 for no limit of its own."""

    connections: Annotated[int, Ge(1)] = 4096
    """Connections from all addresses that are not loopback and that are not logged in yet."""

    connections_per_address: Annotated[int, Ge(0)] = 256
    """Connections from an IP address, loopback too, that are not logged in yet; 0 for no limit."""

    name_length: Annotated[int, Ge(SHORTEST_NAME), Le(MAX_NAME)] = MAX_NAME
    """Characters of a project's, a handler's, a user's or a host's name, from 32 to 255."""

    login_seconds: Annotated[float, Ge(0.01), Le(3600)] = 10.0
    """Seconds in which a login must be done."""

    def __post_init__(self) -> None:
        for name, (least, most) in _bounds().items():
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= most):
                allowed = (
                    f"from {least} to {most}" if math.isfinite(most) else f"of {least} or more"
                )
                raise ValueError(f"limits.{name} is {value}: write a number {allowed}")
        for name in ("burst", "user_burst"):
            value = getattr(self, name)
            if 0 < value < 1:
                raise ValueError(
                    f"limits.{name} is {value}, and less than one request cannot pass: write 1 or "
                    "more, or 0 for what a second allows"
                )


@cache
def _bounds() -> dict[str, tuple[float, float]]:
    """Return the least and the most that each limit may be."""
    found: dict[str, tuple[float, float]] = {}
    for name, hint in get_type_hints(Limits, include_extras=True).items():
        bounds = {Ge: 0.0, Le: math.inf}
        for rule in hint.__metadata__:
            bounds[type(rule)] = getattr(rule, "ge" if isinstance(rule, Ge) else "le")
        found[name] = (bounds[Ge], bounds[Le])
    return found


class TokenBucket:
    """
    Lets `rate` requests a second pass on average, and `burst` of them at once.

    It keeps one number, the moment at which it is full again (the generic cell rate algorithm), so
    that time costs nothing while nobody asks. The time is given to it, in seconds.

    Args:
        setting: Name of the setting that the rate stands in, for errors.
        rate: Requests a second, above 0.
        burst: Requests at once; 0 for what a second allows, at least 1.
    """

    __slots__ = ("_full_at", "_interval", "_window", "rate", "setting")

    def __init__(self, setting: str, *, rate: float, burst: float = 0.0) -> None:
        self.setting = setting
        self._full_at = -math.inf
        self._set(rate, burst)

    def _set(self, rate: float, burst: float) -> None:
        self.rate = rate
        self._interval = 1 / rate
        # A nanosecond more, since the sums of times are rounded: a whole request must fit.
        self._window = (burst or max(1.0, rate)) * self._interval + 1e-9

    def take(self, number: int, now: float) -> bool:
        """Let this many requests pass, all or none."""
        full_at = self._full_at
        if full_at < now:
            full_at = now
        full_at += number * self._interval
        if full_at - now > self._window:
            return False
        self._full_at = full_at
        return True

    def spend(self, number: int, now: float) -> None:
        """Count requests that pass, whether there is room or not; a negative number is undone."""
        self._full_at = max(self._full_at, now) + number * self._interval

    def room(self, now: float) -> int:
        """Return how many requests may pass now."""
        return max(0, int((self._window - max(0.0, self._full_at - now)) / self._interval))

    def wait(self, now: float) -> float:
        """Return the seconds until one more request may pass."""
        return max(0.0, self._full_at + self._interval - self._window - now)

    def is_full(self, now: float) -> bool:
        """Whether it has forgotten all requests."""
        return self._full_at <= now

    def change(self, now: float, *, rate: float, burst: float = 0.0) -> None:
        """Set another rate; requests that passed go on to count, as many as fit the new burst."""
        passed = max(0.0, self._full_at - now) / self._interval
        self._set(rate, burst)
        self._full_at = now + min(passed * self._interval, self._window)


class Admission:
    """What one session has of the gateway's limits; `Limiter.admit` makes it."""

    __slots__ = ("_buckets", "_limiter", "address", "bucket", "origin", "take", "user")

    def __init__(self, limiter: Limiter, *, user: str, address: str) -> None:
        self._limiter = limiter
        self.user = user
        self.address = address
        self.origin = network_of(address)
        self.bucket: TokenBucket | None = None
        """The session's own bucket, if its rate is limited."""
        self.take: Callable[[int, float], bool] | None = None
        """Lets all of a number of requests pass at a time, or none; None if there is no rate."""
        self._buckets: tuple[TokenBucket, ...] = ()

    @property
    def name_length(self) -> int:
        """Characters that a name may have."""
        return self._limiter.limits.name_length

    def set_buckets(self, *buckets: TokenBucket) -> None:
        """Let requests come from these buckets, all of them, from now on."""
        self._buckets = buckets
        # One bucket is the common case: it is asked without a call in between.
        self.take = buckets[0].take if len(buckets) == 1 else self._take_both if buckets else None

    def _take_both(self, number: int, now: float) -> bool:
        session, user = self._buckets
        if session.take(number, now):
            if user.take(number, now):
                return True
            session.spend(-number, now)
        return False

    def take_some(self, number: int, now: float) -> int:
        """Let as many of these requests pass as there is room for, and return how many do."""
        granted = min(number, *(bucket.room(now) for bucket in self._buckets))
        self.give_back(-granted, now)
        return granted

    def give_back(self, number: int, now: float) -> None:
        """Count requests no longer that had passed."""
        for bucket in self._buckets:
            bucket.spend(-number, now)

    def refuse(self, number: int, now: float) -> Overloaded:
        """Count requests that do not pass, and return the error that they end with."""
        bucket = max(self._buckets, key=lambda each: each.wait(now))
        wait = max(0.001, bucket.wait(now))
        self.exceeded(bucket.setting, number)
        return Overloaded(
            f"More than {bucket.rate:g} requests a second, which is what limits.{bucket.setting} "
            f"allows: try again in {wait:.3f} seconds",
            retry_after=wait,
            started=False,
        )

    def exceeded(self, limit: str, number: int = 1) -> None:
        """Count what the session had refused because of a limit."""
        self._limiter.exceeded(limit, user=self.user, address=self.address, number=number)


class Limiter:
    """
    Holds clients to the limits of a gateway; it belongs to the gateway's event loop.

    Args:
        limits: The limits; `apply` sets others.
        excess: Counts and records what went beyond them.
        clock: The time in seconds.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        excess: Excess | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.limits = limits or Limits()
        """The limits that hold now."""
        self.excess = excess or Excess()
        self._clock = clock
        self._connecting = _Tally()
        self._remote_connecting = 0
        self._admissions: set[Admission] = set()
        self._by_user = _Tally()
        self._by_origin = _Tally()
        self._users = _UserBuckets()

    def apply(self, limits: Limits) -> None:
        """
        Set other limits.

        Rates and the numbers of sessions and connections hold at once, for what comes; nobody who
        is there is sent away. `Limits.in_flight` holds for sessions that begin later.
        """
        self.limits = limits
        now = self._clock()
        self._users.apply(limits, now)
        for admission in self._admissions:
            self._set_buckets(admission, now)

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables that are empty while nobody connects."""
        return {"connecting": self._connecting.total}

    def exceeded(self, limit: str, *, user: str = "", address: str = "", number: int = 1) -> None:
        """Count what a client had refused because of a limit."""
        self.excess.add(limit, user=user, address=address, number=number)

    # --- before the login ------------------------------------------------------------------------

    @property
    def login_seconds(self) -> float:
        """Seconds in which a login must be done."""
        return self.limits.login_seconds

    def connecting(self, address: str) -> bool:
        """Count a connection until `settled`; False if it is one too many, and is not counted."""
        limits, origin = self.limits, network_of(address)
        remote = origin != LOOPBACK
        if 0 < limits.connections_per_address <= self._connecting[origin]:
            self.exceeded("connections_per_address", address=address)
            return False
        # Whoever sits at the machine can connect, however many do over the network.
        if remote and self._remote_connecting >= limits.connections:
            self.exceeded("connections", address=address)
            return False
        self._connecting.add(origin)
        self._remote_connecting += remote
        return True

    def settled(self, address: str) -> None:
        """Count a connection no longer: it is logged in, or gone."""
        origin = network_of(address)
        self._connecting.remove(origin)
        self._remote_connecting -= origin != LOOPBACK

    def overdue(self, address: str) -> None:
        """Count a login that did not come in time."""
        self.exceeded("login_seconds", address=address)

    def crowded(self, address: str) -> None:
        """Count a login that has to come again later: too many are under way."""
        self.exceeded("logins", address=address)

    def require_names(self, hello: Hello, address: str) -> None:
        """
        Look at the names in a Hello, before anything is made of them.

        Raises:
            RequestError: One of them is too long.
        """
        user = hello.extensions.get("user", "")
        names = {
            "method": hello.method,
            "user": user if isinstance(user, str) else "",
            "project": hello.project,
            "host_name": hello.host_name,
            "kind": hello.kind,
            "software": hello.software,
        }
        for what, name in names.items():
            if len(name) > self.limits.name_length:
                self.exceeded("name_length", address=address)
                raise RequestError(
                    f"The login was refused: {what} has {len(name)} characters, and "
                    f"limits.name_length allows {self.limits.name_length}",
                    started=False,
                )

    # --- sessions --------------------------------------------------------------------------------

    def admit(self, user: str, *, address: str, is_owner: bool) -> Admission:
        """
        Let a user have one more session, until `leave`.

        Args:
            user: Name of the user, who has proven to be it.
            address: The IP address.
            is_owner: Whether it is the gateway's owner, who can always get in to see what is wrong.

        Raises:
            Overloaded: The user, the address or the gateway has too many.
        """
        admission = Admission(self, user=user, address=address)
        reserve = OWNER_RESERVE if is_owner else 0
        self._require_room("sessions", len(self._admissions), admission, reserve)
        self._require_room("sessions_per_user", self._by_user[user], admission, reserve)
        if admission.origin != LOOPBACK:
            here = self._by_origin[admission.origin]
            self._require_room("sessions_per_address", here, admission)
        self._admissions.add(admission)
        self._by_user.add(user)
        self._by_origin.add(admission.origin)
        self._set_buckets(admission, self._clock())
        return admission

    def _require_room(self, limit: str, taken: int, admission: Admission, reserve: int = 0) -> None:
        allowed: int = getattr(self.limits, limit)
        if allowed and taken >= allowed + reserve:
            admission.exceeded(limit)
            raise Overloaded(
                f"The login was refused: there are {taken} sessions already, and limits.{limit} "
                f"allows {allowed}. Close one, or raise limits.{limit}",
                started=False,
            )

    def leave(self, admission: Admission) -> None:
        """Give back what a session had."""
        if admission not in self._admissions:
            return
        self._admissions.remove(admission)
        self._by_user.remove(admission.user)
        self._by_origin.remove(admission.origin)
        if not self._by_user[admission.user]:
            self._users.leave(admission.user, self._clock())

    def credit(self) -> Credit:
        """Return what a session that begins now may have under way."""
        return Credit(in_flight=self.limits.in_flight, name_length=self.limits.name_length)

    def _set_buckets(self, admission: Admission, now: float) -> None:
        limits = self.limits
        admission.bucket = _bucket(
            admission.bucket,
            "requests_per_second",
            now,
            rate=limits.requests_per_second,
            burst=limits.burst,
        )
        both = (admission.bucket, self._users.enter(admission.user, limits, now))
        admission.set_buckets(*(bucket for bucket in both if bucket is not None))


class _Tally:
    """How many there are of each name; names with none take no room."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.total = 0

    def __getitem__(self, name: str) -> int:
        return self._numbers.get(name, 0)

    def add(self, name: str) -> None:
        self._numbers[name] = self[name] + 1
        self.total += 1

    def remove(self, name: str) -> None:
        self.total -= 1
        if self._numbers[name] == 1:
            del self._numbers[name]
        else:
            self._numbers[name] -= 1


class _UserBuckets:
    """
    The buckets of users, which all sessions of a user share.

    One whose user has no session is kept until it is full, or new sessions would have a new burst.
    """

    def __init__(self) -> None:
        self._present: dict[str, TokenBucket] = {}
        self._idle: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._present) + len(self._idle)

    def enter(self, user: str, limits: Limits, now: float) -> TokenBucket | None:
        self._forget(now)
        found = self._present.get(user)
        if found is None:
            found = _user_bucket(self._idle.pop(user, None), limits, now)
            if found is not None:
                self._present[user] = found
        return found

    def leave(self, user: str, now: float) -> None:
        bucket = self._present.pop(user, None)
        if bucket is not None:
            self._idle[user] = bucket
        self._forget(now)

    def apply(self, limits: Limits, now: float) -> None:
        for table in (self._present, self._idle):
            if not limits.user_requests_per_second:
                table.clear()
            for bucket in table.values():
                _user_bucket(bucket, limits, now)

    def _forget(self, now: float) -> None:
        idle = self._idle
        while idle:
            user = next(iter(idle))
            if len(idle) <= MAX_IDLE_USERS and not idle[user].is_full(now):
                break
            del idle[user]


def _user_bucket(found: TokenBucket | None, limits: Limits, now: float) -> TokenBucket | None:
    return _bucket(
        found,
        "user_requests_per_second",
        now,
        rate=limits.user_requests_per_second,
        burst=limits.user_burst,
    )


def _bucket(
    found: TokenBucket | None, setting: str, now: float, *, rate: float, burst: float
) -> TokenBucket | None:
    """Return a bucket with this rate, made of the one that there was; None without a limit."""
    if not rate:
        return None
    if found is None:
        return TokenBucket(setting, rate=rate, burst=burst)
    found.change(now, rate=rate, burst=burst)
    return found
