"""Overall equipment effectiveness: availability x performance x quality."""

from typing import NamedTuple


class Shift(NamedTuple):
    """Minutes of a shift: planned for production, and those in which the line ran."""

    planned: float
    running: float


def of_shift(shift, *, made, good, per_minute):
    """Return the OEE and its three factors, each from 0 to 1; `per_minute` is the ideal speed."""
    availability = shift.running / shift.planned
    performance = made / (shift.running * per_minute)
    quality = good / made
    return {
        "oee": round(availability * performance * quality, 3),
        "availability": round(availability, 3),
        "performance": round(performance, 3),
        "quality": round(quality, 3),
    }


def of_hour(hour):
    """Return the OEE of an hour; it stands for a query of the historian."""
    return round(0.62 + 0.04 * (hour * 7 % 5), 2)
