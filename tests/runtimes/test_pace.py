"""When it is sensible to try again where too many waited."""

from __future__ import annotations

import pytest

from headgate.runtimes.pace import EVERY, LEAST, MOST, Pace


def retry_after(pace: Pace, now: float, *, limit: int = 100, running: int = 1) -> float | None:
    return pace.retry_after(now, limit=limit, running=lambda: running)


def paced(seconds: float) -> Pace:
    pace = Pace()
    pace.note(seconds)
    return pace


class TestRetryAfter:
    def test_nobody_knows_before_a_run_has_ended(self) -> None:
        """A guess would be taken for knowledge."""
        assert retry_after(Pace(), 5.0) is None

    @pytest.mark.parametrize(("running", "seconds"), [(1, 2.0), (4, 0.5)])
    def test_it_is_the_time_in_which_one_ends(self, running: int, seconds: float) -> None:
        """Runs of two seconds make room every two seconds, four at a time four times as often."""
        assert retry_after(paced(2.0), 100.0, running=running) == pytest.approx(seconds)

    def test_not_all_are_told_of_the_same_place(self) -> None:
        """Whoever is refused after another one is told of the place after that one's."""
        pace = paced(2.0)
        told = [retry_after(pace, 100.0) for _ in range(3)]
        assert told == pytest.approx([2.0, 4.0, 6.0])
        assert retry_after(pace, 104.0) == pytest.approx(4.0)
        assert retry_after(pace, 200.0) == pytest.approx(2.0)

    def test_no_later_than_all_that_is_under_way(self) -> None:
        """When everything is over there is room for everybody."""
        pace = paced(2.0)
        assert max(retry_after(pace, 100.0, limit=5) or 0 for _ in range(50)) == pytest.approx(10.0)

    @pytest.mark.parametrize(("took", "told"), [(0.0001, LEAST), (3600.0, MOST)])
    def test_bounds(self, took: float, told: float) -> None:
        """Not at once, and not in an hour."""
        assert retry_after(paced(took), 100.0) == told

    def test_what_was_long_ago_counts_little(self) -> None:
        """A handler that has become quick is known to be quick after some runs."""
        pace = paced(10.0)
        for _ in range(30):
            pace.note(0.1)
        assert retry_after(pace, 100.0) == pytest.approx(0.1, rel=0.1)


def test_quick_runs_are_seldom_looked_at() -> None:
    """They make room at once anyway; of slow ones each counts."""
    assert Pace().note(0.001) == EVERY
    assert Pace().note(0.5) == 1
