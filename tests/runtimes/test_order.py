"""The gate that keeps calls in order by a key of their payloads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headgate.errors import Overloaded, PayloadError
from headgate.handler import HandlerSettings, Signature
from headgate.invocation import HIGH, LOW, NORMAL, Caller, Fate, Invocation
from headgate.runtimes.gate import MOST_ABANDONED, Gate
from headgate.runtimes.order import ALL, OrderedGate
from headgate.wire.codec import encode

NOBODY: Any = None

KEYS = [1, 2, "a", None]
SAME = [1, 1.0, True]
"""Three ways to write one key."""


class Handler(NamedTuple):
    """A function as a runtime wants it."""

    function: Any = print
    name: str = "test"
    project: str = "P"
    settings: HandlerSettings = HandlerSettings()
    signature: Signature = Signature()


class Track:
    """A lane whose runs begin and end when the test says so."""

    has_backlog = False

    def __init__(self, *, has_threads: bool) -> None:
        self.has_threads = has_threads
        self.is_stuck = False
        self.waiting: dict[Invocation, Gate] = {}
        self.running: list[Invocation] = []
        self.threads: Sequence[Any] = ()
        self.runs: list[Any] = []

    @property
    def queued(self) -> list[Gate]:
        return list(self.waiting.values())

    def put(self, invocation: Invocation, gate: Gate) -> None:
        assert invocation not in self.waiting
        assert not invocation.started_at
        self.waiting[invocation] = gate

    def refill(self) -> None:
        raise AssertionError("there is no backlog")

    def remove(self, invocation: Invocation) -> bool:
        return self.waiting.pop(invocation, None) is not None

    def interrupt(self, invocation: Invocation) -> bool:
        return not self.has_threads

    def lend(self) -> None:
        """It has places without end."""

    def take_back(self) -> None:
        """It has places without end."""

    def begin(self, invocation: Invocation) -> None:
        del self.waiting[invocation]
        invocation.started_at = 1.0
        self.running.append(invocation)


def gate_of(lane: Track, key: str, *, concurrency: int | None, queue: int) -> OrderedGate:
    return OrderedGate(
        Handler(settings=HandlerSettings(queue=queue)),
        lane,
        concurrency=concurrency,
        places=concurrency or 4,
        hung=set(),
        key=key,
        ends=NOBODY,
        on_wait=NOBODY,
    )


def invocation_of(payload: Any, *, session: str = "a", priority: int = NORMAL) -> Invocation:
    caller = Caller("somebody", session=session)
    return Invocation(caller, "P", "test", encode(payload), 1e9, NOBODY, priority=priority)


class Ordered(RuleBasedStateMachine):
    """
    Calls that arrive, begin, end and are cancelled in whatever order.

    `lines` is the model: what is under way, by key, in the order of arrival.
    """

    key = "line"
    has_threads = True

    def __init__(self) -> None:
        super().__init__()
        self.lane = Track(has_threads=self.has_threads)
        self.concurrency: int | None = None
        self.gate = gate_of(self.lane, self.key, concurrency=None, queue=20)
        self.lines: dict[Any, list[Invocation]] = {}
        self.keys: dict[Invocation, Any] = {}
        self.cancelled: set[Invocation] = set()

    def among(self, data: st.DataObject, found: Sequence[Invocation]) -> Invocation:
        return found[data.draw(st.integers(0, len(found) - 1))]

    @property
    def under_way(self) -> list[Invocation]:
        return [invocation for line in self.lines.values() for invocation in line]

    @rule(
        key=st.sampled_from([*KEYS, *SAME]),
        session=st.sampled_from("abc"),
        priority=st.sampled_from([LOW, NORMAL, HIGH]),
    )
    def arrive(self, key: Any, session: str, priority: int) -> None:
        invocation = invocation_of({"line": key}, session=session, priority=priority)
        limit = 20 + (self.concurrency or 4)
        if len(self.under_way) >= limit:
            with pytest.raises(Overloaded, match=f"{len(self.under_way)} calls"):
                self.gate(invocation)
            return
        self.gate(invocation)
        self.keys[invocation] = key if self.key else None
        self.lines.setdefault(self.keys[invocation], []).append(invocation)

    @precondition(lambda self: self.lane.waiting)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        invocation = self.among(data, list(self.lane.waiting))
        # Strictly in order, and never two of a key: all that came before it is over.
        assert self.lines[self.keys[invocation]][0] is invocation
        self.lane.begin(invocation)

    @precondition(lambda self: self.lane.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        invocation = self.among(data, self.lane.running)
        self.lane.running.remove(invocation)
        self.gate.finished(invocation)
        self.forget(invocation)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        invocation = self.among(data, self.under_way)
        if invocation in self.cancelled or len(self.cancelled) >= MOST_ABANDONED - 1:
            return
        begun = invocation in self.lane.running
        fate = self.gate.withdraw(invocation)
        assert fate == (Fate.STILL_RUNNING if begun else Fate.NOT_STARTED)
        if begun:
            self.cancelled.add(invocation)
        else:
            self.forget(invocation)

    @rule(concurrency=st.integers(1, 5))
    @precondition(lambda self: self.concurrency is not None)
    def renew(self, concurrency: int) -> None:
        self.concurrency = concurrency
        handler = Handler(settings=HandlerSettings(queue=20))
        self.gate.renew(handler, concurrency=concurrency, places=concurrency)

    def forget(self, invocation: Invocation) -> None:
        self.cancelled.discard(invocation)
        line = self.lines[self.keys.pop(invocation)]
        line.remove(invocation)

    @invariant()
    def all_that_may_go_on_does(self) -> None:
        ahead = [line[0] for line in self.lines.values() if line]
        let_in = [*self.lane.waiting, *self.lane.running]
        assert set(let_in) <= set(ahead)
        if self.concurrency is None:
            assert len(let_in) == len(ahead)
        else:
            assert len(let_in) >= min(len(ahead), self.concurrency)
        assert self.gate.waiting == len(self.under_way) - len(let_in)
        assert self.gate.under_way == len(self.under_way)

    @invariant()
    def what_waits_for_its_key_waits_for_who_has_it(self) -> None:
        for line in self.lines.values():
            for invocation in line[1:]:
                assert self.gate.holders(invocation) == [line[0]]

    def teardown(self) -> None:
        while self.under_way:
            for invocation in list(self.lane.waiting):
                self.lane.begin(invocation)
            assert self.lane.running, "nobody goes on"
            for invocation in list(self.lane.running):
                self.lane.running.remove(invocation)
                self.gate.finished(invocation)
                self.forget(invocation)
            self.all_that_may_go_on_does()
        lines = self.gate._lines
        left = [lines._keys, lines._first, lines._behind, self.gate._active, self.gate._hung]
        assert not any(left)


class Limited(Ordered):
    """The same with a limit on concurrency."""

    has_threads = False

    def __init__(self) -> None:
        super().__init__()
        self.concurrency = 2
        self.gate = gate_of(self.lane, self.key, concurrency=2, queue=20)

    @invariant()
    def the_limit_holds(self) -> None:
        # A lower one of a newer generation holds for what begins after it.
        assert len(self.gate._active) <= 5


class OneLine(Limited):
    """The same with one order for all, as a Dedicated handler has."""

    key = ALL


for machine in (Ordered, Limited, OneLine):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestOrdered, TestLimited, TestOneLine = Ordered.TestCase, Limited.TestCase, OneLine.TestCase


class TestRefusals:
    @pytest.mark.parametrize("payload", [None, [1], {}, {"Line": 1}, {"line": [1]}, {"line": {}}])
    def test_a_payload_without_a_key(self, payload: Any) -> None:
        """It is refused before anything is counted, and the error names the place."""
        lane = Track(has_threads=True)
        gate = gate_of(lane, "line", concurrency=None, queue=5)
        with pytest.raises(PayloadError, match=r"payload\['line'\]") as caught:
            gate(invocation_of(payload))
        assert caught.value.started is False
        assert caught.value.place == "payload['line']"
        assert gate.under_way == gate.waiting == 0
        assert not lane.waiting
