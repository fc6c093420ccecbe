"""The queue in which sessions take turns."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.invocation import HIGH, LOW, NORMAL, Caller, Invocation
from headgate.runtimes.fair import MOST_PASSED, FairQueue

GATE: Any = object()


def invocation(session: str, number: int, priority: int = NORMAL) -> Invocation:
    caller = Caller("somebody", session=session)
    return Invocation(caller, "ACME", "test", b"", 0.0, GATE, session, number, priority=priority)


class TestTurns:
    def test_sessions_take_turns(self) -> None:
        """After one of a session comes one of the next, however many the first has waiting."""
        queue = FairQueue()
        for session, count in (("a", 5), ("b", 2), ("c", 1)):
            for number in range(count):
                queue.put(invocation(session, number), GATE)
        order = [queue.pop()[0] for _ in range(8)]
        assert "".join(i.origin for i in order) == "abcabaaa"

    def test_what_is_put_back_is_the_next_of_its_session(self) -> None:
        """Taking something back does not change the order within a session."""
        queue = FairQueue()
        items = [invocation("a", number) for number in range(3)]
        for item in items[1:]:
            queue.put(item, GATE)
        queue.put_back(items[0], GATE)
        assert [queue.pop()[0] for _ in range(3)] == items

    def test_higher_priorities_go_first_but_starve_nobody(self) -> None:
        """Of eight one is of a lower priority, while some of them wait; of 64 one is low."""
        queue = FairQueue()
        for number in range(200):
            for priority in (LOW, NORMAL, HIGH):
                queue.put(invocation("a", number, priority), GATE)
        order = "".join("nhl"[queue.pop()[0].priority] for _ in range(128))
        assert order == (("hhhhhhhn" * 7) + "hhhhhhhl") * 2

    def test_each_priority_has_turns_of_its_own(self) -> None:
        """Sessions take turns within a priority; the last one left of a priority waits for none."""
        queue = FairQueue()
        for session, count, priority in (("a", 3, HIGH), ("b", 1, HIGH), ("c", 2, LOW)):
            for number in range(count):
                queue.put(invocation(session, number, priority), GATE)
        assert "".join(queue.pop()[0].origin for _ in range(6)) == "abaacc"


class Model:
    """The same in a few lists, without a thought of speed."""

    def __init__(self) -> None:
        self.lines: list[list[Invocation]] = []
        self.passed = {HIGH: 0, NORMAL: 0}

    def put(self, item: Invocation, at_front: bool) -> None:
        for line in self.lines:
            if (line[0].origin, line[0].priority) == (item.origin, item.priority):
                line.insert(0 if at_front else len(line), item)
                return
        self.lines.append([item])

    def pop(self) -> Invocation:
        priority = self.next_priority()
        line = next(line for line in self.lines if line[0].priority == priority)
        self.lines.remove(line)
        item = line.pop(0)
        if line:
            self.lines.append(line)
        return item

    def next_priority(self) -> int:
        *higher, lowest = sorted({line[0].priority for line in self.lines}, reverse=True)
        for priority in higher:
            self.passed[priority] += 1
            if self.passed[priority] <= MOST_PASSED:
                return priority
            self.passed[priority] = 0
        return lowest

    def remove(self, item: Invocation) -> bool:
        for line in self.lines:
            if item in line:
                line.remove(item)
                self.lines = [line for line in self.lines if line]
                return True
        return False


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put_back", "pop", "remove"]),
        st.sampled_from("abc"),
        st.sampled_from([LOW, NORMAL, HIGH]),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_it_does_what_its_model_does(steps: list[tuple[str, str, int]]) -> None:
    """Whatever is put, taken and removed in whatever order, the two agree."""
    queue, model, made = FairQueue(), Model(), []
    for number, (step, session, priority) in enumerate(steps):
        if step in ("put", "put_back"):
            made.append(invocation(session, number, priority))
            (queue.put if step == "put" else queue.put_back)(made[-1], GATE)
            model.put(made[-1], step == "put_back")
        elif step == "pop" and model.lines:
            assert queue.pop()[0] is model.pop()
        elif step == "remove" and made:
            item = made[number % len(made)]
            assert (item in queue) == any(item in line for line in model.lines)
            assert queue.remove(item) == model.remove(item)
        assert len(queue) == len(queue.gates()) == sum(map(len, model.lines))
