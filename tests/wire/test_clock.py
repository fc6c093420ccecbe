"""How long messages were under way is judged without clocks that agree."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.wire.clock import WINDOW, TransitClock

OFFSETS = [0.0, 1e6, -1e6]


@pytest.mark.parametrize("offset", OFFSETS)
def test_time_in_buffers_counts(offset: float) -> None:
    """A message that waited on its way shows it, whatever the other clock says."""
    clock = TransitClock()
    assert clock.arrived(10.0, 10.0 + offset) == 0.0
    assert clock.arrived(11.0, 14.0 + offset) == pytest.approx(3.0)
    assert clock.arrived(15.0, 15.0 + offset) == pytest.approx(0.0)


@pytest.mark.parametrize("offset", OFFSETS)
def test_half_of_the_fastest_round_trip_is_added(offset: float) -> None:
    """The fastest message was under way for half of the fastest round trip."""
    clock = TransitClock()
    clock.round_trip(0.4)
    clock.round_trip(0.2)
    clock.round_trip(0.8)
    assert clock.arrived(10.0, 10.1 + offset) == pytest.approx(0.1)
    assert clock.arrived(11.0, 11.6 + offset) == pytest.approx(0.6)


def test_a_round_trip_of_nothing_is_the_fastest() -> None:
    """Where the clock is too coarse to see a round trip, later ones do not count."""
    clock = TransitClock()
    clock.round_trip(0.0)
    clock.round_trip(0.5)
    assert clock.arrived(1.0, 1.0) == 0.0


@pytest.mark.parametrize("seconds", [-5.0, -math.inf, math.inf, math.nan])
def test_an_impossible_round_trip_does_no_harm(seconds: float) -> None:
    """A peer that answers pings with nonsense cannot make a message older than it is."""
    clock = TransitClock()
    clock.round_trip(seconds)
    assert clock.arrived(1.0, 1.0) == 0.0


def test_the_first_message_is_taken_as_fast() -> None:
    """Before anything is known a message counts as just sent."""
    assert TransitClock().arrived(123.0, 456.0) == 0.0


def test_a_drifting_clock_is_followed() -> None:
    """When the sender's clock falls behind, old samples do not make new messages look old."""
    clock = TransitClock()
    drift = 0.001
    for second in range(int(20 * WINDOW)):
        transit = clock.arrived(second * (1 - drift), float(second))
        assert transit <= 2 * WINDOW * drift + 1e-6


@given(
    offset=st.floats(-1e6, 1e6),
    delays=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=50),
)
def test_the_estimate_is_never_too_large(offset: float, delays: list[float]) -> None:
    """The estimate is what the message waited beyond the fastest one, and never negative."""
    clock = TransitClock()
    for second, delay in enumerate(delays):
        transit = clock.arrived(float(second), second + delay + offset)
        assert -1e-6 <= transit <= delay + 1e-6
        assert transit == pytest.approx(delay - min(delays[: second + 1]), abs=1e-6)
