"""Delay after wrong passwords: it grows, fades, and holds up nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headgate.security.throttle import (
    KNOWN_SECONDS,
    OF_ADDRESS,
    OF_USER,
    Curve,
    Throttle,
    network_of,
)

HERE, THERE = "10.1.0.1", "10.1.0.2"


def failed(throttle: Throttle, count: int, *, user: str = "ada", address: str = HERE) -> None:
    """Let passwords be wrong at the moment 0."""
    for _ in range(count):
        throttle.failed(user, address, 0.0)


def test_delay_grows() -> None:
    """Three failures are free, then each one doubles the delay, up to half a minute."""
    throttle = Throttle()
    delays = []
    for _ in range(12):
        failed(throttle, 1)
        delays.append(throttle.delay("ada", HERE, 0.0))
    assert delays == [0, 0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_delay_passes() -> None:
    """The delay counts from the last failure; when it has passed, a password may be tried."""
    throttle = Throttle()
    failed(throttle, 6)
    assert throttle.delay("ada", HERE, 0.5) == 1.5
    assert throttle.delay("ada", HERE, 2.0) == 0.0


def test_failures_are_forgotten() -> None:
    """One failure is forgotten a minute: after some minutes a slip is free again."""
    throttle = Throttle()
    failed(throttle, 6)
    throttle.failed("ada", HERE, 5 * OF_USER.forget)
    assert throttle.delay("ada", HERE, 5 * OF_USER.forget) == 0.0


def test_right_password_ends_the_delay() -> None:
    """After a right password the next slips are free again."""
    throttle = Throttle()
    failed(throttle, 5)
    throttle.succeeded("ada", HERE, 0.0)
    assert throttle.delay("ada", HERE, 0.0) == 0.0


def test_another_address_is_not_delayed() -> None:
    """Whoever fails here does not lock the user out elsewhere."""
    throttle = Throttle()
    failed(throttle, 50)
    assert throttle.delay("ada", THERE, 0.0) == 0.0
    assert throttle.delay("bob", THERE, 0.0) == 0.0


def test_many_names_from_one_address() -> None:
    """Names tried one after the other from one address are delayed, also new ones."""
    throttle = Throttle()
    for number in range(OF_ADDRESS.free):
        failed(throttle, 1, user=f"user{number}")
    assert throttle.delay("another", HERE, 0.0) == 0.0
    failed(throttle, 1, user="one more")
    assert throttle.delay("another", HERE, 0.0) == OF_ADDRESS.first


def test_own_account_does_not_clear_the_address() -> None:
    """Who guesses others' passwords cannot reset the address by logging in with its own."""
    throttle = Throttle()
    failed(throttle, OF_ADDRESS.free + 3)
    throttle.succeeded("mallory", HERE, 0.0)
    assert throttle.delay("bob", HERE, 0.0) > 0.0


def test_known_user_waits_for_its_own_failures_alone() -> None:
    """A right password makes a user known at its address; guesses at others do not delay it."""
    throttle = Throttle()
    throttle.succeeded("ada", HERE, 0.0)
    for number in range(100):
        failed(throttle, 1, user=f"user{number}")
    assert throttle.delay("bob", HERE, 0.0) == OF_ADDRESS.longest
    assert throttle.delay("ada", HERE, 0.0) == 0.0
    failed(throttle, OF_USER.free + 1)
    assert throttle.delay("ada", HERE, 0.0) == OF_USER.first


def test_known_users_are_bounded() -> None:
    """So many are known and no more; who logged in last stays, for thirty days."""
    throttle = Throttle(most=3)
    for number in range(10):
        throttle.succeeded(f"user{number}", HERE, 0.0)
        throttle.succeeded("ada", HERE, 1.0)
    assert len(throttle) == 3
    assert not throttle.is_known("user0", HERE, 1.0)
    assert not throttle.is_known("ada", THERE, 1.0)
    assert throttle.is_known("ada", HERE, 1.0 + KNOWN_SECONDS)
    assert not throttle.is_known("ada", HERE, 2.0 + KNOWN_SECONDS)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.1.0.1", "10.1.0.1", True),
        ("10.1.0.1", "10.1.0.2", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("127.0.0.1", "127.9.9.9", True),
        ("127.0.0.1", "::1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("", "?", False),
    ],
)
def test_networks(one: str, other: str, same: bool) -> None:
    """What one peer can have all of counts as one: loopback, and a /64 network of IPv6."""
    assert (network_of(one) == network_of(other)) is same


def test_table_is_bounded() -> None:
    """It holds so many entries and no more; what was touched last stays."""
    throttle = Throttle(most=3)
    failed(throttle, 5, user="first")
    for number in range(10):
        throttle.failed(f"user{number}", f"10.2.0.{number}", 0.0)
        failed(throttle, 1, user="first")
    assert len(throttle) == 6
    assert throttle.delay("first", HERE, 0.0) > 0.0


curves = st.builds(
    Curve,
    free=st.integers(0, 20),
    first=st.floats(0.01, 10),
    longest=st.floats(10, 100),
    forget=st.floats(1, 1000),
)


@given(curves, st.floats(0, 1e9), st.floats(0, 1e9))
def test_curve(curve: Curve, one: float, other: float) -> None:
    """More failures never make the delay shorter, and it has an end."""
    low, high = sorted((one, other))
    assert 0.0 <= curve.seconds(low) <= curve.seconds(high) <= curve.longest
    assert curve.seconds(curve.free) == 0.0


class ThrottleMachine(RuleBasedStateMachine):
    """A throttle against a list of all failures, counted anew at each look."""

    USERS = ("ada", "bob")
    ADDRESSES = (HERE, THERE)

    def __init__(self) -> None:
        super().__init__()
        self.throttle = Throttle()
        self.now = 0.0
        self.of_user: dict[tuple[str, str], list[float]] = {}
        self.of_address: dict[str, list[float]] = {}
        self.known: dict[tuple[str, str], float] = {}

    @rule(user=st.sampled_from(USERS), address=st.sampled_from(ADDRESSES), count=st.integers(1, 9))
    def fail(self, user: str, address: str, count: int) -> None:
        for _ in range(count):
            self.throttle.failed(user, address, self.now)
            self.of_user.setdefault((user, address), []).append(self.now)
            self.of_address.setdefault(address, []).append(self.now)

    @rule(user=st.sampled_from(USERS), address=st.sampled_from(ADDRESSES))
    def succeed(self, user: str, address: str) -> None:
        self.throttle.succeeded(user, address, self.now)
        self.of_user.pop((user, address), None)
        self.known[user, address] = self.now

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 30.0, 100.0, 1000.0, KNOWN_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def delays_are_those_of_the_list(self) -> None:
        for user in self.USERS:
            for address in self.ADDRESSES:
                until = self.until(OF_USER, self.of_user.get((user, address), []))
                known = self.known.get((user, address))
                if known is None or self.now - known > KNOWN_SECONDS:
                    until = max(until, self.until(OF_ADDRESS, self.of_address.get(address, [])))
                expected = max(0.0, until - self.now)
                assert self.throttle.delay(user, address, self.now) == pytest.approx(expected)

    @staticmethod
    def until(curve: Curve, failures: list[float]) -> float:
        left, last, until = 0.0, 0.0, 0.0
        for moment in failures:
            left = max(0.0, left - (moment - last) / curve.forget) + 1
            last = moment
            until = max(until, moment + curve.seconds(left))
        return until


TestThrottleMachine = ThrottleMachine.TestCase
TestThrottleMachine.settings = settings(max_examples=40, deadline=None)
