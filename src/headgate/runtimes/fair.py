"""A queue in which no session stands before another one with all that it asked for."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from headgate.invocation import HIGH, LOW, NORMAL, Invocation

if TYPE_CHECKING:
    from headgate.runtimes.gate import Gate

__all__ = ["MOST_PASSED", "FairQueue"]

MOST_PASSED = 7
"""Invocations that are taken one after the other while some of a lower priority wait."""

Lines = OrderedDict[str, OrderedDict[Invocation, "Gate"]]
"""Invocations in a line for each session."""


class FairQueue:
    """
    Invocations in a line for each session; the lines take turns.

    Within a session the order is that of arrival. What a handler asks for stands in the line of
    the session that its chain began with. It belongs to one thread.

    Higher priorities go first, in lines of their own, but not all of them: after `MOST_PASSED` one
    of a lower priority has its turn. So of any eight that are taken while all three wait one is
    normal or low, and of any 64 one is low.
    """

    __slots__ = ("_length", "_lines", "_passed", "_ranked")

    def __init__(self) -> None:
        self._lines: Lines = OrderedDict()
        self._ranked: dict[int, Lines] = {}
        """The lines of high and low priority, while there are any."""
        self._passed = {HIGH: 0, NORMAL: 0}
        """How many of a priority were taken since one of a lower one had its turn."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, invocation: Invocation) -> bool:
        return invocation in self._lines_of(invocation).get(invocation.caller.session, ())

    def put(self, invocation: Invocation, gate: Gate) -> None:
        """Put an invocation at the end of its session's line."""
        lines = self._lines
        if invocation.priority:
            lines = self._ranked.setdefault(_rank(invocation), OrderedDict())
        line = lines.get(invocation.caller.session)
        if line is None:
            line = lines[invocation.caller.session] = OrderedDict()
        line[invocation] = gate
        self._length += 1

    def put_back(self, invocation: Invocation, gate: Gate) -> None:
        """Put an invocation at the front of its session's line."""
        self.put(invocation, gate)
        self._lines_of(invocation)[invocation.caller.session].move_to_end(invocation, last=False)

    def pop(self) -> tuple[Invocation, Gate]:
        """
        Take the first of the line whose turn it is.

        Raises:
            KeyError: The queue is empty.
        """
        lines = self._next_lines() if self._ranked else self._lines
        session, line = lines.popitem(last=False)
        taken = line.popitem(last=False)
        self._length -= 1
        if line:
            lines[session] = line
        elif not lines and lines is not self._lines:
            del self._ranked[_rank(taken[0])]
        return taken

    def remove(self, invocation: Invocation) -> bool:
        """Take an invocation out; False if it is not there."""
        lines, session = self._lines_of(invocation), invocation.caller.session
        line = lines.get(session)
        if line is None or line.pop(invocation, None) is None:
            return False
        self._length -= 1
        if not line:
            del lines[session]
            if not lines and lines is not self._lines:
                del self._ranked[_rank(invocation)]
        return True

    def gates(self) -> list[Gate]:
        """Return the gate of each invocation; from any thread."""
        ranked = [*list(self._ranked.values()), self._lines]
        lines = [line for each in ranked for line in list(each.values())]
        return [gate for line in lines for gate in list(line.values())]

    def clear(self) -> None:
        """Forget everything."""
        self._lines.clear()
        self._ranked.clear()
        self._length = 0

    def _lines_of(self, invocation: Invocation) -> Lines:
        """Return the lines of an invocation's priority; empty ones if it has none."""
        if not invocation.priority:
            return self._lines
        return self._ranked.get(_rank(invocation)) or OrderedDict()

    def _next_lines(self) -> Lines:
        """Return the lines of the priority whose turn it is."""
        everything = {HIGH: self._ranked.get(HIGH), NORMAL: self._lines, LOW: self._ranked.get(LOW)}
        waiting = {priority: lines for priority, lines in everything.items() if lines}
        *higher, lowest = waiting
        for priority in higher:
            if self._passed[priority] < MOST_PASSED:
                self._passed[priority] += 1
                return waiting[priority]
            self._passed[priority] = 0
        return waiting[lowest]


def _rank(invocation: Invocation) -> int:
    return HIGH if invocation.priority > 0 else LOW
