"""A queue in which no session stands before another one with all that it asked for."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from headgate.invocation import Invocation

if TYPE_CHECKING:
    from headgate.runtimes.gate import Gate

__all__ = ["FairQueue"]


class FairQueue:
    """
    Invocations in a line for each session; the lines take turns.

    Within a session the order is that of arrival. What a handler asks for stands in the line of
    the session that its chain began with. It belongs to one thread.
    """

    __slots__ = ("_length", "_lines")

    def __init__(self) -> None:
        self._lines: OrderedDict[str, OrderedDict[Invocation, Gate]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, invocation: Invocation) -> bool:
        return invocation in self._lines.get(invocation.caller.session, ())

    def put(self, invocation: Invocation, gate: Gate) -> None:
        """Put an invocation at the end of its session's line."""
        line = self._lines.get(invocation.caller.session)
        if line is None:
            line = self._lines[invocation.caller.session] = OrderedDict()
        line[invocation] = gate
        self._length += 1

    def put_back(self, invocation: Invocation, gate: Gate) -> None:
        """Put an invocation at the front of its session's line."""
        self.put(invocation, gate)
        self._lines[invocation.caller.session].move_to_end(invocation, last=False)

    def pop(self) -> tuple[Invocation, Gate]:
        """
        Take the first of the line whose turn it is.

        Raises:
            KeyError: The queue is empty.
        """
        session, line = self._lines.popitem(last=False)
        taken = line.popitem(last=False)
        self._length -= 1
        if line:
            self._lines[session] = line
        return taken

    def remove(self, invocation: Invocation) -> bool:
        """Take an invocation out; False if it is not there."""
        session = invocation.caller.session
        line = self._lines.get(session)
        if line is None or line.pop(invocation, None) is None:
            return False
        self._length -= 1
        if not line:
            del self._lines[session]
        return True

    def gates(self) -> list[Gate]:
        """Return the gate of each invocation; from any thread."""
        return [gate for line in list(self._lines.values()) for gate in list(line.values())]

    def clear(self) -> None:
        """Forget everything."""
        self._lines.clear()
        self._length = 0
