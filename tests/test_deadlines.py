"""What is overdue in a table is found, compared with looking at everything each time."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.deadlines import GRANULARITY, Deadlines

ROUNDING = 1e-9

MOMENTS = st.floats(0.0, 1.0).map(lambda moment: round(moment, 3))

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), MOMENTS),
        st.tuples(st.just("remove"), st.integers(0, 30)),
        st.tuples(st.just("look"), MOMENTS),
    ),
    max_size=60,
)


def thing(deadline: float) -> SimpleNamespace:
    return SimpleNamespace(deadline=deadline)


@given(steps=STEPS, grace=st.sampled_from([0.0, 0.05]))
def test_what_is_overdue_is_found(steps: list[tuple[str, float]], grace: float) -> None:
    """A look finds all that is overdue and nothing else, at most GRANULARITY late."""
    deadlines = Deadlines(grace)
    table: dict[int, SimpleNamespace] = {}
    now = 0.0
    looked = -math.inf
    for number, (step, value) in enumerate(steps):
        if step == "add":
            table[number] = thing(now + value)
            deadlines.add(now + value)
        elif step == "remove":
            table.pop(int(value), None)
        else:
            now += value
            overdue = {key: now - item.deadline - grace for key, item in table.items()}
            found = deadlines.overdue(table, now)
            assert len(found) == len(set(found))
            assert all(overdue[key] >= -ROUNDING for key in found)
            if now >= looked + GRANULARITY:
                assert all(key in found for key, late in overdue.items() if late > ROUNDING)
            looked = now
            for key in found:
                del table[key]
        assert all(
            deadlines.next <= max(item.deadline + grace, looked + GRANULARITY) + ROUNDING
            for item in table.values()
        )


def test_nothing_is_looked_at_before_its_time() -> None:
    """Until the earliest deadline the table is not even iterated."""

    class Untouchable(dict[int, SimpleNamespace]):
        def items(self) -> object:  # type: ignore[override]
            raise AssertionError("the table was looked through")

    deadlines = Deadlines()
    deadlines.add(5.0)
    assert deadlines.overdue(Untouchable(), 4.999) == []
    with pytest.raises(AssertionError, match="looked through"):
        deadlines.overdue(Untouchable(), 5.0)


def test_an_empty_table_waits_for_nothing() -> None:
    """After the last thing is gone there is no next moment."""
    deadlines = Deadlines()
    assert deadlines.next == math.inf
    deadlines.add(1.0)
    assert deadlines.overdue({}, 2.0) == []
    assert deadlines.next == math.inf


def test_the_grace_counts() -> None:
    """With a grace, a thing is overdue that much after its deadline."""
    deadlines = Deadlines(0.5)
    table = {1: thing(1.0)}
    deadlines.add(1.0)
    assert deadlines.next == 1.5
    assert deadlines.overdue(table, 1.49) == []
    assert deadlines.overdue(table, 1.5) == [1]
