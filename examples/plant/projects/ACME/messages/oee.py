"""The OEE of a shift, computed by the project's library, which is there without import."""

from dataclasses import dataclass


@dataclass
class Production:
    """What a line did in a shift; times in minutes."""

    planned: float
    running: float
    made: int
    good: int
    per_minute: float


def handleMessage(payload: Production) -> dict[str, float]:
    minutes = lines.oee.Shift(payload.planned, payload.running)
    return lines.oee.of_shift(
        minutes, made=payload.made, good=payload.good, per_minute=payload.per_minute
    )
